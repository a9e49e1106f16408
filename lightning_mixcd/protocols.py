"""What strategies and penalties may do with the model that is trained."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

from torch import Tensor

__all__ = ["ModelLook", "Seen", "Weights"]

# Parameters and buffers by name.
Weights: TypeAlias = Mapping[str, Tensor]


class Seen(Protocol):
    """What a look showed of some rows; see `Reading`."""

    @property
    def correct(self) -> Tensor:
        """Whether each row was answered right, bool, `(n,)`."""
        ...

    @property
    def problem(self) -> str:
        """Why right and wrong, and what follows from labels, cannot be told; empty where it can."""
        ...

    @property
    def loss(self) -> Tensor | None:
        """Loss of each row in nats, `(n,)`; None where it is not known."""
        ...

    @property
    def label(self) -> Tensor | None:
        """Target of each row, int64, `(n,)`; None where there is no such thing."""
        ...

    @property
    def logits(self) -> Tensor | None:
        """Logits, `(n, C)`; None where the answer does not come from logits."""
        ...

    @property
    def features(self) -> Tensor | None:
        """Input of the head, `(n, d)`; None where the readout names no head."""
        ...


class ModelLook(Protocol):
    """Runs the current model on rows of the caller's choice, in eval mode, and counts what that costs.

    Nothing is left behind: no gradient, no buffer, no random state, no line in the log. Batches are as
    `training_step` gets them, on the device.
    """

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first parameter group."""
        ...

    def see(self, batch: Any, *, weights: Weights | None = None) -> Seen:  # noqa: ANN401 -- any structure
        """Run the model: one forward per row, without gradient.

        Args:
            batch: n rows.
            weights: Parameters and buffers to use instead of the model's own.

        Returns:
            What it showed.
        """
        ...

    def gradient(self, batch: Any, *, weights: Weights | None = None) -> dict[str, Tensor]:  # noqa: ANN401
        """Differentiate the module's own loss: one forward and one backward per row.

        Args:
            batch: n rows.
            weights: Parameters and buffers to use instead of the model's own.

        Returns:
            Gradient by name of each trainable parameter; zeros where the loss does not depend on it.
        """
        ...

    def gradients_by_row(
        self,
        batch: Any,  # noqa: ANN401
        objective: Callable[[Seen], Tensor],
    ) -> Iterator[dict[str, Tensor]]:
        """Differentiate any function of single rows: one forward and one backward for each value of it.

        Args:
            batch: n rows.
            objective: Gets what one row showed, with its graph, and returns values to differentiate, `(k,)`.

        Yields:
            Gradient by name of each trainable parameter, n times k of them, row by row.
        """
        ...

    def trainable(self) -> dict[str, Tensor]:
        """Return the trainable parameters by name: themselves, to be read and not changed."""
        ...

    def optimized(self) -> dict[str, Tensor]:
        """Return those of them that an optimizer has; all where that is not known."""
        return self.trainable()

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the current parameters and buffers, by name."""
        ...
