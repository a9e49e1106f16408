"""Copies to the host."""

import pytest
import torch

from lightning_mixcd.data.host_copy import HostCopy


def test_nothing_stays_nothing():
    assert HostCopy(None).get() is None


def test_what_is_on_the_host_is_not_copied():
    source = torch.ones(2)
    copy = HostCopy(source)
    assert copy.get() is source
    assert copy.source is source


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copy_is_of_the_moment_it_was_asked_for():
    source = torch.zeros(1 << 20, device="cuda")
    copies = []
    for _ in range(5):
        source = source + 1
        copies.append(HostCopy(source))
    assert [copy.get().unique().tolist() for copy in copies] == [[1], [2], [3], [4], [5]]
    assert all(copy.get().device.type == "cpu" for copy in copies)
