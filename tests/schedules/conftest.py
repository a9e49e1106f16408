"""Values that stand for some on an accelerator: reading one before its copy has come is an error."""

import pytest

from lightning_mixcd.data.host_copy import HostCopy
from lightning_mixcd.schedules import _delayed


class Late(HostCopy):
    """A copy that comes only after `age` others were started."""

    age = 1
    started = 0

    def __init__(self, source):
        super().__init__(source)
        Late.started += 1
        self.number = Late.started

    def get(self):
        assert Late.started - self.number >= Late.age, "waits for the device"
        return super().get()


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setattr(_delayed, "HostCopy", Late)
    return Late
