import re

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from torch.utils.data import DataLoader

from lightning_mixcd import MixCD, RehearsalCallback
from lightning_mixcd.live import DamageBar
from lightning_mixcd.partitions import ByLabel
from tests import toys

RUN = {"enable_progress_bar": True, "log_every_n_steps": 2}


def rehearsal():
    return RehearsalCallback(
        MixCD(partition=ByLabel()), pool=toys.prompt_pool(), ledger=toys.ledger(), mix_ratio=0.5
    )


class Shown(toys.OnBatchEnd):
    """What the bar would show after each step, and what was logged by then."""

    def __init__(self):
        super().__init__(self._look)
        self.lines = []

    def _look(self, trainer, module, *_):
        self.lines.append(trainer.progress_bar_callback.get_metrics(trainer, module))


def fit(*callbacks, **settings):
    trainer = toys.trainer(*callbacks, **{**RUN, "max_steps": 5, **settings})
    module = toys.Toy()
    trainer.fit(module, DataLoader(toys.finetune(), batch_size=8))
    return module


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_bar_has_the_values_that_were_logged_last(bar):
    if bar is RichProgressBar:
        pytest.importorskip("rich", reason="the extra `conf` is not installed")
    logger, shown = toys.Listed(), Shown()
    fit(bar(), DamageBar(), rehearsal(), shown, logger=logger)
    for name in ("damage_rate", "damaged_share"):
        second, fourth = (f"{value:.1%}" for value in logger.values(f"rehearsal/{name}"))
        assert [line.get(name) for line in shown.lines] == [None, second, second, fourth, fourth]


def test_line_is_drawn(capsys):
    fit(TQDMProgressBar(), DamageBar(), rehearsal())
    assert re.search(r"damage_rate=\d+\.\d%, damaged_share=\d+\.\d%", capsys.readouterr().out)


def test_host_waits_only_for_new_values(monkeypatch):
    reads, tolist = [], torch.Tensor.tolist
    bar, seen = DamageBar(), []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor) or tolist(tensor))
    count = toys.OnBatchEnd(
        lambda trainer, module, *_: (
            [trainer.progress_bar_callback.get_metrics(trainer, module) for _ in range(9)]
            and seen.append(sum(read is not None and read.shape == (2,) for read in reads))
        )
    )
    fit(bar, rehearsal(), count)
    assert seen == [0, 1, 1, 2, 2]


def test_line_changes_nothing_else():
    plain, watched = fit(rehearsal()), fit(DamageBar(), rehearsal())
    assert torch.equal(toys.weights(plain), toys.weights(watched))


def test_bar_is_left_as_it_was():
    bar = TQDMProgressBar()
    fit(bar, DamageBar(), rehearsal())
    assert "get_metrics" not in vars(bar)

    def fail(*_):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fit(bar, DamageBar(), rehearsal(), toys.OnBatchEnd(fail))
    assert "get_metrics" not in vars(bar)


def test_two_of_them_leave_a_hook_of_the_user(monkeypatch):
    bar, both, shown = TQDMProgressBar(), [DamageBar(), DamageBar()], Shown()
    own = lambda trainer, module: {"own": 1}  # noqa: E731
    monkeypatch.setattr(bar, "get_metrics", own)
    for _ in range(2):
        fit(bar, *both, rehearsal(), shown)
        assert bar.get_metrics is own
        assert [*shown.lines[-1]] == ["own", "damage_rate", "damaged_share"]


def test_trainer_without_bar_or_rehearsal_does_not_mind():
    fit(DamageBar(), rehearsal(), enable_progress_bar=False)
    shown = Shown()
    fit(DamageBar(), shown)
    assert all("damage_rate" not in line for line in shown.lines)
