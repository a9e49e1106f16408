"""Classification of sentences and of pairs of sentences, with a model that is trained as a whole."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.rows import TextRows
from lightning_mixcd.tasks.texts import joint_labels
from lightning_mixcd.tasks.tokenized import Sample, tokenized_pairing
from lightning_mixcd.tasks.tokenizers import named_tokenizer
from lightning_mixcd.tasks.transformer import Batch, TransformerModule

__all__ = ["SentenceClassifier", "sentence_pairing"]


class SentenceClassifier(TransformerModule):
    """Classifies a sentence or a pair of them; a row is right if its highest logit is its class's.

    `training_step` returns the model's output as it is, so rehearsal reads the logits.
    """

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Mapping[str, Tensor]:
        outputs: Mapping[str, Tensor] = self.network(**batch)
        return outputs

    @override
    def scores(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": outputs["logits"].argmax(dim=1) == batch["labels"]}


def sentence_pairing(
    prior: TextRows, new: TextRows, *, tokenizer: str | None = None, batch_size: int = 32
) -> Pairing:
    """Classify sentences, or pairs of them: one task, then another in the same space of labels.

    Both tasks need the columns `text` and `label`, by these names or by `names`. Where `names` has
    `text_pair` too, rows are pairs.

    Args:
        prior: The earlier task. Its `columns` come along for partitions.
        new: The task to finetune on.
        tokenizer: Name or folder of the model that will read the texts; by default the encoder of the extra
            `bench`.
        batch_size: Samples per batch, in both tasks.

    Returns:
        The pairing. Batches hold `input_ids`, `attention_mask`, `labels`, and what else the model reads.

    Raises:
        ValueError: If a column or a text is not there, a text is longer than the model can read, or labels do
            not match.
    """
    from transformers import DataCollatorWithPadding

    reader = named_tokenizer(tokenizer)
    loaded = [
        task.load(split, ["text", "label"]) for task in (prior, new) for split in (task.train, task.val)
    ]
    labels = joint_labels([np.asarray(rows["label"]) for rows in loaded])
    splits = [
        _samples(reader, rows["text"], rows.get("text_pair"), classes.tolist())
        for rows, classes in zip(loaded, labels, strict=True)
    ]
    collate_fn = DataCollatorWithPadding(reader)
    columns = prior.kept(loaded[0])
    return tokenized_pairing(splits, reader, collate_fn, columns=columns, batch_size=batch_size)


def _samples(
    tokenizer: Any,  # noqa: ANN401 -- of `transformers`
    texts: list[str],
    pairs: list[str] | None,
    labels: list[int],
) -> list[Sample]:
    encoded = tokenizer(texts, pairs, return_attention_mask=False)
    return [
        {**{key: values[k] for key, values in encoded.items()}, "labels": label}
        for k, label in enumerate(labels)
    ]
