"""What a run has spent so far."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_mixcd.ranks import Ranks

__all__ = ["ALL", "TRAINED", "Spending"]

ALL, TRAINED = "compute_units", "trained_units"  # of keys in a state too


class Spending:
    """Counts compute units of all processes, those of training by themselves too.

    Args:
        ranks: The processes.
        ledger: What the ledger's pass has cost.
    """

    def __init__(self, ranks: Ranks, *, ledger: int) -> None:
        self._ranks: Ranks | None = ranks
        # Of all processes, up to where this run began or was resumed; of this process since.
        self._before = {ALL: ledger, TRAINED: 0}
        self._own = dict.fromkeys(self._before, 0)
        self._extra = (0, 0)  # as last given

    def add(self, *, trained: int, extra: tuple[int, int]) -> None:
        """Count what was spent since the last time.

        Args:
            trained: On training, by this process.
            extra: In all so far on looks at the model: by this process alone, and by all of them.
        """
        alone, shared = (now - before for now, before in zip(extra, self._extra, strict=True))
        self._own[TRAINED] += trained
        self._own[ALL] += trained + alone
        self._before[ALL] += shared
        self._extra = extra

    def guess(self, kind: str) -> int:
        """Return what was spent if other processes have spent as much as this one.

        Args:
            kind: `ALL` or `TRAINED`.

        Returns:
            Compute units.
        """
        n_ranks = 1 if self._ranks is None else self._ranks.size
        return self._before[kind] + n_ranks * self._own[kind]

    # In a copy, or from a pickle, there are no other processes.
    def __getstate__(self) -> dict[str, Any]:
        before = {kind: self.guess(kind) for kind in self._own}
        return {**vars(self), "_ranks": None, "_before": before, "_own": dict.fromkeys(before, 0)}

    def total(self, kind: str) -> int | Tensor:
        """Return what was spent; all processes must come here.

        Args:
            kind: `ALL` or `TRAINED`.

        Returns:
            Compute units; where there are several processes, on the device, so that nothing waits for them.
        """
        return (
            self.guess(kind)
            if self._ranks is None
            else self._before[kind] + self._ranks.total(self._own[kind])
        )

    def settle(self) -> None:
        """Find out what other processes have spent; all must come here."""
        self.load_state_dict(self.state_dict(together=True), extra=self._extra)

    def state_dict(self, *, together: bool) -> dict[str, int]:
        """Return what was spent.

        Args:
            together: Whether all processes are here.

        Returns:
            Compute units of each kind.
        """
        return {kind: int(self.total(kind)) if together else self.guess(kind) for kind in self._own}

    def load_state_dict(self, state: Mapping[str, Any], *, extra: tuple[int, int]) -> None:
        """Count on from a state.

        Args:
            state: It, and possibly more; earlier versions did not know what training had cost.
            extra: Of looks that are not to be counted, see `add`.
        """
        self._extra = extra
        self._before = {kind: state.get(kind, 0) for kind in self._own}
        self._own = dict.fromkeys(self._before, 0)
