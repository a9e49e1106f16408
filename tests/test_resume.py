"""Random states: saved as of the last batch, kept from validation, put back before anything draws."""

import os
import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_mixcd.resume import ExactResume, newest_checkpoint
from tests.toys import Toy, finetune, trainer


class Drawing(Toy):
    """Draws from every global source wherever it may; notes the draws of training steps."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def draw(self):
        return float(torch.rand(())), random.random(), float(np.random.rand())  # noqa: NPY002

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.transferred = self.draw()
        return batch

    def training_step(self, batch, batch_idx):
        self.drawn.append((self.transferred, self.draw()))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.draw()


def fit(module, *callbacks, ckpt_path=None, **settings):
    run = trainer(*callbacks, **{"num_sanity_val_steps": 0, **settings})
    val = DataLoader(finetune(), 20, shuffle=True) if settings.get("limit_val_batches", 1.0) else None
    # Without its own generator the loader would draw from the global one at the start of each epoch.
    loader = DataLoader(finetune(), 8, generator=torch.Generator())
    run.fit(module, loader, val, ckpt_path=ckpt_path)
    return run


def test_validation_does_not_advance_chance():
    modules = []
    for limit in (0, 1.0):
        pl.seed_everything(1, verbose=False)
        module = Drawing()
        fit(
            module,
            ExactResume(),
            val_check_interval=2,
            max_epochs=2,
            limit_val_batches=limit,
            num_sanity_val_steps=2,
        )
        modules.append(module)
    assert modules[0].drawn == modules[1].drawn


def test_resumed_run_takes_the_chances_of_the_uninterrupted_one(tmp_path):
    pl.seed_everything(1, verbose=False)
    whole = Drawing()
    fit(whole, ExactResume(), max_epochs=3)
    pl.seed_everything(1, verbose=False)
    first = Drawing()
    run = fit(first, ExactResume())
    first.draw()  # what comes between the end of the run and the saving is not part of the run
    run.save_checkpoint(tmp_path / "end.ckpt")
    pl.seed_everything(2, verbose=False)
    second = Drawing()
    fit(second, ExactResume(), ckpt_path=tmp_path / "end.ckpt", max_epochs=3)
    assert first.drawn == whole.drawn[:5]
    assert second.drawn[:10] == whole.drawn[5:]


def test_example_inputs_do_not_take_the_chances_of_the_first_batch(tmp_path):
    class Summarized(Drawing):
        """Lightning's summary sends its example through the batch hooks before training."""

        example_input_array = torch.zeros(2, 4)

        def forward(self, x):
            return self.net(x)

    pl.seed_everything(1, verbose=False)
    whole = Summarized()
    fit(whole, ExactResume(), max_epochs=2, enable_model_summary=True)
    pl.seed_everything(1, verbose=False)
    fit(Summarized(), ExactResume(), enable_model_summary=True).save_checkpoint(tmp_path / "end.ckpt")
    pl.seed_everything(2, verbose=False)
    second, ends = Summarized(), tmp_path / "end.ckpt"
    fit(second, ExactResume(), ckpt_path=ends, max_epochs=2, enable_model_summary=True)
    assert second.drawn == whole.drawn[5:]


def test_other_stages_and_sanity_checks_are_left_alone():
    resume, module = ExactResume(), Drawing()
    run = fit(module, resume)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run.validate(module, DataLoader(finetune(), 20), verbose=False)
    after = torch.get_rng_state()
    assert not torch.equal(before, after)  # what validation drew by itself is drawn
    torch.manual_seed(5)
    trainer().validate(module, DataLoader(finetune(), 20), verbose=False)
    assert torch.equal(torch.get_rng_state(), after)


def test_second_fit_does_not_go_back_to_the_first():
    resume, module = ExactResume(), Drawing()
    fit(module, resume, num_sanity_val_steps=2)
    torch.manual_seed(5)
    fresh = Drawing()
    fit(fresh, resume, num_sanity_val_steps=2)
    torch.manual_seed(5)
    expected = Drawing()
    fit(expected, ExactResume(), num_sanity_val_steps=2)
    assert [step[1][0] for step in fresh.drawn] == [step[1][0] for step in expected.drawn]


def test_checkpoint_that_was_validated_is_not_resumed_by_the_next_fit(tmp_path):
    resume, module = ExactResume(), Drawing()
    run = fit(module, resume)
    run.save_checkpoint(tmp_path / "end.ckpt")
    run.validate(module, DataLoader(finetune(), 20), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    random.seed(5)
    fresh = Drawing()
    fit(fresh, resume, limit_val_batches=0)
    random.seed(5)
    assert fresh.drawn[0][0][1] == random.random()


class KeepsInValidation(pl.Callback):
    """Saves in the middle of a validation, after it has drawn."""

    def __init__(self, path):
        self.path = path

    def on_validation_epoch_end(self, trainer, pl_module):
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path)


class DrawsAtTheEnd(Drawing):
    """Draws once more when an epoch has ended."""

    def on_train_epoch_end(self):
        self.draw()


# The resumed runs keep no checkpoints, which Lightning warns of.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_checkpoint_of_validation_or_of_the_end_of_an_epoch(tmp_path):
    keep = pl.callbacks.ModelCheckpoint(
        tmp_path, filename="{epoch}", monitor="train_loss", save_top_k=-1, save_on_train_epoch_end=True
    )
    settings = {"max_epochs": 3, "val_check_interval": 3}
    pl.seed_everything(1, verbose=False)
    whole = DrawsAtTheEnd()
    saves = KeepsInValidation(tmp_path / "validating.ckpt")
    fit(whole, ExactResume(), saves, keep, enable_checkpointing=True, **settings)
    for path, done in ((tmp_path / "epoch=0.ckpt", 5), (tmp_path / "validating.ckpt", 3)):
        pl.seed_everything(2, verbose=False)
        second = DrawsAtTheEnd()
        fit(second, ExactResume(), ckpt_path=path, **settings)
        assert second.drawn == whole.drawn[done:]


def test_checkpoint_of_a_failed_batch_makes_it_again(tmp_path):
    class Failing(Drawing):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                self.fails_with = torch.rand(())
                raise RuntimeError("the user's own")
            return super().training_step(batch, batch_idx)

    resume = ExactResume()
    pl.seed_everything(1, verbose=False)
    whole = Drawing()
    fit(whole, ExactResume())
    pl.seed_everything(1, verbose=False)
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(Failing(), resume)
    torch.set_rng_state(resume.state_dict()["ranks"][0]["torch"])
    assert float(torch.rand(())) == whole.drawn[3][0][0]


def test_states_load_safely(tmp_path):
    np.random.standard_normal()  # noqa: NPY002 -- one Gauss value waits
    fit(Drawing(), ExactResume()).save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"]["ExactResume"]
    assert len(saved["ranks"]) == 1
    assert set(saved["ranks"][0]) == {"torch", "python", "numpy", "cuda"}


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_each_process_takes_its_own_states_and_a_new_one_the_first(rank):
    resume = ExactResume()
    resume._rank = rank
    resume.load_state_dict({"ranks": [{"torch": 0}, {"torch": 1}]})
    assert resume._restore == {"torch": rank if rank < 2 else 0}


def test_hooks_are_put_back():
    class Failing(Toy):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("the user's own")

    module = Drawing()
    fit(module, ExactResume())
    assert "on_before_batch_transfer" not in module.__dict__
    module = Failing()
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(module, ExactResume())
    assert "on_before_batch_transfer" not in module.__dict__


@pytest.fixture
def checkpoints(tmp_path):
    """Three, the newest of which is not the last by name."""
    for age, name in enumerate(["step=12", "step=8-v1", "step=8"]):
        path = tmp_path / f"{name}.ckpt"
        torch.save({"weights": torch.arange(1000.0)}, path)
        os.utime(path, ns=(10**9 - age, 10**9 - age))
    return tmp_path


def test_newest_checkpoint(checkpoints):
    assert newest_checkpoint(checkpoints).name == "step=12.ckpt"
    assert newest_checkpoint(str(checkpoints)) == newest_checkpoint(checkpoints)


@pytest.mark.parametrize("n_bytes", [0, 1, 2000, -1])
def test_part_of_a_checkpoint_is_left_out(checkpoints, n_bytes):
    path = checkpoints / "torn.ckpt"
    path.write_bytes((checkpoints / "step=8.ckpt").read_bytes()[:n_bytes])
    with pytest.warns(UserWarning, match=r"torn\.ckpt is not whole and is left out; delete it"):
        assert newest_checkpoint(checkpoints).name == "step=12.ckpt"


def test_checkpoint_with_a_wrong_byte_is_left_out(checkpoints):
    path = checkpoints / "step=12.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is not whole"):
        assert newest_checkpoint(checkpoints).name == "step=8-v1.ckpt"


def test_sharded_checkpoint_is_taken_as_it_is(checkpoints):
    (checkpoints / "last.ckpt").mkdir()
    assert newest_checkpoint(checkpoints).name == "last.ckpt"


def test_link_to_a_deleted_checkpoint_is_passed_over(checkpoints):
    (checkpoints / "last.ckpt").symlink_to(checkpoints / "deleted.ckpt")
    assert newest_checkpoint(checkpoints).name == "step=12.ckpt"


def test_checkpoints_below_are_named(checkpoints):
    with pytest.warns(UserWarning, match=r"only below it, as .*\.ckpt, which may be of another run"):
        assert newest_checkpoint(checkpoints.parent) is None


def test_no_checkpoint_yet(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None
