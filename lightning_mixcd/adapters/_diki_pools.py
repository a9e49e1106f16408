"""The branches of a whole model, and the gate that opens them sample by sample."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from typing_extensions import override

from lightning_mixcd.adapters._diki_attention import Branch, attach
from lightning_mixcd.adapters._diki_gate import Gaussians, calibrated_weight, fit_gaussian, gate_weight
from lightning_mixcd.adapters._diki_towers import projections, towers, width_of

__all__ = ["TaskPools"]


class TaskPools(nn.Module):
    """Keys, values and a Gaussian per task, beside the attention of an encoder.

    In training mode, the newest task is in force for all rows. In eval mode, each forward of the encoder is
    made twice: first as the model was, which gives the features that choose task and weight of each row.

    Args:
        model: The model that has the encoder; of CLIP, the images' encoder decides for both.
        layers: How many layers of an encoder get a branch, from the first.
        length: Keys per task and layer.

    Attributes:
        vote: Whether all rows of a batch go by the task that most of them are closest to.
        calibrated: Whether a weight says how a row compares with the task's own samples.
        tasks: Their names, in the order of learning.
        gaussians: Of the features of the first of these; None before there is one.
        forced: A task that all rows go by, with weight 1, whatever their features; None for the gate.

    Raises:
        ValueError: If the model has no encoder that fits.
    """

    def __init__(self, model: nn.Module, *, layers: int, length: int) -> None:
        super().__init__()
        self.vote = self.calibrated = False
        self.tasks: list[str] = []
        self.gaussians: Gaussians | None = None
        self.forced: str | None = None
        found = towers(model)
        self._by_tower: list[list[Branch]] = []
        for parts in found.values():
            self._by_tower.append([Branch(width_of(part), length) for part in parts[:layers]])
            for part, branch in zip(parts, self._by_tower[-1], strict=False):
                attach(part, branch)
        self.branches = nn.ModuleList(branch for tower in self._by_tower for branch in tower)
        self._looking = False
        self._seen: list[Tensor] = []
        gate = dict(model.named_modules())[next(iter(found))]
        gate.register_forward_pre_hook(self._choose, with_kwargs=True)
        gate.register_forward_hook(self._see)
        # Not as a submodule, whose parameters would be this one's too.
        self._projections = projections(model, gate)

    def begin(self, task: str, *, seed: int, speed: float = 1.0) -> None:
        """Start a task, or go on with the newest.

        Args:
            task: Its name.
            seed: Of its keys.
            speed: See `Branch`.

        Raises:
            ValueError: If it is an earlier one.
        """
        if task in self.tasks[:-1]:
            raise ValueError(
                f"`task` must be a new one or the newest, got {task!r}, after which {self.tasks[-1]!r} was "
                "learnt. Give it another name to learn more of it."
            )
        if task in self.tasks:
            return
        generator = torch.Generator().manual_seed(seed)
        for branch in self._all():
            if self.tasks:
                branch.keep()
            branch.begin(generator, speed)
        self.tasks.append(task)

    @property
    def needs_features(self) -> bool:
        """Whether the newest task has no Gaussian yet."""
        return len(self.gaussians or ()) < len(self.tasks)

    def fit(self, features: Tensor) -> None:
        """Fit the Gaussian of the newest task.

        Args:
            features: See `features_of`, of samples of the task, `(N, d)`.

        Raises:
            ValueError: If there are fewer than two, or the task has a Gaussian already.
        """
        if not self.needs_features:
            raise ValueError(f"`features` of {self.tasks[-1:]} were fitted already. Begin another task.")
        found = fit_gaussian(features)
        self.gaussians = found if self.gaussians is None else self.gaussians.to(features.device) + found

    def features_of(self, run: Callable[[], object]) -> Tensor:
        """Return the features that the model without branches has of a batch.

        Args:
            run: Takes the batch through the model.

        Returns:
            Of length one, `(B, d)`.

        Raises:
            ValueError: If that does not run the encoder once.
        """
        self._seen = []
        with self._without_branches():
            run()
        if len(self._seen) != 1:
            raise ValueError(
                f"The encoder must run once for a batch, but it ran {len(self._seen)} times. Use a model "
                "that reads each sample by itself."
            )
        return self._seen.pop()

    def _choose(self, gate: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._looking or self.training:
            return
        if self.forced is not None:
            device = self._by_tower[0][0].keys.device
            self._go_by(
                torch.tensor([self._number(self.forced)], device=device), torch.ones(1, device=device)
            )
        elif self.gaussians is not None:
            with torch.no_grad():
                features = self.features_of(lambda: gate(*args, **named))
            self.gaussians = self.gaussians.to(features.device)
            self._go_by(*self._closest(self.gaussians, features))

    def _closest(self, gaussians: Gaussians, features: Tensor) -> tuple[Tensor, Tensor]:
        density = gaussians.log_density(features)
        task = density.argmax(1)
        if self.vote:
            task = task.mode().values.expand_as(task)
        chosen = density.gather(1, task[:, None])[:, 0]
        if self.calibrated:
            return task, calibrated_weight(chosen, gaussians.marks[task])
        return task, gate_weight(chosen, features.shape[1])

    def _go_by(self, task: Tensor, weight: Tensor) -> None:
        for branch in self._by_tower[0]:
            branch.task, branch.weight = task, weight
        # Texts are read once for all images: by their vote and mean.
        for branch in (branch for tower in self._by_tower[1:] for branch in tower):
            branch.task, branch.weight = task.mode().values[None], weight.mean()[None]

    @contextmanager
    def _without_branches(self) -> Iterator[None]:
        was_training, self._looking = self.branches.training, True
        self.branches.eval()
        for branch in self._all():
            branch.task = branch.weight = None
        try:
            yield
        finally:
            self._looking = False
            self.branches.train(was_training)

    def _see(self, _gate: nn.Module, _args: object, output: Mapping[str, Tensor]) -> None:
        if not self._looking:
            return
        features = output.get("pooler_output")
        features = output["last_hidden_state"][:, 0] if features is None else features
        for project in self._projections:
            features = project(features)
        self._seen.append(normalize(features.detach().float(), dim=1))

    def _number(self, task: str) -> int:
        if task not in self.tasks:
            raise ValueError(
                f"`forced` must be a task that was learnt, got {task!r}. There are {self.tasks}."
            )
        return self.tasks.index(task)

    def _all(self) -> Iterator[Branch]:
        return (branch for tower in self._by_tower for branch in tower)

    @override
    def get_extra_state(self) -> dict[str, Any]:
        gaussians = {} if self.gaussians is None else vars(self.gaussians)
        return {"tasks": [*self.tasks], "speed": self._by_tower[0][0].speed, "gaussians": {**gaussians}}

    # Before the branches load theirs.
    @override
    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.tasks = [*state["tasks"]]
        self.gaussians = Gaussians(**state["gaussians"]) if state["gaussians"] else None
        for branch in self._all():
            branch.speed = state["speed"]
            branch.resize(max(len(self.tasks) - 1, 0))
