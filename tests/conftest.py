"""Settings of all tests."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# The same examples every time, and no deadline: a busy machine is not a bug.
settings.register_profile("here", deadline=None, derandomize=True)
settings.load_profile("here")

# Where the project's own machines have the data sets; tests that need them skip elsewhere.
os.environ.setdefault("MIXCD_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))

# LightningCLI still calls what a later jsonargparse will be without.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


# First of all, so that neither a test nor what its module shares depends on what ran before.
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
