"""The figures of the report, in the user's own logger while the model trains."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from typing_extensions import override

from lightning_mixcd.errors import check_counts
from lightning_mixcd.live.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LiveFigures"]


class LiveFigures(Callback):
    """Logs figures of the run so far, after validation: both tasks over time, what was rehearsed, damage map.

    They are drawn by the report (extra `report`) and go to every logger that can show them, by
    `experiment.add_figure`, which TensorBoard has, or by `log_image`, which Weights & Biases has. Other
    loggers get nothing. Nothing is done in training steps: figures are made of what loggers are given anyway,
    every `log_every_n_steps` steps.

    Args:
        every_n_validations: After which validations to draw, 1 or more.
        new: Name under which validation logs the accuracy on the new task.
        prior: The same for the prior task; without it, its curve is left out.

    Raises:
        ValueError: If `every_n_validations` is below 1.
        ModuleNotFoundError: At the start of `fit`, if the extra `report` is needed and not installed.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> figures = LiveFigures(new="accuracy/dataloader_idx_0", prior="accuracy/dataloader_idx_1")
        >>> trainer = Trainer(callbacks=[figures], logger=False)
    """

    def __init__(
        self,
        every_n_validations: int = 1,
        *,
        new: str = "val/new/accuracy",
        prior: str = "val/prior/accuracy",
    ) -> None:
        check_counts("To draw nothing, leave the callback out.", every_n_validations=every_n_validations)
        self.every_n_validations = every_n_validations
        self._names = {new: "val/new/accuracy", prior: "val/prior/accuracy"}
        self._history: History | None = None
        self._validations = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._leave(trainer)
        if stage == "fit":
            self._history, self._validations = None, 0
        # Other processes have no experiment, and log nothing.
        if stage == "fit" and trainer.is_global_zero and any(map(_shows, trainer.loggers)):
            import lightning_mixcd.report.maps  # noqa: F401 -- what is not installed is missed before training

            self._history = History(trainer.loggers[0], self._names)
            trainer.loggers = [*trainer.loggers, self._history]

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._history is None or self._history not in trainer.loggers or trainer.sanity_checking:
            return
        self._validations += 1
        if self._validations % self.every_n_validations == 0:
            for name, figure in draw(self._history):
                for logger in filter(_shows, trainer.loggers):
                    _show(logger, f"rehearsal/{name}", figure, trainer.global_step)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._leave(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._leave(trainer)

    # What was heard is kept: a checkpoint may still be saved.
    def _leave(self, trainer: Trainer) -> None:
        trainer.loggers = [logger for logger in trainer.loggers if logger is not self._history]

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._history is None:
            return {}
        return {"validations": self._validations, "curves": self._history.curves}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._history is not None and state_dict:
            self._validations, self._history.curves = state_dict["validations"], state_dict["curves"]


def draw(history: History) -> "Iterator[tuple[str, Figure]]":
    """Draw a run as a report of this run alone would.

    Args:
        history: What it logged.

    Yields:
        Name and figure, of those that there is something to show in.
    """
    from matplotlib import rc_context

    from lightning_mixcd.report.curves import composition, curves
    from lightning_mixcd.report.maps import damage_map, rehearsed_map
    from lightning_mixcd.report.picture import LOOK
    from lightning_mixcd.report.records import Record
    from lightning_mixcd.report.sweep import Sweep

    run, name = Path(), "this run"
    record = Record(name, 0.0, 0, "", 0.0, 0.0, 0, 0.0)  # of a run that has not ended
    sweep = Sweep({run: record}, {run: history.curves}, name)
    look: Any = LOOK
    with rc_context(look):
        drawn = (draw_one(sweep) for draw_one in (curves, composition, damage_map, rehearsed_map))
        yield from ((picture.name, picture.figure) for picture in drawn if picture is not None)


def _shows(logger: Logger) -> bool:
    return hasattr(logger, "log_image") or hasattr(getattr(logger, "experiment", None), "add_figure")


def _show(logger: Any, name: str, figure: "Figure", step: int) -> None:  # noqa: ANN401 -- of several kinds
    if hasattr(logger, "log_image"):
        logger.log_image(name, [_pixels(figure)], step=step)
    else:
        logger.experiment.add_figure(name, figure, step, close=False)


# Red, green and blue, `(H, W, 3)`, which every logger of images understands.
def _pixels(figure: "Figure") -> Any:  # noqa: ANN401 -- an array
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
