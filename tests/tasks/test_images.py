import numpy as np
import pytest
import torch

from lightning_mixcd.tasks import cnn, image_pairing, mlp


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    np.savez(
        path,
        x_train=rng.integers(0, 256, (5, 8, 8), dtype=np.uint8),
        y_train=np.arange(5),
        x_test=rng.integers(0, 256, (3, 8, 8), dtype=np.uint8),
        y_test=np.arange(3),
        source_train=np.array(["a", "b", "a", "b", "a"]),
    )
    return path


def test_images_are_scaled_and_the_new_ones_are_turned(archive):
    pairing = image_pairing(archive, archive, shift="rot90", columns=["source"], batch_size=2)
    with np.load(archive) as arrays:
        for k, image in enumerate(arrays["x_train"]):
            (prior, label), (new, _) = pairing.pool[k], pairing.new.train[k]
            assert np.allclose(prior[0].numpy(), image / 255)
            assert np.allclose(new[0].numpy(), np.rot90(image) / 255)
            assert label == k
        assert pairing.columns["source"].tolist() == arrays["source_train"].tolist()
    assert len(pairing.prior_val.dataset) == 3


@pytest.mark.parametrize("make", [mlp, cnn])
def test_models_take_the_batches(archive, make):
    batch = next(iter(image_pairing(archive, archive, batch_size=2).new.train_dataloader()))
    assert make(n_inputs=64, n_classes=5).training_step(batch, 0)["logits"].shape == (2, 5)
    assert batch[0].dtype == torch.float32


def test_archive_that_is_not_there_is_named_with_the_remedy(archive, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz.*MIXCD_DATA"):
        image_pairing(archive, tmp_path / "absent.npz")


def test_array_that_is_not_there_is_named_beside_those_that_are(archive):
    with pytest.raises(
        ValueError, match=r"must hold the arrays .*'genre_train'.*, got .* without \['genre_train'\]"
    ):
        image_pairing(archive, archive, columns=["genre"])
