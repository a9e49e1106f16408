"""Gradients turned so that a small step raises no reference loss, to first order."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["project", "project_to_cone"]


def project(gradient: Tensor, reference: Tensor) -> Tensor:
    r"""Return the nearest vector that does not point against the reference; nothing waits for it.

    $g - \min(0, g \cdot r) / (r \cdot r) \; r$ (A-GEM: Chaudhry et al. 2019, arXiv:1812.00420, equation 11).

    Args:
        gradient: $g$, `(P,)`.
        reference: $r$, `(P,)`; zeros change nothing.

    Returns:
        `(P,)`; the gradient as it is where $g \cdot r \ge 0$.

    Example:
        >>> project(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0]))
        tensor([1., 0.])
    """
    against = (gradient @ reference).clamp(max=0)
    length = (reference @ reference).clamp(min=torch.finfo(reference.dtype).tiny)
    return gradient - against / length * reference


def project_to_cone(gradient: Tensor, references: Tensor, margin: float = 0.0) -> Tensor:
    r"""Return the nearest vector that points against none of the references.

    The dual of GEM (Lopez-Paz and Ranzato 2017, arXiv:1706.08840, equation 11): $g + G^T v$ with the $v \ge
    \gamma$ that minimises $\frac{1}{2} v^T G G^T v + g^T G^T v$. A margin $\gamma > 0$ turns it further than
    needed. It is solved on the host, as non-negative least squares in $v - \gamma$, which waits for the
    device once.

    Args:
        gradient: $g$, `(P,)`.
        references: $G$, `(K, P)`.
        margin: $\gamma$, 0 or more.

    Returns:
        `(P,)`; the gradient as it is where it points against none, and no numbers where a product is none.

    Raises:
        ImportError: If SciPy is not installed.

    Example:
        >>> project_to_cone(torch.tensor([1.0, -1.0]), torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
        tensor([1., 0.])
    """
    try:
        from scipy.optimize import nnls
    except ImportError as error:
        raise ImportError(
            "`project_to_cone` needs SciPy. Install it with `pip install 'lightning-mixcd[report]'`."
        ) from error

    products = torch.cat([references @ references.T, (references @ gradient)[:, None]], dim=1)
    numbers = products.cpu().double().numpy()
    gram, overlaps = numbers[:, :-1], numbers[:, -1]
    if not np.isfinite(numbers).all():
        return gradient * torch.nan
    if not (overlaps < 0).any():
        return gradient
    # Gram = root' root. References that depend on each other leave eigenvalues which are rounding alone.
    values, vectors = np.linalg.eigh(gram)
    kept = values > values.max() * len(values) * torch.finfo(references.dtype).eps
    scale, vectors = np.sqrt(values[kept])[:, None], vectors[:, kept].T
    root = scale * vectors
    target = -(vectors @ (overlaps + margin * gram.sum(axis=1))) / scale[:, 0]
    v = torch.as_tensor(nnls(root, target)[0] + margin, dtype=gradient.dtype, device=gradient.device)
    return gradient + v @ references
