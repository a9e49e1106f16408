"""Extractive question answering: the answer is a span of the text, or there is none."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.rows import TextRows
from lightning_mixcd.tasks.tokenized import Sample, tokenized_pairing
from lightning_mixcd.tasks.tokenizers import named_tokenizer
from lightning_mixcd.tasks.transformer import Batch, TransformerModule

__all__ = ["SpanReader", "span_f1", "span_pairing"]


class SpanReader(TransformerModule):
    """Finds where an answer starts and ends; a row is right if both are.

    The loss of a row is the mean of the losses of its start and its end. No answer is the span of token 0.
    Padding is no candidate, so rows do not depend on what they share a batch with. Validation logs the
    accuracy, which is exact match, and `f1`, see `span_f1`.
    """

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        targets = {"start_positions", "end_positions"}
        outputs = self.network(**{key: values for key, values in batch.items() if key not in targets})
        padding = batch["attention_mask"] == 0
        start = outputs["start_logits"].float().masked_fill(padding, -torch.inf)
        end = outputs["end_logits"].float().masked_fill(padding, -torch.inf)
        true_start, true_end = batch["start_positions"], batch["end_positions"]
        start_losses = cross_entropy(start, true_start, reduction="none")
        losses = (start_losses + cross_entropy(end, true_end, reduction="none")) / 2
        first, last = start.argmax(dim=1), end.argmax(dim=1)
        correct = (first == true_start) & (last == true_end)
        return {"loss": losses.mean(), "losses": losses, "correct": correct, "first": first, "last": last}

    @override
    def scores(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        true = batch["start_positions"], batch["end_positions"]
        return {"accuracy": outputs["correct"], "f1": span_f1((outputs["first"], outputs["last"]), true)}


def span_f1(found: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> Tensor:
    """Return the F1 of the tokens of two spans: twice those in both, over those in each.

    Args:
        found: First and last token of the spans found, int64, `(B,)` each; a span that ends before it starts
            is empty.
        true: Those of the answers.

    Returns:
        F1 of each row, `(B,)`; of rows without an answer 1 if none was found, else 0.

    Example:
        >>> span_f1((torch.tensor([2]), torch.tensor([3])), (torch.tensor([3]), torch.tensor([4])))
        tensor([0.5000])
    """
    both = torch.minimum(found[1], true[1]) - torch.maximum(found[0], true[0]) + 1
    lengths = [(last - first + 1).clamp(min=0) for first, last in (found, true)]
    # A span from token 0 on that is longer is an answer.
    both = both.masked_fill((true[1] == 0) & (found[1] > 0), 0)
    return 2 * both.clamp(min=0) / (lengths[0] + lengths[1])


def span_pairing(
    prior: TextRows, new: TextRows, *, tokenizer: str | None = None, batch_size: int = 32
) -> Pairing:
    """Find answers in texts: one task, then another.

    Both tasks need the columns `question`, `context`, `start` and `end`, by these names or by `names`: the
    answer is `context[start:end]`, in characters; -1 for both says that there is none.

    Args:
        prior: The earlier task. Its `columns` come along for partitions.
        new: The task to finetune on.
        tokenizer: Name or folder of the model that will read the texts, which must set a token of its own
            before them; by default the encoder of the extra `bench`.
        batch_size: Samples per batch, in both tasks.

    Returns:
        The pairing. Batches hold `input_ids`, `attention_mask`, `start_positions`, `end_positions`, and what
        else the model reads.

    Raises:
        ValueError: If a column or a text is not there, a text is longer than the model can read, or an answer
            is not in its context.
    """
    from transformers import DataCollatorWithPadding

    reader = named_tokenizer(tokenizer)
    needed = ["question", "context", "start", "end"]
    loaded = [task.load(split, needed) for task in (prior, new) for split in (task.train, task.val)]
    splits = [_samples(reader, rows) for rows in loaded]
    collate_fn = DataCollatorWithPadding(reader)
    columns = prior.kept(loaded[0])
    return tokenized_pairing(splits, reader, collate_fn, columns=columns, batch_size=batch_size)


def _samples(tokenizer: Any, rows: Mapping[str, list[Any]]) -> list[Sample]:  # noqa: ANN401
    encoded = tokenizer(rows["question"], rows["context"], return_attention_mask=False)
    samples = []
    for k, (start, end) in enumerate(zip(rows["start"], rows["end"], strict=True)):
        tokens = [0, 0]
        if (start, end) != (-1, -1):
            answer = _characters(rows["context"][k], start, end)
            found = [encoded.char_to_token(k, at, sequence_index=1) for at in answer]
            tokens = [token for token in found if token is not None]  # such as an accent of its own has none
        if not tokens:
            raise ValueError(
                "`start` and `end` must be whole numbers, a span of `context`, or both -1 where there is no "
                f"answer, got {start} and {end} in row {k}: {rows['context'][k]!r}. Correct them."
            )
        inputs = {key: values[k] for key, values in encoded.items()}
        samples.append({**inputs, "start_positions": tokens[0], "end_positions": tokens[-1]})
    return samples


# Of a span, without spaces, which belong to no answer.
def _characters(text: str, start: Any, end: Any) -> list[int]:  # noqa: ANN401 -- whatever the rows hold
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
        return []
    return [at for at in range(start, end) if not text[at].isspace()]
