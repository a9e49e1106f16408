"""Separate batches on two processes and across checkpoints."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy

from lightning_mixcd import MixCD, Pool, RehearsalCallback, RehearsalDataModule
from lightning_mixcd.resume import ExactResume
from tests.integration.launching import N_BATCHES, alike, together
from tests.integration.separate_process import STRATEGIES, TwoHeads, fit
from tests.toys import Finetune, finetune, ledger, pool, trainer, weights


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return together(tmp_path_factory, "separate_process", 2)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_are_one_with_batches_twice_as_large(ranks, name):
    alone = fit(name, alike(0, 1))
    one, two = (rank[name] for rank in ranks)
    assert one["weights"] == two["weights"]
    assert one["signal"] == two["signal"]
    assert one["units"] == two["units"] == alone["units"]
    if name == "mixcd":  # where screens share out their candidates, each process chooses among its own
        assert [sorted([*a[1:], *b[1:]]) for a, b in zip(one["kept"], two["kept"], strict=True)] == [
            sorted(rows[1:]) for rows in alone["kept"]
        ]
        torch.testing.assert_close(
            torch.tensor(one["weights"]), torch.tensor(alone["weights"]), rtol=1e-3, atol=1e-4
        )


@pytest.mark.slow
def test_processes_without_a_row_to_rehearse_take_part(ranks):
    found = [rank["unlike"] for rank in ranks]
    kept = [{step[0]: step[1:] for step in rank["kept"]} for rank in found]
    assert any(len(kept[0].get(b, [])) < len(kept[1].get(b, [])) for b in range(N_BATCHES))
    module = TwoHeads()
    optimizer = torch.optim.Adam(module.parameters(), module.lr)
    for b in range(N_BATCHES):
        losses = []
        for rank in range(2):
            x, y = finetune()[found[rank]["seen"][b]]
            old_x, old_y = pool()[kept[rank].get(b, [])]
            new = cross_entropy(module.net(x[:, :-1]), y, reduction="none")
            old = cross_entropy(module.old_logits(old_x), old_y, reduction="none")
            losses.append(torch.cat([new, old]).mean())
        optimizer.zero_grad()
        (sum(losses) / 2).backward()  # as DDP has it
        if all(b not in rows for rows in kept):
            module.old_head.zero_grad()  # whom no process used
        optimizer.step()
    assert found[0]["weights"] == found[1]["weights"]
    torch.testing.assert_close(
        torch.tensor(found[0]["weights"]), weights(module).float(), rtol=1e-3, atol=1e-4
    )


class Chancy(TwoHeads):
    """Drops out in both steps, and adds noise to what comes to the device."""

    def __init__(self):
        super().__init__()
        self.net[1].p = 0.3

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return torch.cat([x[:, :-1] + 0.1 * torch.randn_like(x[:, :-1]), x[:, -1:]], 1), y


def run(*callbacks, ckpt_path=None, seed=1, **settings):
    pl.seed_everything(seed, verbose=False)
    module, callback = Chancy(), RehearsalCallback(MixCD())
    data = RehearsalDataModule(
        Finetune(shuffle=True), Pool(pool(), lag=2), mix_ratio=0.4, ledger=ledger(), order_seed=3
    )
    fitting = trainer(callback, ExactResume(), *callbacks, max_epochs=2, **settings)
    fitting.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, callback


@pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`:UserWarning",
    "ignore:You have overridden `on_.*_batch_transfer` in `LightningModule`:UserWarning",
)
@pytest.mark.parametrize("step", [3, 5, 8])
def test_resumed_run_is_the_same(step, tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole, callback = run(keep, enable_checkpointing=True)
    resumed, then = run(ckpt_path=tmp_path / f"step={step}.ckpt", seed=99)
    assert whole.kept[-len(resumed.kept) :] == resumed.kept
    assert torch.equal(weights(whole), weights(resumed))
    assert torch.equal(callback.strategy.signal(), then.strategy.signal())
    assert then.compute_units == callback.compute_units
