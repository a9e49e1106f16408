"""What a run of the app measures."""

import pytest

from lightning_mixcd.app import finetune
from tests.app.composing import composed


@pytest.mark.parametrize("every", [2, 10], ids=["before the end", "never"])
def test_a_run_is_measured_at_its_end_whenever_it_is_validated(every, tmp_path):
    def measured(folder, *overrides):
        config = composed(tmp_path / folder, "base.max_epochs=1", "trainer.max_epochs=3", *overrides)
        record = finetune.train(config)
        return record.prior_accuracy, record.new_accuracy, record.compute_units, record.steps

    assert measured("seldom", f"+trainer.check_val_every_n_epoch={every}") == measured("always")
