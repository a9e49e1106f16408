"""The contract of a penalty."""

from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_mixcd.errors import CaptureError
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.protocols import ModelLook, Seen

__all__ = ["Apart", "Part", "Penalty", "Start", "Step"]

Part: TypeAlias = Literal["all", "finetune", "rehearsed"]


@dataclass(frozen=True)
class Start:
    """What a penalty gets to know before the first step, while the weights are those of the base model.

    Args:
        module: The model.
        look: Runs it on rows of the penalty's choice, and counts that.
        ledger: The base model's record of the pool, if there is one.
        n_pool: Size of the pool, N.
        batches: Returns batches of pool samples, given the indices of each, as a look at the model wants
            them, on the device.
        seed: Seed of whatever is chosen at random.
        rank: This process, of `world_size`.
        world_size: All processes that share out the data.
        total: Returns the sum of a tensor over these; it may change its argument.
        rehearses: Whether there will be rehearsed rows at all.
    """

    module: nn.Module
    look: ModelLook
    ledger: Ledger | None
    n_pool: int
    batches: Callable[[Iterable[Sequence[int]]], Iterator[object]]
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor
    rehearses: bool = True


@dataclass(frozen=True)
class Step:
    """One training step, between its forward and its backward.

    Args:
        outputs: What `training_step` returned, with its graph.
        batch: What it was given: finetune rows, then rehearsed rows; only the former where the module has a
            `rehearsal_step` for the latter.
        rows: Number of rows, B + R.
        rehearsed: Number of rehearsed rows among them, R, the last ones.
        ticket: What is known of the rehearsed rows, by name, each `(R, ...)`, on the device: `index`, and
            the columns that the penalty `needs_columns` as `ledger/<name>`.
        seen: Reads the rows of the batch, with their graph.
        look: Runs the model on rows of the penalty's choice, and counts that.
        seen_apart: Reads the rehearsed rows, where they are in a batch of their own.
    """

    outputs: object
    batch: object
    rows: int
    rehearsed: int
    ticket: Mapping[str, Tensor]
    seen: Callable[[], Seen]
    look: ModelLook
    seen_apart: Callable[[], Seen] | None = None

    @property
    def finetune(self) -> int:
        """Number of finetune rows, B, the first ones."""
        return self.rows - self.rehearsed

    def logits(self, of: Part = "all") -> Tensor:
        """Return the logits of rows, with their graph.

        Args:
            of: Which rows: "all", "finetune" or "rehearsed".

        Returns:
            `(B + R, C)`, or those of the part.

        Raises:
            ValueError: If a step put out none, or all are asked for and the two parts are unlike.
            CaptureError: If they were detached.
        """
        return self._read("logits", "logits", of)

    def losses(self, of: Part = "all") -> Tensor:
        """Return the loss of each row, with its graph.

        Args:
            of: Which rows: "all", "finetune" or "rehearsed".

        Returns:
            `(B + R,)`, or those of the part.

        Raises:
            ValueError: If a step put out neither losses nor logits.
            CaptureError: If they were detached.
        """
        return self._read("loss", "losses", of)

    def _read(self, field: str, name: str, of: Part) -> Tensor:
        if self.seen_apart is None:
            values = _known(self.seen(), field, name, "training_step")
            cut = {
                "all": slice(None),
                "finetune": slice(self.finetune),
                "rehearsed": slice(self.finetune, None),
            }
            return values[cut[of]]
        steps = {"finetune": ("training_step", self.seen), "rehearsed": ("rehearsal_step", self.seen_apart)}
        asked = [*steps.values()] if of == "all" else [steps[of]]
        parts = [_known(seen(), field, name, step) for step, seen in asked]
        if len({part.shape[1:] for part in parts}) > 1:
            raise ValueError(
                f"The {name} of all rows must have one shape, got "
                f"{' and '.join(str(tuple(part.shape)) for part in parts)} of `training_step` and "
                f'`rehearsal_step`. Ask for one part: step.{name}("rehearsed").'
            )
        return torch.cat(parts) if of == "all" else parts[0]


def _known(seen: Seen, field: str, what: str, step: str) -> Tensor:
    values: Tensor | None = getattr(seen, field)
    if values is None:
        raise ValueError(
            f"A penalty needs the {what} of each row, and `{step}` gave none. Return them: "
            f'{{"loss": loss, "{what}": {what}}}, or name the submodule that makes the logits: '
            f"Readout(module=...). {seen.problem}".strip()
        )
    if not values.requires_grad:
        raise CaptureError(
            f"What acts on the {what} of rows must reach the model, but those that `{step}` gave have no "
            "graph. Return them without `.detach()`, or name the submodule that makes the logits: "
            "Readout(module=...)."
        )
    return values


@dataclass(frozen=True)
class Apart:
    """Rehearsed rows that were kept out of a training batch.

    Args:
        batch: The rows, as a look at the model wants them.
        ticket: What is known of them, by name, each `(R, ...)`, on the host.
        look: Runs the model on rows of the penalty's choice, and counts that.
    """

    batch: object
    ticket: Mapping[str, Tensor]
    look: ModelLook


class Penalty(ABC):  # noqa: B024 -- either of two methods is enough
    """Holds on to what the base model knew: by a term of the loss, or by changing gradients.

    A subclass overrides `loss` or `change_gradients`. Several penalties act side by side, with any strategy.

    Attributes:
        needs_ledger: Whether there must be a ledger.
        needs_columns: Columns that the ledger must have; `Step.ticket` then has them as `ledger/<name>`.
        needs_samples: Whether it looks pool samples up, `Start.batches`, as those of `Streams` cannot be.
        needs_look: Whether the model is run on other rows than those of the training step.
        keeps_apart: Whether rehearsed rows are kept out of the batch and given to `change_gradients`.
    """

    needs_ledger: bool = False
    needs_columns: tuple[str, ...] = ()
    needs_samples: bool = False
    needs_look: bool = False
    keeps_apart: bool = False

    def attach(self, module: nn.Module) -> None:  # noqa: B027 -- may be left as it is
        """Get hold of the model, at the start of every `fit`; before `setup` or `load_state_dict`.

        Args:
            module: The model, on its device; a resumed run's weights are no longer those of the base model.
        """

    def setup(self, start: Start) -> None:  # noqa: B027 -- may be left as it is
        """Get ready, at the base model's weights; left out when a run is resumed, see `load_state_dict`.

        Args:
            start: What there is to know.
        """

    def loss(self, step: Step) -> Tensor | None:  # noqa: ARG002 -- there may be no such term
        """Return what is added to the loss of a training step: 0-dim, with its graph; None for nothing.

        Under gradient accumulation it is called for every batch, and divided as the loss is.

        Args:
            step: The step.
        """
        return None

    def change_gradients(  # noqa: B027 -- may be left as it is
        self,
        gradients: Mapping[str, Tensor],
        apart: Sequence[Apart],
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """Change the gradients of an optimizer step in place.

        They are unscaled, summed over accumulated batches and averaged over processes, and not yet clipped.

        Args:
            gradients: By name of each parameter of the optimizer that has one.
            apart: The rows kept apart since the last optimizer step, batch by batch; some processes may have
                none.
            total: Returns the sum of a tensor over all processes that share out the data; all of them must
                call it. It may change its argument.
        """

    def metrics(self) -> Mapping[str, Tensor]:
        """Return what is worth logging: 0-dim tensors on the device, by name."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs, such as the base weights."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027 -- may be left as it is
        """Take over what `state_dict` returned; instead of `setup`.

        Args:
            state: The state, on the device of training.
        """
