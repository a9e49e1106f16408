"""Models of how features drift, fitted side by side; the one that has foreseen best is used."""

from functools import partial

import torch
from torch import Tensor

from lightning_mixcd.functional.drift import (
    Basis,
    coordinates,
    corrected,
    diagonal_fit,
    feature_basis,
    moments,
    own_moments,
    ridge_fit,
)
from lightning_mixcd.strategies._head import Head, margins_of

__all__ = ["LARGEST", "MODELS", "DriftModels"]

# No drift; the same for all samples; each feature by itself; of what that leaves, a linear map of the leading
# directions.
MODELS = ("none", "shift", "diagonal", "linear")
LARGEST = 65504.0  # of float16, in which base features are kept


class DriftModels:
    """Learns the drift of features from rehearsed samples, and which model of it to trust.

    Each lesson first tests the models as they are on samples that they have not learnt from: by the squared
    error of the margins that the head makes of corrected features. Then it learns from them. Both fade, what
    was learnt with a half-life, and errors in a quarter of it: which model is best changes as rows come in.

    Args:
        features: Base features of a sample of the pool, `(n, d)`.
        rank: Most directions of the linear model.
        ridge: Pull of each model towards no drift, in samples.
        halflife_steps: Optimizer steps after which a sample counts half.
    """

    def __init__(self, features: Tensor, rank: int, *, ridge: float, halflife_steps: float) -> None:
        self._use(feature_basis(features, rank))
        self.ridge, self.halflife_steps = ridge, halflife_steps
        rank, self.d = self._basis.directions.shape
        zeros = partial(torch.zeros, dtype=torch.float32)
        self.sums = zeros(1 + rank, 1 + rank + 2 * self.d)
        self.own_sums = zeros(5, self.d)
        self.errors = zeros(len(MODELS))
        # Of each model: slopes of features by themselves, then constants, then directions.
        self.fits = zeros(len(MODELS), 2 + rank, self.d)

    @property
    def size(self) -> int:
        """Numbers in one fit."""
        return self.fits[0].numel()

    def chosen(self) -> Tensor:
        """Return which model has foreseen best, 0-dim; of models alike but for rounding, the simplest."""
        handicap = 1 + 1e-5 * torch.arange(len(MODELS), device=self.errors.device)
        return (self.errors * handicap).argmin()

    def best(self) -> Tensor:
        """Return the fit of that model, `(2 + r, d)`."""
        return self.fits.index_select(0, self.chosen()[None])[0]

    def corrected(self, base: Tensor, fit: Tensor) -> Tensor:
        """Return where features should be by now.

        Args:
            base: Base features, `(n, d)`.
            fit: One fit, of any shape.

        Returns:
            Features, `(n, d)`.
        """
        return corrected(base, self._on(base.device), fit.view(-1, self.d))

    def tally(self, base: Tensor, now: Tensor, label: Tensor, head: Head) -> Tensor:
        """Test the models on rehearsed samples, and sum up what is to be learnt from these.

        Args:
            base: Base features, float32, `(R, d)`.
            now: Features in the training step, `(R, d)`.
            label: Classes, int64, `(R,)`.
            head: The head.

        Returns:
            Sums.
        """
        # What has overflown must not be remembered.
        now = now.float().clamp(-LARGEST, LARGEST).nan_to_num()
        parameters, basis = head.parameters().to(base.device), self._on(base.device)
        foreseen = torch.cat([now[None], corrected(base, basis, self.fits.to(base.device))])
        margins = margins_of(head(foreseen.flatten(0, 1), parameters), label.repeat(len(foreseen)))
        truth, *guesses = margins.clamp(-LARGEST, LARGEST).view(len(foreseen), -1)
        errors = (torch.stack(guesses) - truth).square().sum(dim=1).nan_to_num(LARGEST, LARGEST)
        drift, own = now - base, (base - basis.mean) / basis.scale
        own_sums = own_moments(own, drift)
        sums = moments(coordinates(base, basis), torch.cat([drift, own], dim=1))
        return torch.cat([errors, own_sums.flatten(), sums.flatten()])

    def update(self, tally: Tensor, *, steps: float) -> None:
        """Learn.

        Args:
            tally: Sums over all ranks.
            steps: Optimizer steps since the last lesson.
        """
        kept = 0.5 ** (steps / self.halflife_steps)
        n_errors, n_own = self.errors.numel(), self.own_sums.numel()
        parts = tally.tensor_split([n_errors, n_errors + n_own])
        self.errors, self.own_sums, self.sums = (
            torch.add(new.view(old.shape), old.to(new.device), alpha=share)
            for new, old, share in zip(
                parts, (self.errors, self.own_sums, self.sums), (kept**4, kept, kept), strict=True
            )
        )
        fits = tally.new_zeros(self.fits.shape)
        inputs, drift, own = self.sums.tensor_split([len(self.sums), len(self.sums) + self.d], dim=1)
        # The constant alone is a corner of the linear model.
        fits[1, 1:2] = ridge_fit(torch.cat([inputs[:1, :1], drift[:1]], dim=1), self.ridge)
        constants, slopes = diagonal_fit(self.own_sums, self.ridge)
        fits[2:, 0], fits[2:, 1] = slopes, constants
        left = drift - inputs[:, :1] * constants - own * slopes
        fits[3, 1:] += ridge_fit(torch.cat([inputs, left], dim=1), self.ridge)
        self.fits = fits

    def error(self) -> Tensor:
        """Return what is left of the error of no correction, a share, 0-dim; 1 before the first lesson."""
        return (self.errors.min() + 1e-12) / (self.errors[0] + 1e-12)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what was learnt, and the basis, which another machine might find with another rounding."""
        learnt = {"errors": self.errors, "own_sums": self.own_sums, "sums": self.sums, "fits": self.fits}
        return learnt | self._basis._asdict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned.

        Args:
            state: The state.
        """
        self.errors, self.own_sums = state["errors"], state["own_sums"]
        self.sums, self.fits = state["sums"], state["fits"]
        self._use(Basis(*(state[name].cpu() for name in Basis._fields)))

    # Draws need the basis on the host, lessons on the device.
    def _use(self, basis: Basis) -> None:
        self._basis = self._elsewhere = basis

    def _on(self, device: torch.device) -> Basis:
        if device == self._basis.mean.device:
            return self._basis
        if device != self._elsewhere.mean.device:
            self._elsewhere = Basis(*(value.to(device) for value in self._basis))
        return self._elsewhere
