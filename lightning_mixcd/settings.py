"""What a rehearsal is asked to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_mixcd.capture import Readout
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.penalties.base import Penalty
from lightning_mixcd.schedules import Schedule
from lightning_mixcd.strategies import Strategy

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """What a session is asked to do; see `RehearsalCallback` for each.

    Args:
        strategy: Which samples are rehearsed.
        pool: The samples that may be.
        ledger: The base model's record of them, or its folder.
        mix_ratio: Rehearsed samples per finetune sample.
        schedule: At which optimizer steps.
        readout: Where correctness is found.
        seed: Seed of all draws.
        penalties: What else holds on to what the base model knew.
        rehearsal_weight: Weight of a rehearsed row in the loss.

    Raises:
        ValueError: If the readout compares with a ledger and there is none.
    """

    strategy: Strategy
    pool: Pool
    ledger: Ledger | str | Path | None
    mix_ratio: float
    schedule: Schedule
    readout: Readout
    seed: int
    penalties: Sequence[Penalty] = ()
    rehearsal_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.readout.tolerance is not None and self.ledger is None:
            raise ValueError(
                f"`ledger` must be given, because Readout(tolerance={self.readout.tolerance}) compares with "
                "its losses. Pass a folder, RehearsalCallback(ledger='base.ledger'): it is recorded there if "
                "it is empty. For `Streams`, which can have none, leave out `tolerance`."
            )
