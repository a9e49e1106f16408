"""Processes that Lightning makes by itself, as in a notebook: what they need is pickled, or forked."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from lightning_mixcd import Ledger, MixCD, RehearsalCallback
from lightning_mixcd.partitions import ByLabel
from tests.processes import start
from tests.toys import Toy, finetune, ledger, pool, trainer, weights


def train(given: Ledger | Path, *, copies: int = 1, **settings: object) -> torch.Tensor:
    """Weights after training on each sample as often as that, in batches of 8 samples."""
    module = Toy(lr=0.1)
    callback = RehearsalCallback(MixCD(partition=ByLabel()), pool=pool(), ledger=given, mix_ratio=0.5)
    data = Subset(finetune(), [i for i in range(len(finetune())) for _ in range(copies)])
    run = trainer(callback, max_epochs=2, use_distributed_sampler=False, **settings)
    run.fit(module, DataLoader(data, 8 * copies))
    return weights(module)


def train_in_two(strategy: str, given: Ledger | Path, found: Path) -> None:
    torch.save(train(given, strategy=strategy, devices=2), found)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "kind"), [("ddp_spawn", "ledger"), ("ddp_fork", "folder")])
def test_two_processes_train_as_one_does(strategy, kind, tmp_path):
    given = ledger() if kind == "ledger" else tmp_path / "base.ledger"
    printed = [tmp_path / "out", tmp_path / "err"]
    child = start(train_in_two, strategy, given, tmp_path / "found.pt", folder=tmp_path, printed=printed)
    child.join(120)
    child.kill()
    assert child.exitcode == 0, printed[1].read_text()
    # Both processes go through the same samples, and share what is rehearsed beside them.
    torch.testing.assert_close(
        torch.load(tmp_path / "found.pt"), train(ledger(), copies=2), rtol=1e-4, atol=1e-5
    )
