"""From runs on disk to tables and pictures."""

from lightning_mixcd.report.plots import plot_pareto, plot_rates
from lightning_mixcd.report.records import Record, read_records
from lightning_mixcd.report.tables import Row, compare

__all__ = ["Record", "Row", "compare", "plot_pareto", "plot_rates", "read_records"]
