import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from lightning_mixcd import MixCD, RehearsalCallback
from lightning_mixcd.live import LiveFigures
from lightning_mixcd.live.history import LEFT, MOST, History
from lightning_mixcd.partitions import ByLabel
from tests import toys

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

NAMES = {"new": "acc/new", "prior": "acc/prior"}
FIGURES = {f"rehearsal/{name}" for name in ("curves", "composition", "rates", "rehearsed")}


class Measured(toys.Toy):
    """Measures both tasks."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        right = (self.net(x[:, :-1]).argmax(1) == y).float().mean()
        self.log(["acc/new", "acc/prior"][dataloader_idx], right, add_dataloader_idx=False)


class Both(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(toys.finetune(), batch_size=8)

    def val_dataloader(self):
        return [DataLoader(data, batch_size=60) for data in (toys.finetune(), toys.pool())]


class Images(toys.Listed):
    """Takes images as Lightning's `WandbLogger` does."""

    def __init__(self):
        super().__init__()
        self.images = []

    def log_image(self, key, images, step=None, **kwargs):
        self.images.append((key, images, step))


def fit(figures, *loggers, ckpt_path=None, **settings):
    """Two epochs of five steps each."""
    rehearsal = RehearsalCallback(
        MixCD(partition=ByLabel()), pool=toys.prompt_pool(), ledger=toys.ledger(), mix_ratio=0.5
    )
    settings = {"max_epochs": 2, "log_every_n_steps": 1, "logger": list(loggers), **settings}
    trainer = toys.trainer(figures, rehearsal, **settings)
    module = Measured()
    trainer.fit(module, datamodule=Both(), ckpt_path=ckpt_path)
    return trainer, module


def test_tensorboard_file_holds_the_images(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `conf` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    fit(LiveFigures(**NAMES), logger)
    found = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert {*found.Tags()["images"]} == FIGURES
    for name in FIGURES:
        images = found.Images(name)
        assert [image.step for image in images] == [5, 10]
        assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in images)
    assert "rehearsal/damaged_share" in found.Tags()["scalars"]


def test_logger_with_log_image_gets_arrays():
    logger = Images()
    fit(LiveFigures(every_n_validations=2, **NAMES), logger, max_epochs=3)
    assert {(key, step) for key, _, step in logger.images} == {(name, 10) for name in FIGURES}
    for _, (image,), _ in logger.images:
        assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
        assert image.std() > 10


def test_figures_show_what_was_logged(monkeypatch):
    drawn = []
    monkeypatch.setattr("lightning_mixcd.live.figures._show", lambda *args: drawn.append(args))
    logger = Images()
    trainer, _ = fit(LiveFigures(**NAMES), logger)
    last = {name: figure for _, name, figure, step in drawn if step == 10}
    prior, new = (logger.values(f"acc/{task}") for task in ("prior", "new"))
    for axes, logged in zip(last["rehearsal/curves"].axes, (prior, new), strict=True):
        assert list(axes.lines[0].get_ydata()) == pytest.approx([100 * value for value in logged])
    bins = [mesh.get_array().ravel() for mesh in last["rehearsal/rates"].axes[0].collections]
    for k, shown in enumerate(bins):
        logged = [100 * value for value in logger.values(f"rehearsal/rate/{k:02d}")]
        assert shown.tolist() == pytest.approx(logged)
    assert len(bins) == toys.N_CLASSES
    rows = np.array([logger.values(f"rehearsal/rows/{k:02d}") for k in range(toys.N_CLASSES)])
    new = np.diff(rows, prepend=0)
    shares = [mesh.get_array().ravel() for mesh in last["rehearsal/rehearsed"].axes[0].collections]
    assert np.array(shares) == pytest.approx(100 * new / new.sum(axis=0))
    assert trainer.loggers == [logger]


def test_other_loggers_get_nothing_and_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_mixcd.live.figures.draw", lambda history: pytest.fail("was drawn"))
    figures = LiveFigures(**NAMES)
    _, module = fit(figures, CSVLogger(tmp_path), toys.Listed())
    assert figures.state_dict() == {}
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["metrics.csv"]
    monkeypatch.undo()
    _, watched = fit(LiveFigures(**NAMES), Images())
    assert torch.equal(toys.weights(module), toys.weights(watched))


def test_resumed_run_goes_on_with_its_curves(tmp_path):
    whole, first, second = (LiveFigures(**NAMES) for _ in range(3))
    fit(whole, Images())
    trainer, _ = fit(first, Images(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    fit(second, Images(), ckpt_path=tmp_path / "one.ckpt")
    assert whole.state_dict()["validations"] == 2
    assert second.state_dict() == whole.state_dict()


def test_validation_outside_of_fit_draws_nothing():
    logger = Images()
    trainer, module = fit(LiveFigures(**NAMES), logger)
    before = len(logger.images)
    trainer.validate(module, datamodule=Both(), verbose=False)
    assert before == len(logger.images) == 2 * len(FIGURES)


def test_long_curves_are_thinned_out():
    history = History(toys.Listed(), {})
    for step in range(10 * MOST):
        history.log_metrics({"rehearsal/a": 0.0, "rehearsal/b": 1.0, "loss": 2.0}, step=step)
    a, b = (history.curves[f"rehearsal/{name}"] for name in "ab")
    assert {*history.curves} == {"rehearsal/a", "rehearsal/b"}
    assert [*a] == [*b]
    assert len(a) <= MOST
    assert a[0] == 0.0
    assert max(a) == 10 * MOST - 1


@pytest.mark.parametrize("every", [1, 50])
def test_long_curves_keep_all_parts_of_the_run(every):
    history = History(toys.Listed(), {})
    last = 4999 * every
    for step in range(0, last + 1, every):
        history.log_metrics({"rehearsal/a": float(step)}, step=step)
    curve = history.curves["rehearsal/a"]
    steps = np.array([*curve])
    assert steps.tolist() == [*curve.values()] == sorted({*steps.tolist()})
    assert np.diff(steps).max() < 2 * last / LEFT + every
    assert np.histogram(steps, 4, (0, last))[0].min() >= LEFT // 8


def test_bad_number_is_refused():
    with pytest.raises(ValueError, match=r"`every_n_validations` must be at least 1, got 0"):
        LiveFigures(0)
