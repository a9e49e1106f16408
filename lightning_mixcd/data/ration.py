"""How many rows each step rehearses."""

import math
from fractions import Fraction

from lightning_mixcd.errors import check_number

__all__ = ["Ration"]

MOST = 16
SHARE = 1_000_000  # Shares are whole numbers of these parts: tenths and hundredths stay what they are.


class Ration:
    """Keeps rehearsed rows at `mix_ratio` per finetune row, exactly, whatever the sizes of the batches.

    What a step's share leaves behind the point is carried over: after every step the rows given so far are
    the sum of `mix_ratio * share * finetune rows` over all steps, rounded down.

    Args:
        mix_ratio: Rehearsed rows per finetune row, in (0, 16].

    Raises:
        ValueError: If `mix_ratio` is out of range.

    Example:
        >>> ration = Ration(0.25)
        >>> [ration.due(10) for _ in range(4)]
        [2, 3, 2, 3]
        >>> [ration.due(10, share=0.2) for _ in range(4)]
        [0, 1, 0, 1]
    """

    def __init__(self, mix_ratio: float) -> None:
        check_number(mix_ratio=mix_ratio)
        if not 0 < mix_ratio <= MOST:
            raise ValueError(
                f"`mix_ratio` must be above 0 and at most {MOST} rehearsed samples per finetune sample, got "
                f"{mix_ratio}. Use the strategy `NoRehearsal()` to rehearse nothing."
            )
        # Through the decimal text: 0.1 is meant as one tenth, not as the binary number next to it.
        self._rows, self._per = Fraction(str(mix_ratio)).as_integer_ratio()
        # Finetune rows, each times the share of its step in millionths.
        self.finetune_rows, self.given_rows = 0, 0

    def due(self, finetune_rows: int, share: bool | float = 1) -> int:
        """Return how many rows to rehearse beside a finetune batch.

        Args:
            finetune_rows: Rows of the finetune batch.
            share: Which part of the mix ratio is rehearsed now, in [0, 1], rounded to a millionth.

        Returns:
            Rows due, 0 or more.

        Raises:
            ValueError: If `share` is out of range.
        """
        try:
            number = float(1.0 * share)  # texts cannot be multiplied by it
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number <= 1:
            raise ValueError(
                f"A schedule must return a bool or a share of the mix ratio in [0, 1], got {share}. Raise "
                "`mix_ratio` to rehearse more."
            )
        self.finetune_rows += finetune_rows * round(number * SHARE)
        due = self._owed() - self.given_rows
        self.given_rows += due
        return due

    def _owed(self) -> int:
        return self._rows * self.finetune_rows // (self._per * SHARE)

    def most(self, finetune_rows: int) -> int:
        """Return the most rows that can fall due beside a batch, where all batches have its size.

        Args:
            finetune_rows: Rows of the finetune batch.

        Returns:
            The mix ratio's share, rounded up.
        """
        return -(-self._rows * finetune_rows // self._per)

    def state_dict(self) -> dict[str, int]:
        """Return the rows so far."""
        return {"finetune_rows": self.finetune_rows, "given_rows": self.given_rows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over what `state_dict` returned; where that was of another ratio, this one holds from here on.

        Args:
            state: The rows so far.
        """
        self.finetune_rows, self.given_rows = state["finetune_rows"], state["given_rows"]
        if self._owed() != self.given_rows:
            self.finetune_rows = -(-self.given_rows * self._per * SHARE // self._rows)
