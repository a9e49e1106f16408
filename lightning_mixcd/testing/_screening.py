"""What must hold for how a strategy chooses among candidates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.protocols import ModelLook, Seen, Weights
from lightning_mixcd.strategies._screening import Candidates, Screening
from lightning_mixcd.testing._rehearsal import Case, generator
from lightning_mixcd.testing._support import require, same

__all__ = ["SCREENING_CHECKS"]

N_CANDIDATES, N_FINETUNE, N_FEATURES, N_CLASSES = 24, 8, 5, 3


@dataclass(frozen=True)
class _ToySeen:
    correct: Tensor
    loss: Tensor
    label: Tensor
    logits: Tensor
    features: Tensor
    problem: str = ""


class _ToyLook(ModelLook):
    """One linear layer, on any device."""

    learning_rate = 0.1

    def __init__(self, device: str) -> None:
        weight = torch.randn(N_CLASSES, N_FEATURES, generator=generator(0)).to(device)
        self._weights = {"weight": weight, "bias": torch.zeros(N_CLASSES, device=device)}

    @override
    def see(self, batch: Any, *, weights: Weights | None = None) -> Seen:
        features, label = batch
        used = {**self._weights, **(weights or {})}
        logits = nn.functional.linear(features, used["weight"], used["bias"])
        loss = nn.functional.cross_entropy(logits, label, reduction="none")
        return _ToySeen(logits.argmax(dim=1) == label, loss, label, logits, features)

    @override
    def gradient(self, batch: Any, *, weights: Weights | None = None) -> dict[str, Tensor]:
        return {name: torch.full_like(weight, 0.1) for name, weight in self._weights.items()}

    @override
    def gradients_by_row(
        self, batch: Any, objective: Callable[[Seen], Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        for row in range(len(batch[0])):
            for _ in objective(self.see([part[row : row + 1] for part in batch])):
                yield self.gradient(batch)

    @override
    def trainable(self) -> dict[str, Tensor]:
        return dict(self._weights)

    @override
    def snapshot(self) -> dict[str, Tensor]:
        return {name: weight.clone() for name, weight in self._weights.items()}


def _candidates(device: str) -> Candidates:
    chance = generator(1)
    rows, finetune = (
        [torch.randn(n, N_FEATURES, generator=chance), torch.randint(N_CLASSES, (n,), generator=chance)]
        for n in (N_CANDIDATES, N_FINETUNE)
    )
    ticket = {
        "index": torch.randperm(N_CANDIDATES, generator=chance),
        "base_correct": torch.rand(N_CANDIDATES, generator=chance) < 0.7,
    }
    return Candidates(
        [part.to(device) for part in rows],
        [part.to(device) for part in finetune],
        {name: values.to(device) for name, values in ticket.items()},
        _ToyLook(device),
    )


def _check_choice(case: Case) -> None:
    strategy = _started(case)
    if strategy is None:
        return
    for n in (1, 5, N_CANDIDATES // strategy.candidates_per_row):
        chosen = strategy.screen(_candidates("cpu"), n)
        valid = isinstance(chosen, Tensor) and chosen.dtype == torch.int64 and chosen.shape == (n,)
        require(
            valid and len({*chosen.tolist()} & {*range(N_CANDIDATES)}) == n,
            f"`{case.name}.screen` must return {n} distinct positions among {N_CANDIDATES} candidates as "
            f"int64, got {chosen!r}.",
        )
        require(
            same(chosen, strategy.screen(_candidates("cpu"), n)),
            f"`{case.name}.screen` must choose the same of the same candidates, else no run can be repeated.",
        )


def _check_no_wait(case: Case) -> None:
    strategy = _started(case)
    if strategy is None:
        return
    try:
        strategy.screen(_candidates("meta"), 4)
    except (RuntimeError, NotImplementedError) as error:
        raise AssertionError(
            f"{case.name} must choose on the device and must not read values there, which waits for the "
            f"device: no `.item()`, `.tolist()`, `.cpu()`, mask or `if` on a tensor in `screen`. {error}"
        ) from error


def _started(case: Case) -> Screening | None:
    strategy = case.start()
    if not isinstance(strategy, Screening):
        return None
    strategy.attach(nn.Linear(N_FEATURES, N_CLASSES, device="meta"))
    return strategy


SCREENING_CHECKS: tuple[Callable[[Case], None], ...] = (_check_choice, _check_no_wait)
