"""Whether model, tokenizers and texts fit together, asked before the first step."""

from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_mixcd.data import Pool
from lightning_mixcd.data.order import OrderedFetch
from lightning_mixcd.data.vocabularies import check_alike, tokenizer_of
from lightning_mixcd.tasks.tokenizers import check_lengths

__all__ = ["check_inputs", "n_positions"]


class Source(NamedTuple):
    """Where texts come from.

    Args:
        name: What to call it.
        dataset: Its samples.
        collate_fn: Makes batches of them.
    """

    name: str
    dataset: Any
    collate_fn: Any


def check_inputs(trainer: Trainer, module: LightningModule) -> None:
    """Refuse texts that a Transformers model cannot read, or that were not tokenized alike.

    What is not known is not asked about: loaders of another kind, samples that are not held as lists of
    tokens, models that do not tell their size.

    Args:
        trainer: The trainer; of its loaders those are asked about that were made.
        module: The module, with the model as `network`.

    Raises:
        ValueError: If a tokenizer has more tokens than the model, a text is longer than the model can read or
            write, a label is no class of the model, a model that reads the last token of a text does not know
            padding from it, or validation data were read by another tokenizer.
    """
    network: Any = module.network
    # Models of pictures and texts have one for each.
    config, first = network.config.get_text_config(), None
    limit = n_positions(network)
    for source in _sources(trainer):
        if (tokenizer := tokenizer_of(source)) is not None:
            _check_vocabulary(source.name, tokenizer, config)
            first = first or source
            if source.name != "pool":  # which `RehearsalCallback` asks about
                check_alike(first.name, first, source.name, source)
        samples = source.dataset
        if not isinstance(samples, list) or not samples or not {"input_ids", "labels"} & {*samples[0]}:
            continue
        if limit is not None:
            for key in ("input_ids", "labels"):
                value = samples[0].get(key)
                if isinstance(value, Sized) and not (isinstance(value, Tensor) and value.ndim == 0):
                    check_lengths(samples, limit, key)
        if isinstance(samples[0].get("labels"), int):
            _check_labels(source.name, max(sample["labels"] for sample in samples), network.config)
            if tokenizer is not None:
                _check_padding(network, tokenizer, config)


def n_positions(network: Any) -> int | None:  # noqa: ANN401 -- of `transformers`
    """Return how many tokens a Transformers model can read, and how many its decoder can write.

    Args:
        network: The model.

    Returns:
        The number; None if the model does not tell one.
    """
    limit: int = getattr(network.config.get_text_config(), "max_position_embeddings", 0)
    for name, part in network.named_modules():
        # RoBERTa and its like number positions from behind that of padding.
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            limit = part.num_embeddings - part.padding_idx - 1
    return limit if limit > 0 else None  # XLNet says -1


def _sources(trainer: Trainer) -> Iterator[Source]:
    loaders: Any = trainer.val_dataloaders
    loaders = loaders if isinstance(loaders, list | tuple) else [loaders]
    named = [("finetune data", trainer.train_dataloader), *(("validation data", each) for each in loaders)]
    for name, loader in named:
        dataset = getattr(loader, "dataset", None)
        # A loader made by `order_seed` leaves it to its dataset to collate.
        holder = dataset if isinstance(dataset, OrderedFetch) else loader
        yield Source(name, getattr(holder, "dataset", None), getattr(holder, "collate_fn", None))
    owners: list[Any] = [getattr(trainer, "datamodule", None), *trainer.callbacks]  # type: ignore[attr-defined]
    for owner in owners:
        if isinstance(pool := getattr(owner, "pool", None), Pool):
            yield Source("pool", pool.dataset, pool.collate_fn)


def _check_vocabulary(name: str, tokenizer: Any, config: Any) -> None:  # noqa: ANN401
    limit = getattr(config, "vocab_size", None)
    if limit is not None and len(tokenizer) > limit:
        raise ValueError(
            f"The tokenizer of the {name} must have at most the {limit} tokens of the model, got "
            f"{len(tokenizer)}. Name the same model for both, or raise the model's `vocab_size`."
        )


def _check_labels(name: str, highest: int, config: Any) -> None:  # noqa: ANN401
    if highest >= config.num_labels:
        raise ValueError(
            f"Labels of the {name} must be below the {config.num_labels} classes of the model, got "
            f"{highest}. Give the model more, as in load_network(..., num_labels=...), or number the "
            "classes from 0."
        )


def _check_padding(network: Any, tokenizer: Any, config: Any) -> None:  # noqa: ANN401
    # So are called the heads that read the last token which is no padding; all else goes by the mask.
    if hasattr(network, "score") and config.pad_token_id != tokenizer.pad_token_id:
        raise ValueError(
            f"The model must find the end of a text by the token {tokenizer.pad_token_id}, with which the "
            f"tokenizer pads, got `pad_token_id` {config.pad_token_id}. Set it, as in load_network(..., "
            f"pad_token_id={tokenizer.pad_token_id})."
        )
    if getattr(config, "summary_type", None) == "last":
        raise ValueError(
            "The model must not read the last position, where padding is, as "
            f"{type(network).__name__} does. Use another model."
        )
