"""Commands say what is wrong with their arguments before anything slow is imported."""

import subprocess
import sys

import pytest

import lightning_mixcd


@pytest.mark.parametrize(
    ("command", "slow"), [("train", "torch"), ("record", "torch"), ("report", "lightning.pytorch")]
)
def test_nothing_slow_is_imported_before_the_arguments_are_read(command, slow):
    code = f"import sys, lightning_mixcd.app.{command}; sys.exit({slow!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_names_and_modules_of_the_package_are_found_when_asked_for():
    found = {name: lightning_mixcd.__getattr__(name) for name in lightning_mixcd.__all__}
    assert all(value.__name__ == name for name, value in found.items())
    assert found["DecayedBeta"] is lightning_mixcd.estimators.DecayedBeta


def test_other_names_are_not_there():
    assert not hasattr(lightning_mixcd, "nothing")
    with pytest.raises(ImportError, match="cannot import name 'MixDC' from 'lightning_mixcd'"):
        from lightning_mixcd import MixDC  # noqa: F401
