"""To look at while a model is finetuned: a line on the progress bar, and figures in loggers."""

from lightning_mixcd.live.bar import DamageBar
from lightning_mixcd.live.figures import LiveFigures

__all__ = ["DamageBar", "LiveFigures"]
