"""From runs on disk to tables, pictures and pages, which need the extra `report`."""

from lightning_mixcd.report.records import Record, Setting, read_logged, read_records

__all__ = ["Record", "Setting", "read_logged", "read_records"]
