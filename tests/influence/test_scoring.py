from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from lightning_mixcd import Pool
from lightning_mixcd.influence import Stage, score_pool
from tests.influence.pipeline import rows, stages


def direction(stage):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in stage.parameters().items()
    }


class Fragile(Dataset):
    """Counts what is read, and dies where it is told to."""

    def __init__(self, data, dies_at=None):
        self.data, self.dies_at, self.read = data, dies_at, []

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        if i == self.dies_at:
            raise KeyboardInterrupt
        self.read.append(i)
        return self.data[i]


def test_score_is_minus_the_gradient_along_the_direction():
    base, _ = stages(None)
    along = direction(base)
    truth = []
    for x, y in base.data:
        base.module.zero_grad()
        base.module.eval()
        rows(base.module, (x[None], y[None])).sum().backward()
        truth.append(-sum(float((p.grad * along[name]).sum()) for name, p in base.module.named_parameters()))
    np.testing.assert_allclose(score_pool(base, along, progress=False), truth, rtol=1e-9)


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize(
    "layer",
    [
        Attention(4, 2, batch_first=True),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1),
    ],
)
def test_layers_of_torch_with_a_fast_path_are_scored(layer):
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    module = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2)).eval()
    stage = Stage(module, TensorDataset(x, torch.arange(5) % 2), rows)
    along = direction(stage)
    truth = []
    for loss in rows(module, stage.data.tensors):
        slopes = torch.autograd.grad(loss, [*module.parameters()], retain_graph=True)
        truth.append(-sum(float((g * d).sum()) for g, d in zip(slopes, along.values(), strict=True)))
    np.testing.assert_allclose(score_pool(stage, along, progress=False), truth, rtol=1e-4)
    assert torch.backends.mha.get_fastpath_enabled()


def test_interrupted_scoring_goes_on(tmp_path):
    base, _ = stages(None, batch_size=4)
    along, path = direction(base), tmp_path / "scores.npy"
    dying = Fragile(base.data, dies_at=9)
    with pytest.raises(KeyboardInterrupt):
        score_pool(Stage(base.module, dying, rows, batch_size=4), along, path=path, progress=False)
    assert not path.exists()
    rest = Fragile(base.data)
    found = score_pool(Stage(base.module, rest, rows, batch_size=4), along, path=path, progress=False)
    assert rest.read == [8, 9, 10, 11]
    np.testing.assert_array_equal(found, score_pool(base, along, progress=False))
    np.testing.assert_array_equal(np.load(path), found)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.npy"]


def test_other_direction_begins_afresh(tmp_path):
    base, _ = stages(None, batch_size=4)
    along, path = direction(base), tmp_path / "scores.npy"
    with pytest.raises(KeyboardInterrupt):
        score_pool(Stage(base.module, Fragile(base.data, dies_at=9), rows, batch_size=4), along, path=path)
    other = {name: -value for name, value in along.items()}
    np.testing.assert_array_equal(
        score_pool(base, other, path=path, progress=False), -score_pool(base, along, progress=False)
    )


@pytest.mark.parametrize("other", ["model", "pool"])
def test_other_model_or_pool_begins_afresh(other, tmp_path):
    base, _ = stages(None, batch_size=4)
    along, path = direction(base), tmp_path / "scores.npy"
    with pytest.raises(KeyboardInterrupt):
        score_pool(replace(base, data=Fragile(base.data, dies_at=9)), along, path=path, progress=False)
    if other == "model":
        base.module.embedding.bias.data += 1.0
    else:
        base = replace(base, data=ConcatDataset([base.data, base.data]))
    np.testing.assert_array_equal(
        score_pool(base, along, path=path, progress=False), score_pool(base, along, progress=False)
    )


def test_workers_change_nothing():
    base, _ = stages(None, batch_size=4)
    fetched = Stage(base.module, Pool(base.data, num_workers=1), rows, batch_size=4)
    along = direction(base)
    np.testing.assert_array_equal(score_pool(fetched, along), score_pool(base, along))


def test_overflow_is_named():
    base, _ = stages(None)
    broken = Stage(base.module, base.data, lambda m, b: rows(m, b) / (b[0][:, 0] != base.data[3][0][0]))
    with pytest.raises(ValueError, match="score of pool index 3 is not finite"):
        score_pool(broken, direction(base), progress=False)


def test_foreign_direction_is_refused():
    base, _ = stages(None)
    with pytest.raises(
        ValueError, match=r"`direction` must be of the stage's parameters .* got also \['x'\]"
    ):
        score_pool(base, {"x": torch.zeros(1)})
