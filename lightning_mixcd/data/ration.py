"""How many rows each step rehearses."""

from fractions import Fraction

__all__ = ["Ration"]

MOST = 16


class Ration:
    """Keeps rehearsed rows at `mix_ratio` per finetune row, exactly, whatever the sizes of the batches.

    What a step's share leaves behind the point is carried over: after every step the rows given so far are
    `floor(mix_ratio * finetune rows so far)`.

    Args:
        mix_ratio: Rehearsed rows per finetune row, in (0, 16].

    Raises:
        ValueError: If `mix_ratio` is out of range.

    Example:
        >>> ration = Ration(0.25)
        >>> [ration.due(10) for _ in range(4)]
        [2, 3, 2, 3]
    """

    def __init__(self, mix_ratio: float) -> None:
        if not 0 < mix_ratio <= MOST:
            raise ValueError(
                f"`mix_ratio` must be above 0 and at most {MOST} rehearsed samples per finetune sample, got "
                f"{mix_ratio}. Use the strategy `NoRehearsal()` to rehearse nothing."
            )
        # Through the decimal text: 0.1 is meant as one tenth, not as the binary number next to it.
        self._rows, self._per = Fraction(str(mix_ratio)).as_integer_ratio()
        self.finetune_rows, self.given_rows = 0, 0

    def due(self, finetune_rows: int) -> int:
        """Return how many rows to rehearse beside a finetune batch.

        Args:
            finetune_rows: Rows of the finetune batch.

        Returns:
            Rows due, 0 or more.
        """
        self.finetune_rows += finetune_rows
        due = self._rows * self.finetune_rows // self._per - self.given_rows
        self.given_rows += due
        return due

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
        """Take over what `state_dict` returned.

        Args:
            state: The rows so far.
        """
        self.finetune_rows, self.given_rows = state["finetune_rows"], state["given_rows"]
