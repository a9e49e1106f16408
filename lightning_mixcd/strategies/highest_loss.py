"""Rehearse what has the highest loss."""

from typing_extensions import override

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._candidates import HardestFirst
from lightning_mixcd.strategies._recorded import Records

__all__ = ["HighestLoss"]


class HighestLoss(HardestFirst):
    """Draw, of some random candidates, those with the highest loss.

    The highest of the whole pool would be the same few samples in every draw. Candidates come in shuffled
    order, each pool sample once, then all again; of a small pool, at most half of what could be left out is
    looked at.

    Args:
        source: Where losses come from: the `"ledger"`; the pass in which the sample was `"last_seen"`, first
            that of the ledger; or a `"refresh"`, a pass over the pool now and then.
        candidates_per_row: Candidates per sample drawn, at least 1, which is uniform rehearsal.
        every_n_steps: With `"refresh"`, optimizer steps between two passes, at least 1.
        correct_only: Whether only base-correct samples are drawn.

    Raises:
        ValueError: If an argument is out of range, or `correct_only` leaves no sample.

    Example:
        >>> import numpy, torch
        >>> ledger = Ledger.from_arrays(correct=[True] * 100, loss=numpy.linspace(0, 1, 100))
        >>> strategy = HighestLoss("ledger")
        >>> strategy.setup(100, ledger, seed=0)
        >>> index = strategy.draw(4, signal=None, generator=torch.Generator())
        >>> bool((ledger.loss[index] > 0.5).all())
        True
    """

    @override
    def recorded(self, ledger: Ledger) -> Records:
        return ledger.loss
