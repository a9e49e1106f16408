"""What a run has logged so far."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from typing_extensions import override

__all__ = ["History"]

MOST = 512  # points of a curve; figures show fewer


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
                curve = self.curves.setdefault(self._names.get(name, name), {})
                curve[step or 0] = float(value)
                if len(curve) > MOST:
                    for passed in [*curve][1::2]:
                        del curve[passed]
