"""The base model is trained once, even where what follows is interrupted."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf
from torch.utils.data import TensorDataset

from lightning_mixcd.app import base
from lightning_mixcd.app.conf import make
from lightning_mixcd.app.run import configured_pairing, configured_pool
from lightning_mixcd.data import Streams
from lightning_mixcd.ledger import Ledger
from tests.app.composing import composed


@pytest.fixture
def config(tmp_path):
    return composed(tmp_path / "run", "base.max_epochs=1")


def die(*_, **__):
    raise KeyboardInterrupt


def interrupted(config, monkeypatch, during):
    with monkeypatch.context() as patched:
        patched.setattr(base, during, die)
        with pytest.raises(KeyboardInterrupt):
            base.base_model(config, make(config.data))


def test_interrupted_recording_does_not_train_again(config, monkeypatch):
    interrupted(config, monkeypatch, "record_ledger")
    monkeypatch.setattr(base, "_trained", die)
    module, path = base.base_model(config, make(config.data))
    assert Ledger.open(path).size == 600
    kept = torch.load(path.parent / "weights.pt", weights_only=True)
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())


def test_interrupted_training_leaves_nothing_that_counts(config, monkeypatch):
    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(base.torch, "save", die)
        with pytest.raises(KeyboardInterrupt):
            base.base_model(config, make(config.data))
    _, path = base.base_model(config, make(config.data))
    assert Ledger.open(path).correct.mean() > 0.1


def test_ledger_has_what_the_pairing_and_the_model_know(config):
    half = np.arange(600) % 2
    module, path = base.base_model(config, replace(make(config.data), columns={"half": half}))
    ledger = Ledger.open(path)
    assert ledger.column("half").tolist() == half.tolist()
    logits = module.network.head(torch.tensor(ledger.column("features")).float())
    assert logits.detach().numpy() == pytest.approx(ledger.column("logits"), abs=0.05)


def test_ledger_of_a_part_is_that_part_of_the_ledger_of_all(config):
    pairing = replace(make(config.data), columns={"place": np.arange(600)})
    _, path = base.base_model(config, pairing)
    config.pool_size, config.pool_batch_size = 50, 7
    pool, columns = configured_pool(config, pairing.pool, pairing.columns)

    _, part = base.base_model(config, replace(pairing, pool=pool, columns=columns))

    assert part.parent == path.parent  # the same base model
    some, whole = Ledger.open(part), Ledger.open(path)
    chosen = some.column("place")
    assert len({*chosen.tolist()}) == 50
    assert some.column("label").tolist() == whole.column("label")[chosen].tolist()
    assert some.correct.tolist() == whole.correct[chosen].tolist()
    assert some.loss == pytest.approx(whole.loss[chosen], abs=1e-5)


def test_other_seeds_rehearse_other_parts(config):
    pairing = make(config.data)
    config.pool_size, parts = 50, []
    for config.seed in (0, 0, 1):
        pool, _ = configured_pool(config, pairing.pool, pairing.columns)
        parts.append(pool.dataset.indices)
    assert parts[0] == parts[1] != parts[2]


@pytest.mark.parametrize("size", [0, 601])
def test_part_that_the_pool_does_not_have_is_refused(config, size):
    config.pool_size = size
    with pytest.raises(ValueError, match=f"`pool_size`.*got {size} of 600 samples"):
        configured_pairing(config)


@pytest.mark.parametrize("size", [3e2, 0.5, "300", True])
def test_part_is_a_whole_number_of_samples(config, size):
    config.pool_size = size
    with pytest.raises(TypeError, match=f"`pool_size` must be a whole number, got {size!r}"):
        configured_pairing(config)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_part_of_a_column_may_be_given_as_anything_that_a_ledger_takes(config, kind):
    config.pool_size = 50
    places = [*range(600)]
    pool, columns = configured_pool(config, make(config.data).pool, {"place": kind(places)})
    assert [*columns["place"]] == pool.dataset.indices


def test_part_of_a_column_that_does_not_fit_the_pool_is_refused(config):
    config.pool_size = 50
    with pytest.raises(ValueError, match=r"one value per pool sample \(600\), 'place' has shape \(601,\)"):
        configured_pool(config, make(config.data).pool, {"place": np.arange(601)})


def test_streams_have_no_part(config):
    config.pool_size = 1
    with pytest.raises(ValueError, match=r"`pool_size`.*got 1 of streams"):
        configured_pool(config, Streams({"one": range(5)}), {})


def test_other_data_is_another_base_model(config):
    _, first = base.base_model(config, make(config.data))
    config.data_dir = "elsewhere"  # says nothing about digits
    assert base.base_model(config, make(config.data))[1] == first
    config.data.shift = "flip"
    assert base.base_model(config, make(config.data))[1] != first


def test_precision_is_of_the_base_model(config, tmp_path):
    _, first = base.base_model(config, make(config.data))
    half = composed(tmp_path / "run", "base.max_epochs=1", "+trainer.precision=bf16-mixed")
    assert base.base_model(half, make(config.data))[1] != first


def test_rate_of_finetuning_is_not_the_base_models_where_that_has_its_own(config):
    OmegaConf.update(config, "model.lr", 0.01, force_add=True)
    before, path = base.base_model(config, make(config.data))
    config.base.lr, config.model.lr = 0.01, 0.5

    module, again = base.base_model(config, make(config.data))

    assert again == path
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in module.state_dict().items())
    assert module.configure_optimizers().param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    "option",
    [
        "accumulate_grad_batches=4",
        "fast_dev_run=true",
        "gradient_clip_val=1e-6",
        "limit_train_batches=1",
        "max_steps=1",
        "overfit_batches=1",
    ],
)
def test_what_shortens_or_steers_finetuning_leaves_the_base_model_alone(option, config, tmp_path):
    before, _ = base.base_model(config, make(config.data))
    config = composed(
        tmp_path / "run", "base.max_epochs=1", f"base_dir={tmp_path}/other", f"+trainer.{option}"
    )

    module, _ = base.base_model(config, make(config.data))

    assert all(torch.equal(value, before.state_dict()[name]) for name, value in module.state_dict().items())


def test_ledger_is_recorded_in_the_precision_of_training(tmp_path):
    config = composed(tmp_path / "run", "base.max_epochs=1", "+trainer.precision=bf16-mixed")
    module, path = base.base_model(config, make(config.data))
    pixels = torch.stack([pixels for pixels, _ in make(config.data).pool])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = module.eval()(pixels).half()
    assert Ledger.open(path).column("logits").tolist() == logits.tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_ledger_is_recorded_on_the_device_of_training(config, monkeypatch):
    devices = []
    monkeypatch.setattr(base, "record_ledger", lambda module, *_, **__: devices.append(module.device.type))
    config.trainer.accelerator = "gpu"
    module, _ = base.base_model(config, make(config.data))
    assert devices == ["cuda"]
    assert module.device.type == "cpu"


def test_nobody_waits_for_another_run_where_processes_wait_for_them(tmp_path):
    with FileLock(tmp_path / "lock"):
        message = r"must not be made by another run meanwhile.*`mixcd-record`"
        refusal = base.TOGETHER.format(folder=tmp_path)
        with pytest.raises(RuntimeError, match=message), base.turn(tmp_path, refusal=refusal):
            pass
    with base.turn(tmp_path, refusal=refusal):  # it is free again
        pass


@pytest.fixture
def changed(config):
    """The tasks of the configuration, with another file behind the prior one."""
    pairing = make(config.data)
    x, y = pairing.pool.tensors
    return replace(pairing, pool=TensorDataset(1 - x, y))


@pytest.mark.parametrize("size", [None, 50], ids=["all", "part"])
def test_base_model_of_other_data_under_the_same_options_is_refused(size, config, changed):
    _, ledger = base.base_model(config, make(config.data))
    shutil.rmtree(ledger)
    config.pool_size = size
    pool, _ = configured_pool(config, changed.pool, {})
    message = r"`data` must hold what the base model in .* got other samples .*delete the folder to train"
    with pytest.raises(ValueError, match=message):
        base.base_model(config, replace(changed, pool=pool))

    pool, _ = configured_pool(config, make(config.data).pool, {})
    base.base_model(config, replace(changed, pool=pool))


def test_base_model_of_an_earlier_release_is_taken_as_it_is(config, changed):
    _, ledger = base.base_model(config, make(config.data))
    shutil.rmtree(ledger)
    (ledger.parent / "pool.json").unlink()
    base.base_model(config, changed)


def test_training_that_was_interrupted_takes_the_data_that_is_there_now(config, changed, monkeypatch):
    interrupted(config, monkeypatch, "_trained")
    base.base_model(config, changed)
    base.base_model(config, changed)


@pytest.mark.parametrize("kept", ["trainer.max_steps", "base.lr"])
def test_model_may_take_values_of_what_is_for_finetuning_alone(kept, tmp_path):
    options = ["base.max_epochs=1", "base.lr=5", "+trainer.max_steps=5", f"+model.width=${{{kept}}}"]
    module, _ = base.base_model(config := composed(tmp_path / "run", *options), make(config.data))
    assert module.network.head.in_features == 5
