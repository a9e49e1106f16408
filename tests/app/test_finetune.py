"""What a run of the app measures."""

import numpy as np
import pytest
import torch

from lightning_mixcd.app import chain, finetune
from lightning_mixcd.app.run import check_options
from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.report.records import read_records
from lightning_mixcd.tasks import Classifier, Digits, mlp
from tests.app.composing import composed
from tests.processes import start


def accuracies(state):
    """On the validation sets of the prior and of the new task."""
    module, digits = mlp(n_inputs=64, n_classes=10), Digits.load()
    module.load_state_dict(state)
    with torch.no_grad():
        sets = [data.tensors for data in (digits.prior_test, digits.new_test)]
        return [(module(x).argmax(1) == y).float().mean().item() for x, y in sets]


def test_accuracies_are_those_of_the_weights_on_each_task(tmp_path):
    run = tmp_path / "run"
    finetune.train(composed(run, "base.max_epochs=2", "trainer.max_epochs=2", "wise_ft=[0]"))
    [finetuned], [base] = run.rglob("*.ckpt"), tmp_path.rglob("weights.pt")
    states = {
        run: torch.load(finetuned, weights_only=True)["state_dict"],
        run / "wise_ft_0": torch.load(base, weights_only=True),
    }
    for folder, record in read_records(run).items():
        assert [record.prior_accuracy, record.new_accuracy] == pytest.approx(accuracies(states[folder]))


@pytest.mark.parametrize("every", [2, 10], ids=["before the end", "never"])
def test_a_run_is_measured_at_its_end_whenever_it_is_validated(every, tmp_path):
    def measured(folder, *overrides):
        config = composed(tmp_path / folder, "base.max_epochs=1", "trainer.max_epochs=3", *overrides)
        record = finetune.train(config)
        return record.prior_accuracy, record.new_accuracy, record.compute_units, record.steps

    assert measured("seldom", f"+trainer.check_val_every_n_epoch={every}") == measured("always")


@pytest.mark.parametrize("every", [1, 10], ids=["in the first epoch", "at the end"])
def test_model_that_does_not_log_what_is_measured_is_refused(every, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "PRIOR", "val/prior/f1")
    often = f"+trainer.check_val_every_n_epoch={every}"
    with pytest.raises(ValueError, match=r"`model` must log \['val/prior/f1'\] in validation, but it logged"):
        finetune.train(composed(tmp_path, "base.max_epochs=1", "trainer.max_epochs=2", often))


def test_a_run_pays_for_the_ledger_of_what_it_may_rehearse(tmp_path):
    def units(folder, *overrides):
        config = composed(tmp_path / folder, "base.max_epochs=1", "trainer.max_epochs=1", *overrides)
        return finetune.train(config).compute_units

    assert units("part", "pool_size=100") == units("all") - 500


@pytest.fixture
def given(tmp_path):
    """A ledger of the whole pool, that of another base model."""
    arrays = {"correct": [True] * 600, "loss": [0.1] * 600, "features": np.zeros((600, 2), np.float16)}
    Ledger.from_arrays(**arrays).save(tmp_path / "given.ledger")
    return f"ledger={tmp_path}/given.ledger"


def test_ledger_that_is_given_is_the_only_one(given, tmp_path):
    record = finetune.train(composed(tmp_path / "run", "base.max_epochs=1", "trainer.max_epochs=1", given))
    assert record.steps == 11
    assert {path.parent.name for path in tmp_path.rglob("header.json")} == {"given.ledger"}


def test_ledger_of_more_than_is_rehearsed_is_refused_before_a_base_model_is_made(given, tmp_path):
    with pytest.raises(LedgerError, match=r"`pool` must be the one the ledger was made from.*600 vs 50"):
        finetune.train(composed(tmp_path / "run", given, "pool_size=50"))
    assert not (tmp_path / "base").exists()


def train_in_two(folder):
    two = ["trainer=ddp_cpu", "trainer.strategy=ddp_fork", "trainer.log_every_n_steps=1"]
    finetune.train(composed(folder, "base.max_epochs=1", "trainer.max_epochs=1", *two))


@pytest.mark.slow
def test_what_two_processes_counted_is_in_the_record(tmp_path):
    folder, printed = tmp_path / "run", [tmp_path / "out", tmp_path / "err"]
    child = start(train_in_two, folder, folder=tmp_path, printed=printed)
    child.join(120)
    child.kill()
    assert child.exitcode == 0, printed[1].read_text()
    [record] = read_records(folder).values()
    # 175 samples in each process, 43 rehearsed ones beside them; and the ledger.
    assert record.steps == 6
    assert record.compute_units == 600 + 3 * 2 * (175 + 43)
    assert record.damaged_share is not None


@pytest.mark.parametrize("run", [finetune.train, chain.run_chain], ids=["run", "chain"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("+trainer.limit_val_batches=0", "check_val_every_n_epoch"),
        ("+trainer.logger=false", "group `logger`"),
        ("+strategy.floor=2", "floor"),
        ("mix_ratio=-1", "mix_ratio"),
        ("wise_ft=[0,2]", "wise_ft"),
        ("ledger=nowhere", "ledger"),
    ],
)
def test_what_could_not_end_well_is_refused_before_anything_is_made(
    run, option, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    stages = ["experiment=chain"] if run is chain.run_chain else []
    with pytest.raises(Exception, match=message):
        run(composed(tmp_path / "run", *stages, f"base_dir={tmp_path}/base", option))
    assert not [*tmp_path.iterdir()]


def test_callbacks_of_the_users_own_act_in_finetuning(tmp_path):
    target = "_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/new/accuracy"
    own = f"+trainer.callbacks=[{{{target}, patience: 1, min_delta: 1.0}}]"
    record = finetune.train(composed(tmp_path / "run", "base.max_epochs=1", "wise_ft=[0]", own))
    assert record.steps == 22  # of two epochs


@pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists")
def test_a_run_that_is_made_again_leaves_no_record_of_the_first(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    short = ["base.max_epochs=1", "trainer.max_epochs=1", "trainer.enable_checkpointing=false"]
    finetune.train(composed(tmp_path / "run", *short, "wise_ft=[0]"))
    monkeypatch.setattr(Classifier, "training_step", fail)
    with pytest.raises(RuntimeError, match="memory"):
        finetune.train(composed(tmp_path / "run", *short))
    assert not [*tmp_path.rglob("result.json")]


def test_sweep_that_each_device_would_start_again_is_refused(tmp_path):
    sweep = ["hydra.mode=MULTIRUN", "trainer.devices=2"]
    check_options(composed(tmp_path / "run", *sweep, "+trainer.strategy=ddp_spawn"))
    config = composed(tmp_path / "run", *sweep, "+trainer.strategy=ddp")
    with pytest.raises(ValueError, match=r"^`trainer.strategy` must be ddp_spawn or ddp_fork .*, got ddp:"):
        check_options(config)
