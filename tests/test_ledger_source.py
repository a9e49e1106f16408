"""Columns that strategies and penalties need, in a ledger that is given or recorded at the start of `fit`."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_mixcd import (
    Auto,
    ClassBalanced,
    GDumbMemory,
    Grasp,
    GSSMemory,
    HeadProbe,
    HerdingMemory,
    LeastConfidence,
    Ledger,
    LedgerError,
    MixCD,
    MostSupportive,
    PredictedForgetting,
    Readout,
    RehearsalCallback,
    Uniform,
    record_ledger,
)
from lightning_mixcd.ledger import recording
from lightning_mixcd.partitions import ByCluster, ByColumn, ByLossQuantile, Product, Shuffled
from lightning_mixcd.penalties import DER
from tests.toys import Toy, finetune, ledger, pool, rehearsed, trainer


def fit(strategy, where, **settings):
    callback = RehearsalCallback(strategy, pool=pool(), ledger=where, mix_ratio=0.5, **settings)
    module = Toy()
    trainer(callback).fit(module, DataLoader(finetune(), 8))
    return module, callback


def without_labels(outputs, batch):
    return outputs["logits"][:, 0] > 0, outputs["logits"][:, 0].square()


@pytest.mark.parametrize(
    "make", [lambda: GDumbMemory(10), lambda: HerdingMemory(10), lambda: GSSMemory(10), Grasp]
)
def test_what_is_recorded_at_the_start_of_fit_serves_as_a_ledger_made_beforehand(make, tmp_path):
    here, first = fit(make(), tmp_path / "here")
    record_ledger(Toy(), pool(), tmp_path / "before", keep=["features", "logits"])
    before, second = fit(make(), tmp_path / "before")
    assert rehearsed(here) == rehearsed(before)
    assert first.compute_units == second.compute_units


def test_what_a_penalty_needs_is_recorded_too(tmp_path):
    fit(Uniform(), tmp_path / "here", penalties=[DER()])
    assert Ledger.open(tmp_path / "here").columns == ("correct", "loss", "label", "logits")


def test_recording_that_finds_no_labels_is_told_so_before_the_first_step(tmp_path):
    wanted = (
        r"must have the column `label`, because GDumbMemory needs it; has \['correct', 'loss'\]. "
        r"Add it, `ledger.with_columns\(label=...\)`"
    )
    for _ in range(2):  # in the recording's own run, and in one that finds it finished
        module, readout = Toy(), Readout(correctness=without_labels)
        callback = RehearsalCallback(GDumbMemory(10), pool=pool(), ledger=tmp_path / "here", readout=readout)
        with pytest.raises(ValueError, match=wanted):
            trainer(callback).fit(module, DataLoader(finetune(), 8))
        assert not module.seen
    _, y = pool().tensors
    fit(GDumbMemory(10), Ledger.open(tmp_path / "here").with_columns(label=y))


@pytest.mark.parametrize("name", ["features", "logits"])
def test_given_ledger_without_what_was_not_kept_is_refused(name):
    given = ledger().with_columns(**{name: torch.zeros(60, 3) for name in {"features", "logits"} - {name}})
    with pytest.raises(ValueError, match=rf"column `{name}`, because GSSMemory .*keep=\[\"{name}\"\]"):
        fit(GSSMemory(10), given)


def test_column_that_no_recording_finds_is_asked_for_before_anything_is_recorded(tmp_path):
    class ByGenre(Uniform):
        needs_columns = ("genre",)

    with pytest.raises(
        ValueError, match=r"`genre`, because ByGenre needs it; none is recorded yet.*columns="
    ):
        fit(ByGenre(), tmp_path / "here")
    assert not (tmp_path / "here").exists()


BY_GENRE = Shuffled(Product([ByLossQuantile(2), ByColumn("genre")]))


@pytest.mark.parametrize(
    "strategy",
    [
        MixCD(partition=BY_GENRE),
        ClassBalanced(BY_GENRE),
        HeadProbe(partition=BY_GENRE),
        Auto(Uniform(), MixCD(partition=BY_GENRE)),
        MostSupportive("genre"),
        PredictedForgetting("genre"),
    ],
)
def test_column_of_a_partition_is_asked_for_before_anything_is_recorded(strategy, tmp_path):
    name = type(strategy).__name__
    with pytest.raises(
        ValueError, match=rf"`genre`, because {name} .* yet\. Record it beforehand: .*columns="
    ):
        fit(strategy, tmp_path / "here")
    assert not (tmp_path / "here").exists()
    given = ledger().with_columns(features=torch.zeros(60, 3))
    with pytest.raises(ValueError, match=rf"`genre`, because {name} .*with_columns\(genre=\.\.\.\)"):
        fit(strategy, given)


@pytest.mark.parametrize(
    ("strategy", "names"),
    [
        (LeastConfidence(), {"logits"}),
        (PredictedForgetting(), {"features"}),
        (MixCD(partition=ByCluster(2)), {"features"}),
        (MixCD(partition=ByColumn("correct"), wrong_share=0.5), set()),
    ],
)
def test_ledger_is_recorded_with_what_is_needed(strategy, names, tmp_path):
    fit(strategy, tmp_path / "here")
    assert {*Ledger.open(tmp_path / "here").columns} == {"correct", "loss", "label"} | names


@pytest.mark.parametrize("same", [True, False])
def test_ledger_that_another_run_has_finished_meanwhile_is_used(same, tmp_path, monkeypatch):
    take = recording._take_lock

    def late(path):
        monkeypatch.undo()
        record_ledger(Toy(base=same), pool(), path)
        return take(path)

    monkeypatch.setattr(recording, "_take_lock", late)
    with nullcontext() if same else pytest.raises(LedgerError, match="other weights"):
        _, callback = fit(MixCD(), tmp_path / "l")
        assert callback.compute_units == Ledger.open(tmp_path / "l").forwards + 5 * 3 * 12
