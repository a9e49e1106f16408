"""A pool without random access: one stream of samples per bin."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isfinite
from typing import Any, NoReturn

import torch
from torch.utils.data import Dataset

__all__ = ["Streams"]


class Streams(Dataset[Any]):
    """Pretrain samples that can only be read one after the other, from one stream per bin.

    Each stream is a bin: mix-cd learns its damage rate, and rehearses its samples in the order in which they
    come. A stream that ends begins anew; one with `set_epoch` is told the number of the pass. Random numbers
    that a stream draws must come from a seed of its own, and every process must see the whole of it.

    Args:
        streams: What to iterate, by name: datasets of Hugging Face in streaming mode, a torch
            `IterableDataset`, or any object that can be iterated again and again. Their order must stay.
        sizes: How many samples each stream stands for, in any unit; equal if None. Mix-cd and `Uniform` weigh
            the streams by it.
        base_correct: Whether the base model had a sample right: the key of a field, which is then taken out
            of the sample, or a function of the sample. Samples it had wrong are passed over. None takes all
            of them to be right; what is wrong now then counts as damaged.

    Raises:
        TypeError: If a stream cannot be iterated, or only once.
        ValueError: If there is no stream, or the sizes do not fit.

    Example:
        >>> pool = Streams({"news": range(100), "wiki": range(300)}, sizes={"news": 1, "wiki": 3})
        >>> pool.sizes
        tensor([1., 3.], dtype=torch.float64)
    """

    def __init__(
        self,
        streams: Mapping[str, Iterable[Any]],
        *,
        sizes: Mapping[str, float] | None = None,
        base_correct: str | Callable[[Any], bool] | None = None,
    ) -> None:
        if not streams:
            raise ValueError("`streams` must hold at least one stream, got none.")
        for name, stream in streams.items():
            if not isinstance(stream, Iterable) or isinstance(stream, Iterator):
                raise TypeError(
                    f"`streams` must be iterables that can begin anew, got {type(stream).__name__} for "
                    f"{name!r}. Pass an `IterableDataset`, or an object whose `__iter__` is a generator."
                )
        sizes = dict.fromkeys(streams, 1) if sizes is None else sizes
        if {*sizes} != {*streams} or not all(size > 0 and isfinite(size) for size in sizes.values()):
            raise ValueError(
                f"`sizes` must have a number above 0 for each of {[*streams]}, got {dict(sizes)}. "
                "Leave it out where all streams count alike."
            )
        self.streams, self.base_correct = dict(streams), base_correct
        self.sizes = torch.tensor([sizes[name] for name in streams], dtype=torch.float64)

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self.streams)

    def __getitem__(self, index: int) -> NoReturn:
        raise TypeError(
            "`Streams` have no random access, so no ledger can be recorded of them and no sample looked up. "
            "Say what the base model had right with Streams(..., base_correct=...), or pass a map-style pool."
        )

    def judge(self, name: str, sample: Any) -> tuple[bool, Any]:  # noqa: ANN401 -- whatever is streamed
        """Return whether the base model had a sample right, and the sample as it is rehearsed.

        Args:
            name: The stream it is of.
            sample: The sample.

        Returns:
            Both.

        Raises:
            ValueError: If there is no such field, or what is said is neither true nor false.
        """
        field = self.base_correct
        if field is None:
            return True, sample
        if not isinstance(field, str):
            return _flag(field(sample), name), sample
        if not isinstance(sample, Mapping) or field not in sample:
            raise ValueError(
                f"`base_correct` must be a field of every sample, got {field!r}, which a "
                f"{type(sample).__name__} of stream {name!r} does not have. Pass a function of the sample."
            )
        return _flag(sample[field], name), {key: value for key, value in sample.items() if key != field}


# Any text would be true, "False" too.
def _flag(value: Any, stream: str) -> bool:  # noqa: ANN401 -- whatever is streamed
    plain = value.tolist() if hasattr(value, "tolist") else value
    if plain not in (0, 1):
        raise ValueError(
            f"`base_correct` must say True or False (or 1 or 0) of every sample, got {value!r} in stream "
            f"{stream!r}. Pass a function of the sample, such as lambda sample: sample['right'] == 'yes'."
        )
    return bool(plain)
