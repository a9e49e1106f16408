"""Settings of all tests."""

import os
from pathlib import Path

from hypothesis import settings

# The same examples every time, and no deadline: a busy machine is not a bug.
settings.register_profile("here", deadline=None, derandomize=True)
settings.load_profile("here")

# Where the project's own machines have the data sets; tests that need them skip elsewhere.
os.environ.setdefault("MIXCD_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))

# LightningCLI still calls what a later jsonargparse will be without.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
