"""What each training sample is worth to a k-nearest-neighbour classifier."""

import torch
from torch import Tensor

__all__ = ["knn_shapley"]


def knn_shapley(distance: Tensor, same_label: Tensor, k: int) -> Tensor:
    r"""Return the Shapley value of each sample for each evaluation point, exactly.

    The game: a set S of samples earns $\frac1k \sum 1[\text{label is that of the point}]$ over those k of S
    that lie nearest to the point, or all of S if they are fewer. With samples sorted by distance and
    $I_j$ whether sample j has the point's label, $s_N = I_N / \max(N, k)$ and
    $s_j = s_{j+1} + \frac{I_j - I_{j+1}}{k} \frac{\min(k, j)}{j}$: Jia et al., arXiv:1908.08619, theorem 1.

    Args:
        distance: From each of E points to each of N samples, `(E, N)`; of equal ones the first is nearer.
        same_label: Whether the sample has the point's label, bool, `(E, N)`.
        k: Neighbours that have a say, at least 1.

    Returns:
        Values, float32, `(E, N)`; those of a point sum to what all samples together earn.

    Example:
        >>> knn_shapley(torch.tensor([[0.1, 0.7, 0.3]]), torch.tensor([[True, True, False]]), k=1)
        tensor([[ 0.8333,  0.3333, -0.1667]])
    """
    n = distance.shape[1]
    order = distance.argsort(dim=1, stable=True)
    same = same_label.float().gather(1, order)
    place = torch.arange(1, n, dtype=torch.float32, device=distance.device)
    steps = (same[:, :-1] - same[:, 1:]) / k * (place.clamp(max=k) / place)
    last = same[:, -1:] / max(n, k)
    # From the farthest inwards.
    values = torch.cat([steps, last], dim=1).flip(1).cumsum(dim=1).flip(1)
    return torch.empty_like(values).scatter_(1, order, values)
