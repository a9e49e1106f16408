"""From runs on disk to tables (`tables`) and pictures (`plots`), which need the extra `report`."""

from lightning_mixcd.report.records import Record, Setting, read_logged, read_records

__all__ = ["Record", "Setting", "read_logged", "read_records"]
