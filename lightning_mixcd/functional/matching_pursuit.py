"""Few vectors that together stand for a target."""

import torch
from torch import Tensor

__all__ = ["matching_pursuit"]


def matching_pursuit(products: Tensor, target: Tensor, n: int, *, ridge: float = 1e-3) -> Tensor:
    r"""Choose vectors whose weighted sum comes nearest to a target, one by one and without a wait.

    Orthogonal matching pursuit: each time the vector with the highest inner product with the residual joins,
    then all weights are fitted anew, by ridge regression. Vectors are known by their inner products alone.

    Args:
        products: Inner products of the c vectors with each other, float, `(c, c)`.
        target: Their inner products with the target, `(c,)`.
        n: How many to choose, at most c.
        ridge: Penalty on squared weights, in units of the mean squared length of the vectors.

    Returns:
        Distinct positions, in the order of choice, int64, `(n,)`.

    Example:
        >>> vectors = torch.tensor([[3.0, 0.0], [2.9, 0.1], [0.0, 1.0]])
        >>> matching_pursuit(vectors @ vectors.T, vectors @ torch.tensor([3.0, 1.0]), 2)
        tensor([0, 2])
    """
    # A vector of zeros has no gradient to match, and must not make the system singular.
    penalty = ridge * products.diagonal().mean() + torch.finfo(products.dtype).tiny
    chosen = torch.empty(0, dtype=torch.int64, device=products.device)
    free = torch.zeros_like(target)
    residual = target
    for _ in range(n):
        best = (residual.nan_to_num() + free).argmax()[None]
        chosen, free = torch.cat([chosen, best]), free.index_fill(0, best, -torch.inf)
        among = products[chosen][:, chosen]
        among = among + penalty * torch.eye(len(chosen), dtype=among.dtype, device=among.device)
        # The plain `solve` would wait to see whether it has worked.
        weights = torch.linalg.solve_ex(among, target[chosen])[0]
        residual = target - products[:, chosen] @ weights
    return chosen
