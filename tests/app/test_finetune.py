"""What a run of the app measures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf

from lightning_mixcd.app import chain, finetune
from lightning_mixcd.app.run import check_options
from lightning_mixcd.errors import CaptureError, LedgerError
from lightning_mixcd.learner import Learner
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.report.records import METRICS, read_records
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
        ("wise_ft='0.5'", "`wise_ft` must be a list of numbers, got '0.5'"),
        ("wise_ft=['0.5']", "`wise_ft` must be a list of numbers"),
        ("wise_ft=[0.5,0.5000001,1]", r"`wise_ft` must .* six digits, .* several for \['wise_ft_0.5'\]"),
        ("ledger=nowhere", "ledger"),
        ("+base.epochs=50", r"`base` must have no keys but .*'max_epochs'.*, got \['epochs'\]"),
        ("base.keep=logits", r"`base.keep` must be a list, got 'logits'. Take base.keep=\[logits\]"),
        ("base.keep=null", r"`base.keep` must be a list, got None. Take base.keep=\[\]"),
        ("base.keep=[hidden]", r"`keep` may hold \"features\" and \"logits\", got \['hidden'\]"),
        (
            "ckpt_path=nowhere.ckpt",
            "`ckpt_path` must be a checkpoint that is there, got /|must be empty for a chain",
        ),
        ("true_rates_every=-1", "`true_rates_every` must be at least 1, got -1"),
        ("true_rates_every=often", "`true_rates_every` must be a whole number, got 'often'"),
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["penalty=agem"], "`strategy` must be one that learns nothing .*got MixCD"),
        (
            ["strategy=head_probe", "base.keep=[logits]"],
            r"`base.keep` must have .* HeadProbe needs, but lacks \['features'\]. .*keep=\[logits,features\]",
        ),
        (["penalty=der", "base.keep=[]"], r"`base.keep` must have .* DER needs, but lacks \['logits'\]"),
        (["strategy=most_supportive"], r"`data` must have .* but lacks \['influence'\]. .* or a `ledger`"),
    ],
)
@pytest.mark.parametrize("run", [finetune.train, chain.run_chain], ids=["run", "chain"])
def test_what_does_not_go_together_is_refused_before_a_base_model_is_made(run, options, message, tmp_path):
    stages = ["experiment=chain"] if run is chain.run_chain else []
    with pytest.raises(ValueError, match=message):
        run(composed(tmp_path / "run", *stages, f"base_dir={tmp_path}/base", *options))
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("run", [finetune.train, chain.run_chain], ids=["run", "chain"])
def test_embedding_that_is_not_there_is_refused_before_a_base_model_is_trained(run, tmp_path):
    stages = ["experiment=chain", "base.keep=[features]"] if run is chain.run_chain else []
    options = [*stages, f"base_dir={tmp_path}/base", "base.embedding=network.9"]
    with pytest.raises(CaptureError, match="`embedding` must name a submodule, got"):
        run(composed(tmp_path / "run", *options))
    assert not [*tmp_path.glob("base/*/weights.pt")]


@pytest.mark.parametrize("options", [["strategy=most_supportive"], ["strategy=head_probe"]])
def test_given_ledger_that_lacks_a_column_is_refused_before_a_base_model_is_made(options, given, tmp_path):
    config = composed(tmp_path / "run", *options, given, f"base_dir={tmp_path}/base")
    with pytest.raises(ValueError, match=r"`ledger` must have .*, but lacks .* Give one that has them"):
        finetune.train(config)
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    "given", ["[{}]", "{{stopping: {}, none: null}}", "{}"], ids=["list", "mapping", "one"]
)
def test_callbacks_of_the_users_own_act_in_finetuning(given, tmp_path):
    target = "_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/new/accuracy"
    own = "+trainer.callbacks=" + given.format(f"{{{target}, patience: 1, min_delta: 1.0}}")
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


def test_log_of_an_earlier_run_is_not_taken_for_that_of_a_run_without_one(tmp_path):
    (log := tmp_path / "run" / METRICS).parent.mkdir(parents=True)
    log.write_text("step,rehearsal/damaged_share\n0,0.5\n")
    record = finetune.train(composed(tmp_path / "run", "base.max_epochs=1", "+trainer.fast_dev_run=true"))
    assert record.damaged_share is None
    assert not log.exists()


def test_damaged_share_is_of_all_rows_however_many_come_at_a_time(tmp_path, monkeypatch):
    outcomes, outcome = [], Learner._outcome
    monkeypatch.setattr(Learner, "_outcome", lambda self: outcomes.append(outcome(self)) or outcomes[-1])
    shrinking = [
        "schedule=warm_down",
        "schedule.steps=12",
        "strategy=uniform_correct",
        "trainer.log_every_n_steps=3",
    ]
    record = finetune.train(composed(tmp_path, "base.max_epochs=1", "trainer.max_epochs=2", *shrinking))
    right = np.concatenate([found.correct for found in outcomes])  # rows that the base model had right
    assert len({len(found.index) for found in outcomes}) > 2
    assert record.damaged_share == pytest.approx(1 - right.mean())


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_record_of_a_resumed_run_is_that_of_one_left_alone_but_for_the_time(tmp_path):
    short = ["base.max_epochs=1", "trainer.log_every_n_steps=3"]
    begun = finetune.train(composed(tmp_path / "begun", *short, "trainer.max_epochs=1"))
    [path] = (tmp_path / "begun").rglob("*.ckpt")
    assert begun.checkpoints == (path.relative_to(tmp_path / "begun").as_posix(),)
    whole = finetune.train(composed(tmp_path / "whole", *short, "trainer.max_epochs=2"))
    resumed = ["trainer.max_epochs=2", f"ckpt_path='{path}'"]
    record = finetune.train(composed(tmp_path / "resumed", *short, *resumed))
    assert whole.seconds > 0
    assert (record.steps, record.damaged_share) == (22, whole.damaged_share)
    assert replace(record, seconds=whole.seconds) == whole


def test_record_tells_what_options_of_the_data_came_to_whatever_the_seed(tmp_path, monkeypatch):
    def found(shift, *overrides):
        monkeypatch.setenv("SHIFT", shift)
        return finetune._data_hash(composed(tmp_path, "data.shift=${oc.env:SHIFT}", *overrides))

    assert found("rot90") == found("rot90", "seed=3") != found("flip")


@pytest.mark.parametrize("run", [finetune.train, chain.run_chain], ids=["run", "chain"])
def test_folder_in_which_another_run_is_at_work_is_left_alone(run, tmp_path):
    stages = ["experiment=chain"] if run is chain.run_chain else []
    (folder := tmp_path / "run").mkdir()
    (folder / "result.json").touch()
    message = r"`hydra.run.dir` must be a folder that no other run is writing to.*='\$\{hydra.job.num\}'"
    with FileLock(folder / "lock"), pytest.raises(RuntimeError, match=message):
        run(composed(folder, *stages, f"base_dir={tmp_path}/base"))
    assert {path.name for path in tmp_path.rglob("*")} == {"run", "lock", "result.json"}


def test_configuration_is_that_of_the_run_whatever_one_that_was_kept_out_wrote(tmp_path, monkeypatch):
    (known := tmp_path / ".hydra" / "config.yaml").parent.mkdir()
    monkeypatch.setattr(finetune, "_train", lambda *_, **__: known.write_text("seed: 7"))
    config = composed(tmp_path)
    finetune.train(config)
    assert OmegaConf.load(known) == config


@pytest.mark.parametrize("where", ["hydra.mode=MULTIRUN", "experiment=chain"])
def test_path_that_would_lead_the_runs_folder_elsewhere_is_refused(where, tmp_path):
    with pytest.raises(ValueError, match=r"must be without `\.\.`, got .*data_dir=../../x.*absolute"):
        check_options(
            composed(tmp_path, where, "hydra.job.config.override_dirname.exclude_keys=[]", "data_dir=../../x")
        )
    check_options(composed(tmp_path, "data_dir=../../x"))  # a folder of its own, named after the time


def test_sweep_that_each_device_would_start_again_is_refused(tmp_path):
    sweep = ["hydra.mode=MULTIRUN", "trainer.devices=2"]
    check_options(composed(tmp_path / "run", *sweep, "+trainer.strategy=ddp_spawn"))
    config = composed(tmp_path / "run", *sweep, "+trainer.strategy=ddp")
    with pytest.raises(ValueError, match=r"^`trainer.strategy` must be ddp_spawn or ddp_fork .*, got ddp:"):
        check_options(config)
