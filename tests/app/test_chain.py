"""A chain of stages: the same as separate runs by hand, in what it learns and in what it writes."""

import csv
import shutil
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from omegaconf import OmegaConf
from torch.utils.data import ConcatDataset, DataLoader, SubsetRandomSampler, TensorDataset

from lightning_mixcd import Pool, RehearsalCallback, RehearsalDataModule, record_ledger
from lightning_mixcd.app import chain
from lightning_mixcd.app.conf import make
from lightning_mixcd.app.run import configured_pairing
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.report.chains import read_chains
from lightning_mixcd.tasks import TensorDataModule, digits_task, mlp
from tests.app.composing import composed
from tests.toys import QUIET

NAMES = ["upright", "turned_90", "turned_180"]
SHORT = ["experiment=chain", "base.max_epochs=2", "trainer.max_epochs=3", "~stages.turned_270"]


def chained(folder, *overrides):
    (folder / "run").mkdir(exist_ok=True)
    return composed(folder / "run", *SHORT, *overrides)


def weights_after(folder, k):
    return torch.load(folder / "run" / "stages" / f"{k}_{NAMES[k]}" / "weights.pt", weights_only=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    return folder, chain.run_chain(chained(folder))


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """The tasks, and the modules before the first stage and after each, without the chain's code."""
    folder = tmp_path_factory.mktemp("hand")
    tasks = [digits_task(), digits_task(shift="rot90"), digits_task(shift="rot180")]
    seed_everything(0)
    module = mlp(n_inputs=64, n_classes=10)
    states = [{name: value.clone() for name, value in module.state_dict().items()}]
    Trainer(**QUIET, max_epochs=2, limit_val_batches=0).fit(module, datamodule=tasks[0])
    config = chained(folder)
    units = 0
    for k in (1, 2):
        states.append({name: value.clone() for name, value in module.state_dict().items()})
        pool = Pool(ConcatDataset([task.train for task in tasks[:k]]))
        ledger = record_ledger(module, pool, folder / str(k))
        callback = RehearsalCallback(make(config.strategy))
        data = RehearsalDataModule(tasks[k], pool, mix_ratio=0.125, ledger=ledger, order_seed=0)
        seed_everything(0)
        Trainer(**QUIET, callbacks=[callback], max_epochs=3).fit(module, datamodule=data)
        units += callback.compute_units
    states.append(dict(module.state_dict()))
    return tasks, states, units


def accuracy(state, data):
    module = mlp(n_inputs=64, n_classes=10)
    module.load_state_dict(state)
    x, y = data.tensors
    with torch.no_grad():
        return (module(x).argmax(1) == y).float().mean().item()


def test_weights_are_those_of_separate_runs(finished, by_hand):
    folder, _ = finished
    _, states, _ = by_hand
    for k in (1, 2):
        found = weights_after(folder, k)
        assert all(torch.equal(found[name], value) for name, value in states[k + 1].items())


def test_matrix_has_each_task_after_each_stage(finished, by_hand):
    folder, record = finished
    tasks, (initial, *states), units = by_hand
    for found, state in zip(record.accuracies, states, strict=True):
        assert found == pytest.approx([accuracy(state, task.val) for task in tasks])
    assert record.initial == pytest.approx([accuracy(initial, task.val) for task in tasks])
    assert record.tasks == NAMES
    assert record.compute_units == units
    assert read_chains(folder) == [record]
    with (folder / "run" / "matrix.csv").open(newline="") as file:
        head, before, *rows = csv.reader(file)
    assert head == ["stage", *NAMES]
    assert [row[0] for row in rows] == NAMES
    assert [[float(cell) for cell in row[1:]] for row in [before, *rows]] == [
        record.initial,
        *record.accuracies,
    ]
    assert (folder / "run" / "matrix.png").read_bytes().startswith(b"\x89PNG")


def test_pool_of_a_stage_is_what_all_earlier_ones_learnt_from(finished):
    folder, _ = finished
    second = Ledger.open(folder / "run" / "stages" / "2_turned_180" / "base.ledger")
    assert second.column("stage").tolist() == 600 * ["upright"] + 350 * ["turned_90"]
    module = mlp(n_inputs=64, n_classes=10)
    module.load_state_dict(weights_after(folder, 1))
    second.verify_model(module)


def test_finished_chain_is_read_from_disk(finished, monkeypatch):
    folder, record = finished
    monkeypatch.setattr(chain, "_fit", lambda *_: pytest.fail("a finished stage was trained again"))
    assert chain.run_chain(chained(folder)) == record


class KilledError(Exception):
    pass


class Kill(Callback):
    """Dies at the start of a step, counted over all `fit`s; notes how many were made."""

    def __init__(self, at=None):
        self.at, self.steps = at, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.steps == self.at:
            raise KilledError
        self.steps += 1


@pytest.mark.parametrize("method", [["strategy=mixcd"], ["strategy=uniform", "penalty=kd"]])
def test_killed_chain_goes_on_from_its_checkpoint(tmp_path, monkeypatch, method):
    made = chain.callbacks

    def run(folder, kill):
        def deadly(config):
            rehearsal, others = made(config)
            return rehearsal, [*others, kill]

        monkeypatch.setattr(chain, "callbacks", deadly)
        return chain.run_chain(chained(folder, *method))

    # An epoch has 11 steps, a stage three epochs. Within the first epoch; then within the second, so that one
    # is done; at the end of the stage's last one; and in the second epoch of the next stage.
    for at in (5, 11 + 3, 11 + 10, 11 + 12):
        with pytest.raises(KilledError):
            run(tmp_path, Kill(at))
    last = Kill()
    record = run(tmp_path, last)
    assert last.steps == 2 * 11
    (whole := tmp_path / "whole").mkdir()
    shutil.copytree(tmp_path / "base", whole / "base")
    alone = run(whole, Kill())
    assert replace(record, seconds=0) == replace(alone, seconds=0)
    for k in (1, 2):
        once, twice = weights_after(whole, k), weights_after(tmp_path, k)
        assert all(torch.equal(once[name], twice[name]) for name in once)


# What `fit` does at its end: it takes an average of the weights over, here before `max_epochs`.
AT_END = [
    "weights=ema",
    "+trainer.callbacks.early._target_=lightning.pytorch.callbacks.EarlyStopping",
    "+trainer.callbacks.early.monitor=val/new/accuracy",
    "+trainer.callbacks.early.mode=min",
    "+trainer.callbacks.early.patience=1",
]


def test_chain_killed_while_a_stage_is_measured_is_the_one_left_alone(tmp_path, monkeypatch):
    measure, calls = chain._measure, []

    def deadly(*args):
        calls.append(args)
        if len(calls) == 3:  # after the initial model and the base model
            raise KilledError
        return measure(*args)

    (whole := tmp_path / "whole").mkdir()
    alone = chain.run_chain(chained(whole, *AT_END))
    shutil.copytree(whole / "base", tmp_path / "base")
    monkeypatch.setattr(chain, "_measure", deadly)
    with pytest.raises(KilledError):
        chain.run_chain(chained(tmp_path, *AT_END))

    record = chain.run_chain(chained(tmp_path, *AT_END))

    assert replace(record, seconds=0) == replace(alone, seconds=0)
    for k in (1, 2):
        once, twice = weights_after(whole, k), weights_after(tmp_path, k)
        assert all(torch.equal(once[name], twice[name]) for name in once)


def test_checkpoints_are_gone_when_their_stage_is_done(finished):
    folder, _ = finished
    assert not [*folder.rglob("*.ckpt")]


def test_folder_of_another_chain_is_refused(finished):
    folder, _ = finished
    with pytest.raises(
        ValueError, match=r"`hydra.run.dir` must be a new folder .* with another \['mix_ratio'\]"
    ):
        chain.run_chain(chained(folder, "mix_ratio=1"))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("wise_ft=[0,1]", r"must be empty for a chain, got \['wise_ft'\]"),
        ("ckpt_path=x.ckpt", r"must be empty for a chain, got \['ckpt_path'\]"),
        ("ledger=x.ledger", r"must be empty for a chain, got \['ledger'\]"),
    ],
)
def test_what_a_chain_cannot_do_is_refused(tmp_path, override, complaint):
    with pytest.raises(ValueError, match=complaint):
        chain.run_chain(chained(tmp_path, override))


def test_one_task_is_no_chain(tmp_path):
    overrides = ["~stages.turned_90", "~stages.turned_180"]
    with pytest.raises(ValueError, match=r"`stages` must hold at least two tasks, got \['upright'\]"):
        chain.run_chain(chained(tmp_path, *overrides))


def test_tasks_that_cannot_share_a_batch_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    tasks, odd = chain._tasks, TensorDataset(torch.zeros(40, 5, 5), torch.zeros(40, dtype=torch.int64))
    monkeypatch.setattr(
        chain, "_tasks", lambda config: {**tasks(config), NAMES[1]: TensorDataModule(odd, odd)}
    )
    monkeypatch.setattr(chain, "_measure", None)
    with pytest.raises(ValueError, match=r"can share a batch, but those of 'upright' .* and 'turned_90'"):
        chain.run_chain(chained(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_task_that_is_learnt_from_in_part_is_refused_before_anything_is_trained(tmp_path, monkeypatch, name):
    class InPart(TensorDataModule):
        def train_dataloader(self):
            return DataLoader(self.train, 32, sampler=SubsetRandomSampler(range(10)))

    data = digits_task()
    tasks = {known: InPart(data.train, data.val) if known == name else data for known in NAMES}
    monkeypatch.setattr(chain, "make", lambda stages: tasks)
    for work in (chain._run, lambda config, _: chain.chain_base(config)):
        with pytest.raises(TypeError, match=f"Task '{name}' of `stages`.* with sampler SubsetRandomSampler"):
            work(chained(tmp_path), tmp_path)


def test_tasks_may_let_go_of_their_data(finished, tmp_path, monkeypatch):
    class Freeing(TensorDataModule):
        def __init__(self, train, val):
            super().__init__(train, val)
            self.kept = train

        def setup(self, stage):
            if stage == "fit":
                self.train = self.kept

        def teardown(self, stage):
            self.train = None

    made = chain.make

    def freeing(node, **given):
        found = made(node, **given)
        if isinstance(found, dict) and [*found] == NAMES:
            return {name: Freeing(task.train, task.val) for name, task in found.items()}
        return found

    monkeypatch.setattr(chain, "make", freeing)
    folder, record = finished
    shutil.copytree(folder / "base", tmp_path / "base")
    assert replace(chain.run_chain(chained(tmp_path)), seconds=record.seconds) == record


def test_model_that_tells_a_new_task_from_a_prior_one_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(chain, "_base", None)
    sizes = ["model.n_inputs=64", "model.n_new=10", "model.n_prior=10"]
    with pytest.raises(TypeError, match=r"`model` must have one head for all tasks of a chain, got TwoHeads"):
        chain.run_chain(chained(tmp_path, "model=two_heads", *sizes))


def test_model_that_logs_no_accuracy_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(chain, "ACCURACY", "val/f1")
    with pytest.raises(
        ValueError, match=r"`model` must log `val/f1` in validation, but it did not for \['upr"
    ):
        chain.run_chain(chained(tmp_path))


def test_order_of_the_tasks_tells_chains_and_base_models_apart(finished, monkeypatch):
    folder, _ = finished
    config = chained(folder)
    config.stages = dict([*config.stages.items()][::-1])
    with pytest.raises(ValueError, match=r"has one with another \['stages'\]"):
        chain.run_chain(config)
    # Where one function makes all tasks, their order is in its arguments.
    monkeypatch.setattr(chain, "base_model", lambda config, _: OmegaConf.to_yaml(config.data, sort_keys=True))
    tasks, of = chain._tasks(chained(folder)), {}
    for names in (NAMES, NAMES[::-1]):
        config.stages = {"_target_": "made.elsewhere", "tasks": dict.fromkeys(names, "${seed}")}
        of[names[0]] = chain._base(config, {name: tasks[name] for name in names})
    assert of[NAMES[0]] != of[NAMES[-1]]


def test_chains_that_differ_in_later_tasks_share_their_base_model(finished, monkeypatch):
    folder, _ = finished
    config = chained(folder, "stages.turned_90.shift=flip")
    tasks = chain._tasks(config)
    _, ledger = chain._base(config, tasks)
    assert [ledger.parent] == [*(folder / "base").iterdir()]


def test_base_model_that_is_recorded_beforehand_is_that_of_the_chain(finished, monkeypatch):
    folder, _ = finished
    monkeypatch.setattr("lightning_mixcd.app.base._trained", lambda *_: pytest.fail("it was there already"))
    assert chain.chain_base(chained(folder)).parent in [*(folder / "base").iterdir()]


def test_chain_resumes_behind_a_stage_that_left_an_adapter_in_the_module(tmp_path):
    settings = ["adapter=lora", "adapter.lora.at_end=keep"]
    record = chain.run_chain(chained(tmp_path, *settings))
    assert any("lora" in name for name in weights_after(tmp_path, 1))
    shutil.rmtree(tmp_path / "run" / "stages" / "2_turned_180")

    again = chain.run_chain(chained(tmp_path, *settings))

    assert replace(again, seconds=record.seconds) == record


def test_pools_are_as_configured(tmp_path):
    config = chained(tmp_path, "num_workers=2", "lag=12", "pool_size=70")
    tasks = {"upright": digits_task(), "turned": digits_task(shift="rot90")}
    of_chain, columns = chain._pool(config, tasks, 2)
    of_run = configured_pairing(config).pool

    assert [(pool.num_workers, pool.lag, len(pool)) for pool in (of_chain, of_run)] == [(2, 12, 70)] * 2
    stages, places = columns["stage"], of_chain.dataset.indices
    assert stages.tolist() == ["upright" if place < 600 else "turned" for place in places]
    assert {*stages} == {"upright", "turned"}
