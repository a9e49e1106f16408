"""Finding the encoders of a model, and the attention in them."""

import inspect
from typing import Any

from torch import nn

__all__ = ["projections", "towers", "width_of"]

VISION, TEXT = "vision_model", "text_model"


def towers(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Find the attention of a model's encoders.

    Args:
        model: The model.

    Returns:
        By path of the encoder, that which chooses tasks first, the attention modules of its layers.

    Raises:
        ValueError: If there is none, or something that is no encoder.
    """
    parts = {name: part for name, part in model.named_modules() if _asks_interface(part)}
    found: dict[str, list[nn.Module]] = {}
    for path, part in parts.items():
        found.setdefault(_encoder(model, path), []).append(part)
    # Of CLIP, the images' first.
    found = dict(sorted(found.items(), key=lambda item: item[0].rpartition(".")[2] != VISION))
    fits = len(found) == 1 or [path.rpartition(".")[2] for path in found] == [VISION, TEXT]
    if not fits or any(getattr(part, "is_causal", False) for part in parts.values()):
        known = parts or {
            name: part for name, part in model.named_modules() if "Attention" in type(part).__name__
        }
        names = [f"{name} ({type(part).__name__})" for name, part in known.items()][:6]
        raise ValueError(
            "DIKI needs one encoder of `transformers` 5, such as ViT or BERT, or the two of CLIP, whose "
            f"attention goes through `AttentionInterface`, found {names}. Use LoRA for other models."
        )
    return found


def projections(model: nn.Module, encoder: nn.Module) -> list[nn.Module]:
    """Find what takes pooled vectors of CLIP's images to where they meet texts.

    Args:
        model: The model.
        encoder: That of the images.

    Returns:
        The projection, if there is one.
    """
    around: list[Any] = [part for part in model.modules() if getattr(part, VISION, None) is encoder]
    return [part.visual_projection for part in around if hasattr(part, "visual_projection")]


def width_of(attention: nn.Module) -> int:
    """Return how wide the queries of an attention module are, all heads together.

    Args:
        attention: One of `towers`.

    Returns:
        The width.
    """
    config: Any = attention.config
    n_heads = config.num_attention_heads
    return int(n_heads * (getattr(config, "head_dim", None) or config.hidden_size // n_heads))


# Whether attention can be added to its own: it asks the attention interface of `transformers`.
def _asks_interface(module: nn.Module) -> bool:
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def _encoder(model: nn.Module, path: str) -> str:
    """Return the path of the innermost `PreTrainedModel` around a part."""
    from transformers import PreTrainedModel

    modules = dict(model.named_modules())
    while path and not isinstance(modules[path], PreTrainedModel):
        path = path.rpartition(".")[0]
    return path
