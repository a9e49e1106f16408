import json

import numpy as np
import pytest
import torch

from lightning_mixcd import Ledger
from lightning_mixcd.partitions import ByColumn
from lightning_mixcd.record import record_ledger
from lightning_mixcd.tasks import TextRows, embedded_text_pairing, mlp
from lightning_mixcd.tasks.embedding import embed
from tests.tasks.encoders import save_encoder

PRIOR = [("play music", 0, "media"), ("card lost", 1, "bank"), ("my card", 1, "bank")]
NEW = [("some music", 2, "media"), ("lost", 3, "bank")]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def task(folder, name, rows, **kwargs):
    files = {}
    for split, part in (("train", rows), ("test", rows[:1])):
        path = folder / f"{name}_{split}.jsonl"
        dicts = [{"text": text, "label": label, "domain": domain} for text, label, domain in part]
        path.write_text("".join(json.dumps(row) + "\n" for row in dicts))
        files[split] = str(path)
    return TextRows({"path": "json", "data_files": files, "cache_dir": str(folder / "cache")}, **kwargs)


@pytest.fixture
def pairing(tmp_path, encoder):
    prior, new = task(tmp_path, "prior", PRIOR, columns=["domain"]), task(tmp_path, "new", NEW)
    return embedded_text_pairing(prior, new, encoder=encoder, batch_size=2, cache_dir=tmp_path / "vectors")


def test_samples_are_the_embeddings_of_their_texts_with_their_classes(pairing, encoder, tmp_path):
    for rows, samples in ((PRIOR, pairing.pool), (NEW, pairing.new.train), (NEW[:1], pairing.new.val)):
        vectors = embed([text for text, *_ in rows], encoder, cache_dir=tmp_path / "vectors")
        assert [y.item() for _, y in samples] == [label for _, label, _ in rows]
        assert list(samples.texts) == [text for text, *_ in rows]
        assert np.allclose(torch.stack([x for x, _ in samples]).numpy(), vectors)
    assert len(pairing.prior_val.dataset) == 1


def test_pairs_are_both_embeddings_their_distance_and_their_product(tmp_path, encoder):
    names = {"text_pair": "domain"}
    prior, new = task(tmp_path, "prior", PRIOR, names=names), task(tmp_path, "new", NEW, names=names)
    pool = embedded_text_pairing(prior, new, encoder=encoder, cache_dir=tmp_path / "vectors").pool
    assert pool.texts == ["play music / media", "card lost / bank", "my card / bank"]
    for (text, _, other), (vector, _) in zip(PRIOR, pool, strict=True):
        u, v = embed([text, other], encoder, cache_dir=tmp_path / "vectors").astype(np.float32)
        expected = [*u, *v, *(abs(a - b) for a, b in zip(u, v, strict=True)), *(u * v)]
        assert np.allclose(vector.numpy(), expected, atol=1e-3)


def test_batches_fit_a_perceptron_of_three_layers(pairing):
    module = mlp(n_inputs=8, n_classes=4, n_hidden=2)
    batch = next(iter(pairing.new.train_dataloader()))
    assert module.training_step(batch, 0)["logits"].shape == (2, 4)


def test_columns_reach_partitions_through_the_ledger(pairing, tmp_path):
    module = mlp(n_inputs=8, n_classes=4)
    record_ledger(module, pairing.pool, tmp_path / "base.ledger", columns=pairing.columns)
    bins = ByColumn("domain").bins(Ledger.open(tmp_path / "base.ledger"))
    assert bins.tolist() == [1, 0, 0]


def test_classes_of_each_task_are_numbered_from_0_where_labels_are_not_shared(tmp_path, encoder):
    # The validation split has the second class alone.
    prior, new = task(tmp_path, "prior", PRIOR), task(tmp_path, "new", NEW[::-1])
    pairing = embedded_text_pairing(
        prior, new, encoder=encoder, shared_labels=False, cache_dir=tmp_path / "vectors"
    )
    assert pairing.pool.tensors[1].tolist() == [0, 1, 1]
    assert pairing.new.train.tensors[1].tolist() == [1, 0]
    assert pairing.new.val.tensors[1].tolist() == [1]
