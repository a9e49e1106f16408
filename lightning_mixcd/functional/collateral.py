"""Damage counted per bin, damage rates, and the probabilities that follow from them.

Bai et al., "An Efficient Rehearsal Scheme for Catastrophic Forgetting Mitigation during Multi-stage
Fine-tuning", arXiv:2402.08096. The paper's text does not settle every choice; ours are options with
defaults, listed on the card of mix-cd.
"""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Rule", "beta_mean", "bin_counts", "bin_probabilities"]

Rule = Literal["density", "rate"]


def bin_counts(bins: Tensor, damaged: Tensor, n_bins: int) -> Tensor:
    """Count rehearsed and damaged samples per bin, on the device and without a wait.

    Args:
        bins: Bin of each sample, int64 in `[0, n_bins)`, `(R,)`.
        damaged: Whether each sample is damaged, bool or a grade in [0, 1], `(R,)`.
        n_bins: Number of bins, K.

    Returns:
        float32, `(2, K)`: row 0 damaged, row 1 seen. Whole numbers are exact up to 2**24.

    Example:
        >>> bin_counts(torch.tensor([0, 2, 2]), torch.tensor([True, False, True]), 3)
        tensor([[1., 0., 1.],
                [1., 0., 2.]])
    """
    values = torch.stack([damaged.float(), torch.ones_like(damaged, dtype=torch.float32)])
    return values.new_zeros(2, n_bins).index_add_(1, bins, values)


def beta_mean(damaged: Tensor, seen: Tensor, a: float = 1.0, b: float = 1.0) -> Tensor:
    r"""Return the posterior mean of a damage rate under a Beta(a, b) prior.

    $\hat\alpha_k = (s_k + a) / (m_k + a + b)$. A bin never seen has the prior's mean $a / (a + b)$, so that
    it is drawn like the others until something is known about it.

    Args:
        damaged: Damaged samples per bin (may be decayed), $s_k$, `(K,)`.
        seen: Rehearsed samples per bin (decayed alike), $m_k$, `(K,)`.
        a: Prior pseudo-count of damaged samples, above 0.
        b: Prior pseudo-count of samples that are not, above 0.

    Returns:
        Rates in (0, 1), `(K,)`.

    Example:
        >>> beta_mean(torch.tensor([0.0, 3.0]), torch.tensor([0.0, 4.0]))
        tensor([0.5000, 0.6667])
    """
    return (damaged + a) / (seen + (a + b))


def bin_probabilities(rates: Tensor, sizes: Tensor, *, rule: Rule = "density", floor: float = 0.05) -> Tensor:
    r"""Turn damage rates into the probabilities that a rehearsed sample comes from each bin.

    With sizes $n_k$ and rates $\alpha_k$, $q = (1 - \epsilon)\, w / \sum w + \epsilon\, n / \sum n$ where
    $w_k = n_k \alpha_k$ (density rule: each sample weighs its bin's rate) or $w_k = \alpha_k$ (rate rule:
    each bin does). Equal on bins of equal size. Where no bin has any rate, the draw is uniform.

    Args:
        rates: Damage rate per bin, not negative, on the CPU, `(K,)`.
        sizes: Samples that may be drawn per bin, `(K,)`; a bin without any gets probability 0.
        rule: `"density"` or `"rate"`.
        floor: Share of the draw that stays uniform over the samples, $\epsilon$ in [0, 1].

    Returns:
        Probabilities that sum to 1, float64, `(K,)`.

    Example:
        >>> bin_probabilities(torch.tensor([0.1, 0.3]), torch.tensor([100, 100]), floor=0.0)
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    # In NumPy, whose operations on a few numbers take a fraction of the time: this runs in every step.
    n, alpha = sizes.double().numpy(), rates.double().numpy()
    q = n / n.sum()
    weights = alpha * (n if rule == "density" else n > 0)
    total = weights.sum()
    if total > 0:
        q = (1 - floor) * weights / total + floor * q
    return torch.from_numpy(q)
