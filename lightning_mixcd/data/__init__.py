"""From pool to batch: what may be rehearsed, the stream of rows, and the datamodule for both tasks."""

from lightning_mixcd.data.datamodule import RehearsalDataModule
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.streams import Streams
from lightning_mixcd.data.union import union_pool

__all__ = ["Pool", "RehearsalDataModule", "Streams", "union_pool"]
