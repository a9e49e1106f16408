"""Blocks of low-rank adaptation in a module: which layers may have one, putting them in, taking them out."""

import importlib.util
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

__all__ = [
    "ADAPTER",
    "add_blocks",
    "blocks_of",
    "find_heads",
    "find_layers",
    "parameters_of",
    "save_blocks",
    "take_out",
]

ADAPTER = "mixcd"  # what `peft` calls our adapter in a layer that may have several
PREFIX = "base_model.model."  # of names in a `PeftModel`


def find_heads(module: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    """Find the parts that are trained in full.

    Args:
        module: The module.
        names: Their names; None for the last linear layer, unless that shares its weight with another layer.

    Returns:
        The parts, by name.

    Raises:
        ValueError: If one of them is not there.
    """
    if names is None:
        parts = dict(module.named_modules())
        taken = {part for block in parts.values() if hasattr(block, "lora_A") for part in block.modules()}
        free = [name for name, part in parts.items() if isinstance(part, nn.Linear) and part not in taken]
        places = _places(module)
        return {name: parts[name] for name in free[-1:] if places[parts[name].weight] <= 1}
    parts = dict(module.named_modules(remove_duplicate=False))
    if absent := [name for name in names if name not in parts]:
        raise ValueError(
            f"`heads` must name submodules, got {absent}. There are {[name for name in parts if name]}."
        )
    return {name: parts[name] for name in names}


def find_layers(module: nn.Module, targets: Sequence[str] | None, heads: Collection[nn.Module]) -> list[str]:
    """Find the layers that get a block.

    Args:
        module: The module.
        targets: Last parts of their names; None for every layer that may have one.
        heads: Parts that are trained in full; no layer in them gets a block.

    Returns:
        Their names, in order.

    Raises:
        ValueError: If there is none, a target cannot have a block, or the module has blocks of others.
        ModuleNotFoundError: If `peft` is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError("`LoRA` needs the extra `lora`: pip install 'lightning-mixcd[lora]'.")
    if foreign := [name for name, part in module.named_modules() if hasattr(part, "lora_A")]:
        raise ValueError(
            f"The module must not have low-rank blocks yet, got those of `peft` in {foreign}. Merge them "
            "first, or train them without this callback."
        )
    left_out = {layer for head in heads for layer in head.modules()}
    named = {name: layer for name, layer in module.named_modules() if layer not in left_out}
    places = _places(module)
    obstacles = {
        name: _obstacle(layer, module.get_submodule(name.rpartition(".")[0]), places)
        for name, layer in named.items()
    }
    if targets is None:
        found = [name for name, obstacle in obstacles.items() if obstacle is None]
    else:
        found = [name for name in named if any(f".{name}".endswith(f".{target}") for target in targets)]
    if bad := [f"`{name}` ({obstacles[name]})" for name in found if obstacles[name] is not None]:
        raise ValueError(
            f"`targets` must name layers that can have a low-rank block, got {', '.join(bad)}. Name linear "
            "layers and convolutions, or leave it out for all of them."
        )
    if not found:
        able = [name for name, obstacle in obstacles.items() if obstacle is None]
        raise ValueError(
            f"`targets` must match layers outside of the heads, got {targets} and none of {able}. "
            "Make layers in `__init__`: `setup` and `configure_model` of a module come after adapters."
        )
    return found


# Of layers and parameters: how many modules have them, whatever they call them.
def _places(module: nn.Module) -> Counter[object]:
    parts = [*module.modules()]
    layers = Counter(layer for part in parts for layer in part._modules.values())  # noqa: SLF001 -- all names
    return layers + Counter(p for part in parts for p in part.parameters(recurse=False))


def _obstacle(layer: nn.Module, parent: nn.Module, places: Counter[object]) -> str | None:
    from transformers.pytorch_utils import Conv1D

    if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)):
        return type(layer).__name__
    # It reads the weights of its parts and never calls them.
    if isinstance(parent, nn.MultiheadAttention):
        return "part of nn.MultiheadAttention"
    if isinstance(layer, _ConvNd) and not _is_plain(layer):
        return "with groups, dilation or a padding other than zeros"
    if "weight" not in dict(layer.named_parameters(recurse=False)):
        return "with a weight that is computed"  # anew in each forward, whatever was merged into it
    if places[layer] > 1:
        return "put into the module twice"  # only one would be replaced
    return "weight shared with another layer" if places[layer.weight] > 1 else None


# Whether the block that `peft` makes does what it merges.
def _is_plain(convolution: _ConvNd) -> bool:
    return convolution.groups == 1 and {*convolution.dilation} == {1} and convolution.padding_mode == "zeros"


def add_blocks(module: nn.Module, layers: Sequence[str], *, rank: int, alpha: float, seed: int) -> None:
    """Give layers a block each, which adds nothing yet; then these blocks are all that requires gradients.

    Args:
        module: The module.
        layers: Names of the layers.
        rank: Rank of a block.
        alpha: A block's part is scaled by `alpha / rank`.
        seed: Seed of the blocks' weights.
    """
    from peft import inject_adapter_in_model

    settings = {"r": rank, "lora_alpha": alpha}
    # Blocks are made on the host and moved.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(_config(module, layers, settings), module, adapter_name=ADAPTER)
    for block in blocks_of(module).values():
        block.register_forward_hook(_nothing)


# In eval mode, an `nn.TransformerEncoderLayer` reads the weights of its layers unless one of them has a hook.
def _nothing(*_: object) -> None:
    pass


def _config(module: nn.Module, layers: Collection[str], settings: dict[str, Any]) -> Any:  # noqa: ANN401
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    found = [module.get_submodule(name) for name in layers]
    transposed = any(isinstance(getattr(layer, "base_layer", layer), Conv1D) for layer in found)
    names = "|".join(map(re.escape, layers))
    return LoraConfig(target_modules=names, fan_in_fan_out=transposed, **settings)


def blocks_of(module: nn.Module) -> dict[str, Any]:
    """Find the layers that have a block of ours.

    Args:
        module: The module.

    Returns:
        What `peft` put in their place, by their names, in order.
    """
    return {name: part for name, part in module.named_modules() if ADAPTER in getattr(part, "lora_B", ())}


def parameters_of(block: Any) -> list[nn.Parameter]:  # noqa: ANN401 -- of `peft`, which has no types
    """Return the parameters of a block, without those of its layer.

    Args:
        block: One of `blocks_of`.

    Returns:
        Its parameters.
    """
    return [*block.lora_A[ADAPTER].parameters(), *block.lora_B[ADAPTER].parameters()]


def take_out(module: nn.Module, names: Collection[str], *, merge: bool) -> None:
    """Take blocks out of their layers.

    Args:
        module: The module.
        names: Names of the layers.
        merge: Whether what a block does is added to the weights of its layer.
    """
    blocks = blocks_of(module)
    for name in names:
        if merge:
            blocks[name].merge(adapter_names=[ADAPTER])
        module.set_submodule(name, blocks[name].get_base_layer())
    if not blocks_of(module):
        vars(module).pop("peft_config", None)


def save_blocks(
    module: nn.Module, folder: str | Path, layers: Collection[nn.Module], heads: Collection[nn.Module]
) -> None:
    """Save blocks and heads as `peft` does.

    Args:
        module: What they are to be loaded into.
        folder: Where to; made if need be.
        layers: What `peft` put in the place of the layers whose blocks are saved.
        heads: What was trained in full.
    """
    from safetensors.torch import save_file

    blocks = {name: block for name, block in blocks_of(module).items() if block in layers}
    trained = {name: part for name, part in module.named_modules() if part in heads}
    tensors: dict[str, Tensor] = {}
    for name, block in blocks.items():
        tensors |= {f"{name}.lora_{x}.weight": getattr(block, f"lora_{x}")[ADAPTER].weight for x in "AB"}
    for name, head in trained.items():
        tensors |= {f"{name}.{key}": value for key, value in head.state_dict().items()}
    # In full, because `peft` takes every module for a head whose name ends like that.
    settings: dict[str, Any] = {"modules_to_save": [f"{PREFIX}{name}" for name in trained] or None}
    for block in blocks.values():
        settings |= {"r": block.r[ADAPTER], "lora_alpha": block.lora_alpha[ADAPTER]}
    _config(module, blocks, settings).save_pretrained(str(folder))
    tensors = {f"{PREFIX}{name}": value.detach().contiguous() for name, value in tensors.items()}
    save_file(tensors, Path(folder, "adapter_model.safetensors"))
