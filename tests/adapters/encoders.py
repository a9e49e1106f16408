"""Tiny encoders of `transformers` with random weights, and images of three kinds for them."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    ViTConfig,
    ViTForImageClassification,
)

LAYERS = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def vit():
    # Weights so large that the three patterns look different to it.
    sizes = {"hidden_size": 16, "image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 3}
    config = ViTConfig(initializer_range=0.2, **sizes, **LAYERS)
    return seeded(lambda: ViTForImageClassification(config))


def bert():
    config = BertConfig(hidden_size=16, vocab_size=50, max_position_embeddings=12, num_labels=3, **LAYERS)
    return seeded(lambda: BertForSequenceClassification(config))


def clip():
    vision = {"hidden_size": 24, "image_size": 8, "patch_size": 4, "num_channels": 1, **LAYERS}
    text = {
        "hidden_size": 16,
        "vocab_size": 50,
        "max_position_embeddings": 12,
        "bos_token_id": 0,
        "eos_token_id": 49,
    }
    config = CLIPConfig(projection_dim=12, vision_config=vision, text_config={**text, **LAYERS})
    return seeded(lambda: CLIPModel(config))


def images(n, *, kind=0, seed=0):
    """Noise around one of three patterns, and labels that it can be told by."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.eye(3).repeat_interleave(3, 1)[:, :8]
    pattern = patterns[kind][None, None, :, None] * 2 - 1
    x = pattern + 0.3 * torch.randn(n, 1, 8, 8, generator=generator)
    y = torch.arange(n) % 3
    x[..., 0, :3] += 4 * torch.nn.functional.one_hot(y, 3).float()[:, None]
    return x, y


def texts(n, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 49, (n, 6), generator=generator)
    ids[:, -1] = 49
    mask = torch.ones(n, 6, dtype=torch.int64)
    mask[::2, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}
