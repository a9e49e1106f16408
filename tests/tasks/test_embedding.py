import numpy as np
import pytest
import torch

from lightning_mixcd.tasks import embedding
from lightning_mixcd.tasks.embedding import embed
from tests.tasks.encoders import save_encoder

TEXTS = ["play some music", "my card is lost", "card"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def test_embedding_is_the_mean_over_the_tokens_of_each_text_alone(encoder, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    found = embed(TEXTS, encoder, cache_dir=tmp_path)
    assert found.dtype == np.float16
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            tokens = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        assert vector == pytest.approx(tokens.mean(0).numpy(), abs=1e-3)


def test_texts_are_embedded_once(encoder, tmp_path, monkeypatch):
    first = embed(TEXTS, encoder, cache_dir=tmp_path)
    monkeypatch.setattr(embedding, "_encode", lambda *_: pytest.fail("embedded again"))
    assert np.array_equal(embed(TEXTS, encoder, cache_dir=tmp_path), first)


def test_other_texts_or_weights_are_embedded_anew(encoder, tmp_path):
    other = save_encoder(tmp_path / "other", seed=1)
    cache = tmp_path / "cache"
    first = embed(TEXTS, encoder, cache_dir=cache)
    assert np.array_equal(embed(TEXTS[::-1], encoder, cache_dir=cache)[::-1], first)
    changed = embed(TEXTS, other, cache_dir=cache)
    assert not np.allclose(changed, first, atol=1e-2)
    save_encoder(other, seed=2)
    assert not np.allclose(embed(TEXTS, other, cache_dir=cache), changed, atol=1e-2)


def test_interrupted_embedding_leaves_nothing_that_counts(encoder, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(embedding.np, "save", die)
        with pytest.raises(KeyboardInterrupt):
            embed(TEXTS, encoder, cache_dir=tmp_path)
    assert embed(TEXTS, encoder, cache_dir=tmp_path).shape == (3, 8)


def test_global_random_state_is_left_alone(encoder, tmp_path):
    before = torch.get_rng_state()
    embed(TEXTS, encoder, cache_dir=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
