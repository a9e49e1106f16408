"""Where one stream of samples is being read, and how its reading goes on elsewhere."""

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lightning_mixcd.data.streams import Streams
from lightning_mixcd.errors import PoolError
from lightning_mixcd.ledger.digest import digest_sample

__all__ = ["Cursor"]

MANY = 100_000
END = object()


class Cursor:
    """Reads the base-correct samples of one stream, pass after pass.

    Args:
        streams: All streams.
        name: Which of them.
    """

    def __init__(self, streams: Streams, name: str) -> None:
        self._streams, self._name = streams, name
        self._pass, self._begun = 0, 0  # number of the pass, and the position at its beginning
        self._position = 0  # base-correct samples read so far, over all passes
        self._state: Any = None  # of the stream at this position, if it is known
        self._following = ""  # digest of the sample that comes next, if the state is known
        self._samples: Iterator[Any] | None = None  # what is left of this pass
        self._source: Any = None  # what they come from
        self._ahead: list[Any] = []  # the sample that was looked at too early

    def read(self, position: int) -> object:
        """Return the base-correct sample at a position, which must be after the last one's.

        Args:
            position: Which one, from 0.

        Returns:
            The sample.
        """
        if position - self._position > MANY:
            warnings.warn(
                f"Stream {self._name!r} is read up to sample {position} from sample {self._position}, for "
                "want of a state nearer by. This may take a while.",
                stacklevel=2,
            )
        while True:
            correct, sample = self._streams.judge(self._name, self._next())
            if correct:
                self._position += 1
                if self._position > position:
                    return sample

    def state_dict(self) -> dict[str, Any]:
        """Return where the reading stands; without a state of the stream, where its pass began."""
        if self._samples is not None and not self._ahead and _has_state(self._source):
            # Its owner may go on changing it.
            state = copy.deepcopy(self._source.state_dict())
            self._ahead.append(self._pull())
            if self._ahead[0] is END:
                self._end_pass()
            elif _is_plain(state):
                self._state, self._following = state, _digest(self._ahead[0])
        return {
            "pass": self._pass,
            "begun": self._begun,
            "position": self._begun if self._state is None else self._position,
            "state": self._state,
            "following": self._following,
        }

    def load_state_dict(self, saved: Mapping[str, Any], first: int) -> None:
        """Begin where another cursor stood, or where its pass began, if that is not too far.

        Args:
            saved: The state.
            first: The first position that will be asked for.
        """
        if saved["begun"] > first:
            return
        self._pass, self._begun, self._position = saved["pass"], saved["begun"], saved["begun"]
        if saved["position"] <= first:
            self._position = saved["position"]
            self._state, self._following = saved["state"], saved["following"]

    def close(self) -> None:
        """Let go of the stream."""
        self._samples = self._source = None

    def _next(self) -> object:
        while True:
            if self._samples is None:
                self._begin_pass()
            sample = self._ahead.pop() if self._ahead else self._pull()
            self._state = None
            if sample is not END:
                return sample
            self._end_pass()

    def _begin_pass(self) -> None:
        source: Any = self._streams.streams[self._name]
        epoch = getattr(source, "set_epoch", None)
        if epoch is not None or _has_state(source):
            # It stays as the user made it; and workers would share the epoch of a Hugging Face dataset.
            source = self._copied(source)
        if epoch is not None:
            source.set_epoch(self._pass)
        if self._state is not None:
            source.load_state_dict(copy.deepcopy(self._state))
        self._source, self._samples, self._ahead = source, iter(source), []
        if self._state is not None:
            self._ahead = [self._pull()]
            if _digest(self._ahead[0]) != self._following:
                warnings.warn(
                    f"Stream {self._name!r} does not go on where its state was saved: shuffle buffers "
                    f"are in no state. It is read again, from sample {self._begun} to {self._position}.",
                    stacklevel=2,
                )
                self._position, self._state = self._begun, None
                self._begin_pass()

    def _copied(self, source: object) -> object:
        try:
            return copy.deepcopy(source)
        except Exception as error:
            raise TypeError(
                "`streams` with `set_epoch` or a state must be what can be copied, since each pass reads a "
                f"copy, but copying stream {self._name!r} raised {error!r}. Open clients and files in its "
                "`__iter__`, or let it define `__deepcopy__`."
            ) from error

    def _end_pass(self) -> None:
        if self._position == self._begun:
            raise PoolError(
                f"`streams` must have samples that the base model got right, but stream {self._name!r} gave "
                f"none in pass {self._pass}. Leave it out, or check `base_correct` and that it can be read "
                "more than once."
            )
        self._pass, self._begun, self._state = self._pass + 1, self._position, None
        self._samples, self._source, self._ahead = None, None, []

    def _pull(self) -> object:
        assert self._samples is not None  # noqa: S101 -- begun by `_next`
        try:
            return next(self._samples, END)
        except Exception as error:
            raise PoolError(
                f"Stream {self._name!r} must give every sample, but raised {error!r} in pass {self._pass}, "
                f"after {self._position - self._begun} base-correct samples. Mend it, or let it pass over "
                "what it cannot read."
            ) from error


def _has_state(stream: object) -> bool:
    """Return whether a stream can save its state without being told how far it was read."""
    save, load = getattr(stream, "state_dict", None), getattr(stream, "load_state_dict", None)
    if save is None or load is None:
        return False
    return all(p.default is not p.empty for p in inspect.signature(save).parameters.values())


def _is_plain(state: object) -> bool:
    """Return whether a checkpoint with this state can be loaded with `weights_only=True`."""
    if isinstance(state, Mapping):
        return type(state) is dict and _is_plain([*state.keys(), *state.values()])
    if isinstance(state, list | tuple):
        return type(state) in {list, tuple} and all(map(_is_plain, state))
    return state is None or type(state) in {bool, int, float, str, bytes} or isinstance(state, Tensor)


def _digest(sample: object) -> str:
    return "" if sample is END else digest_sample(sample).values
