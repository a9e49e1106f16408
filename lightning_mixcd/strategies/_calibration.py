"""What predictions of damage have been worth: observed damage by rank of the predicted margin."""

import torch
from torch import Tensor

from lightning_mixcd.estimators import DecayedBeta
from lightning_mixcd.functional.calibration import crossed_rates
from lightning_mixcd.functional.collateral import beta_mean, bin_counts

__all__ = ["N_BINS", "Calibration", "margin_bins"]

# Between bins: shares of the candidates of a draw, those of least margin first.
EDGES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
N_BINS = len(EDGES) + 1
N_LOWER = EDGES.index(1 / 2) + 1  # bins of the half with less margin


def margin_bins(margins: Tensor) -> Tensor:
    """Sort the candidates of each draw into bins by how small their margins are beside each other's.

    By rank, because margins of a model that is unsure of all lie close together, and those of a model that is
    sure of all far apart.

    Args:
        margins: Predicted margins, `(..., m)`.

    Returns:
        Bins, int64, `(..., m)`.

    Example:
        >>> margin_bins(torch.tensor([2.0, -1.0, 0.5, 9.0]))
        tensor([7, 3, 5, 8])
    """
    ranks = margins.argsort(dim=-1, stable=True).argsort(dim=-1)
    return torch.bucketize((ranks + 0.5) / margins.shape[-1], torch.tensor(EDGES))


class Calibration:
    """Counts damage, observed and predicted, of samples as they were drawn.

    A sample is in a cell: the bin of a partition and the bin of its margin; and it was drawn by weight or
    uniformly. Counts fade.

    Args:
        n_parts: Bins of the partition.
        halflife_steps: Optimizer steps after which a count is worth half.
    """

    def __init__(self, n_parts: int, halflife_steps: float) -> None:
        self.n_parts = n_parts
        self._observed = DecayedBeta(halflife_steps)
        self._observed.reset(2 * n_parts * N_BINS)
        self._predicted = DecayedBeta(halflife_steps)
        self._predicted.reset(N_BINS)
        self._rows = torch.zeros(N_BINS, dtype=torch.int64)  # from the start, by bin of the margin

    @property
    def n_rates(self) -> int:
        """Numbers in the table of rates."""
        return self.n_parts * N_BINS

    @property
    def n_sums(self) -> int:
        """Numbers in a tally."""
        return 2 * (2 * self.n_rates + N_BINS)

    def place(self, margin_bins: Tensor, parts: Tensor, uniform: Tensor) -> Tensor:
        """Return where samples are counted, int64, in the shape of the arguments."""
        return (uniform.long() * self.n_parts + parts.long()) * N_BINS + margin_bins

    def look_up(self, rates: Tensor, margin_bins: Tensor, parts: Tensor) -> Tensor:
        """Return the rate of each sample's cell, given what `rates` returned, or a vector that begins so."""
        return rates[parts.long() * N_BINS + margin_bins]

    def tally(self, place: Tensor, damaged: Tensor, margin: Tensor) -> Tensor:
        """Count rehearsed samples.

        Args:
            place: What `place` returned for them, `(R,)`.
            damaged: Whether they are damaged, `(R,)`.
            margin: The margin predicted when they were drawn, `(R,)`.

        Returns:
            Sums.
        """
        observed = bin_counts(place, damaged, 2 * self.n_rates)
        predicted = bin_counts(place % N_BINS, (-margin.float()).sigmoid(), N_BINS)
        return torch.cat([observed.flatten(), predicted.flatten()])

    def update(self, tally: Tensor, *, steps: float) -> None:
        """Learn.

        Args:
            tally: Sums over all ranks.
            steps: Optimizer steps since the last lesson.
        """
        observed, predicted = (part.view(2, -1) for part in tally.tensor_split([4 * self.n_rates]))
        self._observed.update(*observed, steps=steps)
        self._predicted.update(*predicted, steps=steps)
        self._rows = self._rows.to(tally.device) + predicted[1].long()

    def rates(self) -> Tensor:
        """Return the damage rate of each cell, `(n_parts * N_BINS,)`."""
        damaged, seen = self._counts().sum(dim=1)
        return crossed_rates(damaged, seen).flatten()

    def trust(self) -> Tensor:
        """Return by how much less is damaged in the half with more margin than in the other, in [0, 1]."""
        damaged, seen = self._counts().sum(dim=(1, 2))
        lower, upper = (
            beta_mean(damaged[part].sum(), seen[part].sum())
            for part in (slice(N_LOWER), slice(N_LOWER, None))
        )
        return (1 - upper / lower).clamp(min=0)

    def metrics(self) -> dict[str, Tensor]:
        """Return a reliability diagram, the rows behind it, and the damage rate of uniform draws."""
        damaged, seen = self._counts()
        found = {"trust": self.trust(), "damage_rate": beta_mean(damaged[1].sum(), seen[1].sum())}
        observed = beta_mean(damaged.sum(dim=(0, 1)), seen.sum(dim=(0, 1)))
        by_bin = {"rate": observed, "predicted": self._predicted.rates(), "rows": self._rows.float()}
        for name, values in by_bin.items():
            found |= {f"{name}/{k:02d}": value for k, value in enumerate(values.unbind())}
        return found

    # Damaged and seen; drawn by weight and uniformly; bins of the partition; bins of the margin.
    def _counts(self) -> Tensor:
        counts = torch.stack([self._observed.damaged, self._observed.seen])
        return counts.view(2, 2, self.n_parts, N_BINS)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all counts."""
        predicted = {f"predicted_{name}": value for name, value in self._predicted.state_dict().items()}
        return self._observed.state_dict() | predicted | {"rows": self._rows}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned.

        Args:
            state: The state; it may hold more.
        """
        names = DecayedBeta.STATE
        self._observed.load_state_dict({name: state[name] for name in names})
        self._predicted.load_state_dict({name: state[f"predicted_{name}"] for name in names})
        self._rows = state["rows"]
