"""What a model writes by itself, one token after the other, and how good that is."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_mixcd.tasks.checks import n_positions

__all__ = ["SCORES", "GenerationScores", "last_number"]

NUMBER = re.compile(r"(?:(?<![\d)])-)?\d+(?:,\d{3})*(?:\.\d+)?")
Text = tuple[str, str, str, str]  # name of the loader, prefix of the prompt, text written, true text


class GenerationScores:
    """Has a `Writer` write validation texts by itself and scores them.

    The token with the highest logit is taken each time. Logs `val/<name>/<score>`, and with `by_prefix` also
    `val/<name>/<score>/<prefix>`. The tokenizer is that of the loader's `collate_fn`, which those of
    `transformers` have.

    Args:
        scores: Of `"bleu"` and `"chrf"` (as sacreBLEU computes them over all texts), `"exact"` (share of
            texts that are the true ones) and `"number"` (share whose last number is that of the true text, as
            answers are compared on GSM8K); all in [0, 1].
        rows: Rows of each validation loader that are written, per process; the first ones.
        by_prefix: Whether prompts begin with the name of what is asked for and a colon, as in
            `"de: A dog runs."`. Then there are so many rows of each, and a score of each.
        max_new_tokens: Tokens after which a text is cut off; fewer where the model has no positions left.

    Raises:
        ValueError: If a score is no known word, there is none, or a number is below 1.
        ModuleNotFoundError: If `sacrebleu` is needed and not installed.
    """

    def __init__(
        self, scores: Sequence[str], *, rows: int = 128, by_prefix: bool = False, max_new_tokens: int = 64
    ) -> None:
        if not scores or not {*scores} <= {*SCORES}:
            raise ValueError(f"`scores` must be some of {[*SCORES]}, got {[*scores]}. Name some of them.")
        if rows < 1 or max_new_tokens < 1:
            raise ValueError(
                f"`rows` and `max_new_tokens` must be at least 1, got {rows} and {max_new_tokens}. Raise "
                "them, or leave `generation` away."
            )
        if {"bleu", "chrf"} & {*scores} and find_spec("sacrebleu") is None:
            raise ModuleNotFoundError(
                "`scores` with bleu or chrf needs the extra `bench`: pip install 'lightning-mixcd[bench]'."
            )
        self.scores, self.rows, self.by_prefix = tuple(scores), rows, by_prefix
        self.max_new_tokens = max_new_tokens
        self.forget()

    def forget(self) -> None:
        """Drop the texts written so far, such as those of a validation that was interrupted."""
        self._texts: list[Text] = []
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, network: Any, batch: Mapping[str, Tensor], collate_fn: object, name: str) -> None:  # noqa: ANN401
        """Write the texts of a batch, as far as there are not enough of its loader.

        Args:
            network: A Transformers model that can `generate`.
            batch: The batch: `input_ids`, `attention_mask` and `labels`.
            collate_fn: What made it.
            name: Name of its loader.

        Raises:
            TypeError: If `collate_fn` has no tokenizer.
            ValueError: If prompts are told apart by their prefix, and one has none.
        """
        tokenizer: Any = getattr(collate_fn, "tokenizer", None)
        if tokenizer is None:
            raise TypeError(
                "`collate_fn` of the validation loaders must have a `tokenizer` where texts are to be "
                f"written, got {type(collate_fn).__name__}. Use one of `transformers`, such as "
                "DataCollatorForSeq2Seq."
            )
        if not self.by_prefix and self._counts[name, ""] >= self.rows:
            return
        labels, prompted = batch["labels"], batch["attention_mask"] == 1
        if not network.config.is_encoder_decoder:
            prompted &= labels == -100
        prompts = [ids[there] for ids, there in zip(batch["input_ids"], prompted, strict=True)]
        chosen = list(self._choose(tokenizer.batch_decode(prompts, skip_special_tokens=True), name))
        if not chosen:
            return
        tokens = self._write(network, [prompts[row] for row, _ in chosen], tokenizer)
        targets = [labels[row][labels[row] != -100] for row, _ in chosen]
        written, true = (tokenizer.batch_decode(part, skip_special_tokens=True) for part in (tokens, targets))
        prefixes = [prefix for _, prefix in chosen]
        self._texts += zip([name] * len(chosen), prefixes, written, true, strict=True)

    def compute(self) -> dict[str, float]:
        """Score the texts of all processes, and forget them.

        Returns:
            Scores by the name to log them by.
        """
        texts = _of_all_processes(self._texts)
        self.forget()
        groups: dict[tuple[str, str], list[Text]] = {}
        for text in texts:
            for suffix in {"", f"/{text[1]}" if self.by_prefix else ""}:
                groups.setdefault((text[0], suffix), []).append(text)
        return {
            f"val/{name}/{score}{suffix}": SCORES[score](
                [written for *_, written, _ in group], [true for *_, true in group]
            )
            for (name, suffix), group in sorted(groups.items())
            for score in self.scores
        }

    def _choose(self, prompts: Sequence[str], name: str) -> Iterator[tuple[int, str]]:
        for row, prompt in enumerate(prompts):
            prefix, colon, _ = prompt.partition(":") if self.by_prefix else ("", ":", "")
            if not colon:
                raise ValueError(
                    "Every prompt must begin with a prefix and a colon where `by_prefix` is set, got "
                    f"{prompt!r}. Write one before it, or leave `by_prefix` away."
                )
            if self._counts[name, prefix] < self.rows:
                self._counts[name, prefix] += 1
                yield row, prefix

    def _write(self, network: Any, prompts: list[Tensor], tokenizer: Any) -> list[Tensor]:  # noqa: ANN401
        most, limit = self.max_new_tokens, n_positions(network)
        rooms = [most] * len(prompts)
        if limit is not None:
            # A decoder has all positions for itself.
            taken = [0 if network.config.is_encoder_decoder else len(prompt) for prompt in prompts]
            rooms = [max(1, min(most, limit - n)) for n in taken]
        written: dict[int, Tensor] = {}
        for room in {*rooms}:
            alike = [row for row, own in enumerate(rooms) if own == room]
            tokens = _generate(network, [prompts[row] for row in alike], tokenizer, room)
            written |= zip(alike, tokens, strict=True)
        return [written[row] for row in range(len(prompts))]


def _generate(network: Any, prompts: list[Tensor], tokenizer: Any, max_new_tokens: int) -> Tensor:  # noqa: ANN401
    has_decoder = network.config.is_encoder_decoder
    # What goes on where the prompt ends needs all of them to end at the same place.
    side = "right" if has_decoder else "left"
    inputs = pad_sequence(prompts, batch_first=True, padding_value=tokenizer.pad_token_id, padding_side=side)
    ones = [torch.ones_like(prompt) for prompt in prompts]
    mask = pad_sequence(ones, batch_first=True, padding_side=side)
    tokens: Tensor = network.generate(
        input_ids=inputs,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return tokens if has_decoder else tokens[:, inputs.shape[1] :]


def last_number(text: str) -> float | None:
    """Return the last number of a text, or None.

    Args:
        text: The text.

    Returns:
        The number; commas between thousands are read over.

    Example:
        >>> last_number("48 + 24 = 72, so #### 1,072.50"), last_number("none")
        (1072.5, None)
    """
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _bleu(written: Sequence[str], true: Sequence[str]) -> float:
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(written, [true]).score) / 100


def _chrf(written: Sequence[str], true: Sequence[str]) -> float:
    from sacrebleu import corpus_chrf

    return float(corpus_chrf(written, [true]).score) / 100


def _exact(written: Sequence[str], true: Sequence[str]) -> float:
    return _share(a.strip() == b.strip() for a, b in zip(written, true, strict=True))


def _number(written: Sequence[str], true: Sequence[str]) -> float:
    numbers = [(last_number(a), last_number(b)) for a, b in zip(written, true, strict=True)]
    return _share(b is not None and a == b for a, b in numbers)


def _share(right: Iterator[bool]) -> float:
    each = [*right]
    return sum(each) / len(each)


SCORES: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "bleu": _bleu,
    "chrf": _chrf,
    "exact": _exact,
    "number": _number,
}


def _of_all_processes(texts: list[Text]) -> list[Text]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return texts
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, texts)
    return [text for part in parts for text in part]
