"""The contract of a strategy."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.types import Outcome

__all__ = ["PoolProbe", "Strategy"]


class PoolProbe(Protocol):
    """A read-only look at the current model, handed to strategies that ask for it and counted as cost."""

    def correct(self, index: Tensor) -> Tensor:
        """Return whether the model, in eval mode, gets the pool samples `index` right: bool, `(n,)`."""
        ...

    def losses(self, index: Tensor) -> Tensor:
        """Return the loss of each of these samples in nats, in eval mode: float32, `(n,)`."""
        ...

    def confidences(self, index: Tensor) -> Tensor:
        """Return the highest probability of each of these samples, in eval mode: float32, `(n,)`."""
        ...


class Strategy(ABC):
    """Which pool samples are rehearsed next.

    A subclass must say what it selects (`setup` and `select`). One that learns also says what it learns from
    (`tally`, `update`) and what its draws read of that (`signal`).

    Learning happens on the device, in the training step; drawing happens on the host, ahead of it. Between
    the two lies `signal`: a tensor that is copied to the host while training goes on and that a draw gets a
    fixed number of draws later. A draw is a function of its signal, its generator and `draw_state` alone, so
    that a run does not depend on the timing or number of loader workers.

    Attributes:
        rehearses: False for the strategy that never draws.
        needs_ledger: Whether `setup` must be given a ledger.
        needs_columns: Columns that the ledger must have, besides `correct` and `loss`.
        needs_loss: Whether outcomes must carry the loss of each sample.
        needs_logits: Whether outcomes must carry the logits of each sample.
        needs_features: Whether outcomes must carry the input of the head for each sample; see `attach`.
        refresh_every_n_steps: How often `refresh` is called with a probe of the model; None for never.
        n_available: Samples that can be drawn, set by `setup`.
    """

    rehearses: ClassVar[bool] = True
    needs_ledger: bool = False
    needs_columns: tuple[str, ...] = ()
    needs_loss: bool = False
    needs_logits: bool = False
    needs_features: bool = False
    refresh_every_n_steps: int | None = None
    n_available: int = 0

    @abstractmethod
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        """Get ready to draw, from the very start.

        Args:
            n_pool: Size of the pool, N.
            ledger: The base model's record of the pool, if there is one.
            seed: Seed of whatever is shuffled once for the run.
        """

    @property
    def wants_head(self) -> bool:
        """Whether `attach` is to be called: where `needs_features`, as far as known before `setup`."""
        return self.needs_features

    @property
    def learns(self) -> bool:
        """Whether there is a `tally` to learn from."""
        return type(self).tally is not Strategy.tally

    def attach(self, head: nn.Module) -> None:  # noqa: B027 -- may be left as it is
        """Get to know the head, before `setup`; only where `wants_head`.

        Args:
            head: The live submodule that makes logits of features; to be read, never run.
        """

    def attach_none(self, reason: Exception) -> None:
        """Hear, instead of `attach`, that no head was found.

        Args:
            reason: Why; raised again unless the strategy can do without.
        """
        raise reason

    def setup_streams(self, sizes: Tensor, *, seed: int) -> None:  # noqa: ARG002 -- see the error
        """Get ready to draw from `Streams`, whose samples have no index of their own; instead of `setup`.

        A sample's pool index is then made of its stream and its position in it.

        Args:
            sizes: How many samples each stream stands for, in any unit, float64, `(K,)`.
            seed: Seed of whatever is shuffled once for the run.

        Raises:
            ValueError: If the strategy picks single samples of the pool, as most do.
        """
        raise ValueError(
            f"`pool` must be map-style for {type(self).__name__}, got `Streams`. Those that draw by bin can "
            "rehearse these: MixCD, Uniform, UniformCorrect, ClassBalanced; and screens with one of the last "
            "three as `source`."
        )

    @abstractmethod
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        """Choose the samples of one draw.

        Args:
            n: How many, at least 1 and at most `n_available`.
            signal: What `signal` returned some draws ago, on the CPU.
            generator: The only source of chance.

        Returns:
            Distinct pool indices, int64 on the CPU, `(n,)`.
        """

    def select_round(
        self, n_draws: int, n: int, *, signal: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Choose the samples of several draws that go by the same signal.

        By default one draw after the other; to be overridden where all at once is faster.

        Args:
            n_draws: How many draws, D.
            n: Samples of each, at least 1 and at most `n_available`.
            signal: What `signal` returned some draws ago, on the CPU.
            generator: The only source of chance.

        Returns:
            Pool indices, distinct within each draw, int64 on the CPU, `(D, n)`.
        """
        draws = [self.select(n, signal=signal, generator=generator) for _ in range(n_draws)]
        for index in draws:
            self._check_kind("select", index, (n,))
        return torch.stack(draws)

    def draw(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        """Choose the samples of one draw: `draw_round` for a round of one.

        Args:
            n: How many.
            signal: What `signal` returned some draws ago, on the CPU.
            generator: The only source of chance.

        Returns:
            Distinct pool indices, int64 on the CPU, `(n,)`.

        Raises:
            ValueError: If `n` is out of range, or `select` broke its contract.
        """
        return self.draw_round(1, n, signal=signal, generator=generator)[0]

    def draw_round(
        self, n_draws: int, n: int, *, signal: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Choose the samples to rehearse, through `select_round`, and check both sides.

        Args:
            n_draws: How many draws, D.
            n: Samples of each.
            signal: What `signal` returned some draws ago, on the CPU.
            generator: The only source of chance.

        Returns:
            Pool indices, distinct within each draw, int64 on the CPU, `(D, n)`.

        Raises:
            ValueError: If `n` is out of range, or `select` broke its contract.
        """
        name = type(self).__name__
        if not 1 <= n <= self.n_available:
            raise ValueError(
                f"`n` must be between 1 and the number of samples that {name} may draw "
                f"({self.n_available}), got {n}. Lower `mix_ratio` or give a larger pool. A strategy of your "
                "own says in `setup` how many these are: self.n_available = n_pool."
            )
        index = self.select_round(n_draws, n, signal=signal, generator=generator)
        self._check_kind("select_round", index, (n_draws, n))
        n_distinct = min(len(set(draw)) for draw in index.tolist())
        if n_distinct != n:
            raise ValueError(
                f"`{name}.select` must return {n} distinct pool indices, got {n_distinct} distinct ones."
            )
        return index

    def _check_kind(self, method: str, index: object, shape: tuple[int, ...]) -> None:
        got = f"a {type(index).__name__}"
        if isinstance(index, Tensor):
            if index.dtype == torch.int64 and index.shape == shape and index.device.type == "cpu":
                return
            got = f"{index.dtype} of shape {tuple(index.shape)} on {index.device}"
        raise ValueError(
            f"`{type(self).__name__}.{method}` must return pool indices as an int64 tensor of shape {shape} "
            f"on the CPU, got {got}. Return for example torch.tensor(index), or x.topk(n).indices.cpu()."
        )

    def context(self, index: Tensor) -> Mapping[str, Tensor]:  # noqa: ARG002 -- there is nothing to know
        """Look up, on the host, what `tally` will need to know about drawn samples on the device.

        Args:
            index: Pool indices, int64, `(R,)`.

        Returns:
            Tensors by name, each `(R, ...)`; they come back as `Outcome.context`.
        """
        return {}

    def tally(self, outcome: Outcome) -> Tensor | None:  # noqa: ARG002 -- there is nothing to learn
        """Boil an outcome down to numbers that may be summed over ranks.

        Args:
            outcome: What this rank's part of a training step revealed.

        Returns:
            Sums on the device of the outcome, of the same shape on every rank; None to learn nothing.
        """
        return None

    def update(self, tally: Tensor, *, steps: float) -> None:  # noqa: B027 -- may be left as it is
        """Learn from a tally, after it was summed over ranks.

        Args:
            tally: The sum of all ranks' tallies, on the device.
            steps: Optimizer steps since the last update; a fraction under gradient accumulation.
        """

    def signal(self) -> Tensor | None:
        """Return what the draws read of the learnt state; never changed in place afterwards."""
        return None

    def refresh(self, probe: PoolProbe) -> None:  # noqa: B027 -- may be left as it is
        """Look at the model; called every `refresh_every_n_steps` optimizer steps.

        Args:
            probe: A read-only look at the current model. Each sample asked for costs a forward. Processes
                share these, so all of them must ask for the same samples.
        """

    def metrics(self) -> Mapping[str, Tensor]:
        """Return what is worth logging: 0-dim tensors on the device, by name."""
        return {}

    def draw_state(self) -> Tensor:
        """Return what earlier draws left behind, int64; a copy."""
        return torch.zeros(0, dtype=torch.int64)

    def load_draw_state(self, state: Tensor) -> None:  # noqa: B027 -- may be left as it is
        """Take over what `draw_state` returned.

        Args:
            state: The state, int64.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was learnt, for a checkpoint; names and shapes stay the same from `setup` on."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027 -- may be left as it is
        """Take over what `state_dict` returned.

        Args:
            state: The state.
        """
