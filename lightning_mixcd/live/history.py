"""What a run has logged so far."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from typing_extensions import override

__all__ = ["History"]

MOST = 512  # points of a curve; figures show fewer
LEFT = 384  # intervals with a point in them, of a curve that has had more


class History(Logger):
    """Listens beside another logger and keeps curves, each thinned out when it grows long.

    Values come to loggers as plain numbers, so that listening costs the device nothing.

    Args:
        beside: The logger whose name and version this one goes by.
        names: What to call the values that are kept under another name.

    Example:
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> history = History(CSVLogger("logs"), {"acc": "val/new/accuracy"})
        >>> history.log_metrics({"acc": 0.5, "loss": 1.0}, step=3)
        >>> history.curves
        {'val/new/accuracy': {3: 0.5}}
    """

    def __init__(self, beside: Logger, names: Mapping[str, str]) -> None:
        super().__init__()
        self._beside, self._names = beside, names
        self.curves: dict[str, dict[int, float]] = {}

    @property
    @override
    def name(self) -> str | None:
        return self._beside.name

    @property
    @override
    def version(self) -> int | str | None:
        return self._beside.version

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    @override
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            if name.startswith("rehearsal/") or name in self._names:
                kept = self._names.get(name, name)
                curve = self.curves.setdefault(kept, {})
                curve[step or 0] = float(value)
                if len(curve) > MOST:
                    self.curves[kept] = thinned(curve)


def thinned(curve: Mapping[int, float]) -> dict[int, float]:
    """Keep the first point of each interval, all of which are equally many steps long, and the newest.

    Args:
        curve: Value by step.

    Returns:
        The same of fewer steps, in order.

    Example:
        >>> [*thinned(dict.fromkeys(range(0, 1000, 2), 0.0))][-3:]
        [992, 996, 998]
    """
    steps, width = sorted(curve), 1
    # What is kept of long intervals was kept of their halves, however often a curve has been thinned out.
    while steps[-1] // width - steps[0] // width >= LEFT:
        width *= 2
    first = {step // width: step for step in reversed(steps)}
    return {step: curve[step] for step in sorted({*first.values(), steps[-1]})}
