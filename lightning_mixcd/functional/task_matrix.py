"""How a model fares that learns one task after another: scores of the task x stage matrix.

All scores come from one matrix, `accuracies[i, j]`: the accuracy on task j after stage i, where stage i
learns task i. Stage 0 makes the base model. A score over nothing, such as the forgetting of a model that has
learnt one task only, is NaN.

Names differ from paper to paper. `final_accuracy` is the "average accuracy" of Lopez-Paz & Ranzato (2017) and
Chaudhry et al. (2018), and "Last" in ZSCL (arXiv:2303.06628) and DIKI (arXiv:2407.05342); `mean_accuracy` is
"Avg" of the latter two, and `transfer_accuracy` their "Transfer".
"""

import torch
from torch import Tensor

__all__ = [
    "backward_transfer",
    "final_accuracy",
    "forward_transfer",
    "mean_accuracy",
    "stage_forgetting",
    "transfer_accuracy",
]


def final_accuracy(accuracies: Tensor) -> Tensor:
    r"""Return the mean accuracy over all tasks after the last stage, $\frac1T \sum_j a_{T,j}$.

    Args:
        accuracies: On task j after stage i, float, `(T, T)`.

    Returns:
        The mean, scalar.

    Raises:
        TypeError: If the matrix is not a float tensor.
        ValueError: If it is not square.

    Example:
        >>> final_accuracy(torch.tensor([[0.9, 0.1], [0.6, 0.8]]))
        tensor(0.7000)
    """
    return _checked(accuracies)[-1].mean()


def mean_accuracy(accuracies: Tensor) -> Tensor:
    r"""Return the mean accuracy over all tasks and all stages, $\frac{1}{T^2} \sum_{i,j} a_{i,j}$.

    Args:
        accuracies: On task j after stage i, float, `(T, T)`.

    Returns:
        The mean, scalar.

    Raises:
        TypeError: If the matrix is not a float tensor.
        ValueError: If it is not square.

    Example:
        >>> mean_accuracy(torch.tensor([[0.9, 0.1], [0.6, 0.8]]))
        tensor(0.6000)
    """
    return _checked(accuracies).mean()


def transfer_accuracy(accuracies: Tensor) -> Tensor:
    r"""Return the mean accuracy on tasks that are still to be learnt.

    Of each task but the first the mean over the stages before its own, then the mean of these:
    $\frac{1}{T-1} \sum_{j>1} \frac{1}{j-1} \sum_{i<j} a_{i,j}$.

    Args:
        accuracies: On task j after stage i, float, `(T, T)`.

    Returns:
        The mean, scalar; NaN for one task.

    Raises:
        TypeError: If the matrix is not a float tensor.
        ValueError: If it is not square.

    Example:
        >>> transfer_accuracy(torch.tensor([[0.9, 0.1], [0.6, 0.8]]))
        tensor(0.1000)
    """
    # No product with a mask: what has not been measured is NaN, and 0 * NaN is NaN.
    columns = _checked(accuracies).unbind(1)
    return _mean([column[:task].mean() for task, column in enumerate(columns) if task], accuracies)


def stage_forgetting(accuracies: Tensor) -> Tensor:
    r"""Return by how much accuracy fell below the best that it was after an earlier stage.

    $\frac{1}{T-1} \sum_{j<T} \big(\max_{i<T} a_{i,j} - a_{T,j}\big)$ (Chaudhry et al. 2018,
    arXiv:1801.10112). Below 0 if the last stage made earlier tasks better than ever.

    Args:
        accuracies: On task j after stage i, float, `(T, T)`.

    Returns:
        The mean over all tasks but the last, in [-1, 1], scalar; NaN for one task.

    Raises:
        TypeError: If the matrix is not a float tensor.
        ValueError: If it is not square.

    Example:
        >>> stage_forgetting(torch.tensor([[0.9, 0.1], [0.6, 0.8]]))
        tensor(0.3000)
    """
    columns = _checked(accuracies)[:, :-1].unbind(1)
    return _mean([column[:-1].max() - column[-1] for column in columns], accuracies)


def backward_transfer(accuracies: Tensor) -> Tensor:
    r"""Return what later stages did to each task: accuracy at the end minus accuracy when it was learnt.

    $\frac{1}{T-1} \sum_{j<T} (a_{T,j} - a_{j,j})$ (Lopez-Paz & Ranzato 2017, arXiv:1706.08840).

    Args:
        accuracies: On task j after stage i, float, `(T, T)`.

    Returns:
        The mean over all tasks but the last, in [-1, 1]; below 0 is forgetting. Scalar; NaN for one task.

    Raises:
        TypeError: If the matrix is not a float tensor.
        ValueError: If it is not square.

    Example:
        >>> backward_transfer(torch.tensor([[0.9, 0.1], [0.6, 0.8]]))
        tensor(-0.3000)
    """
    return (_checked(accuracies)[-1] - accuracies.diagonal())[:-1].mean()


def forward_transfer(accuracies: Tensor, initial: Tensor) -> Tensor:
    r"""Return what earlier stages did for the task that comes next: accuracy just before it, minus at first.

    $\frac{1}{T-1} \sum_{j>1} (a_{j-1,j} - b_j)$ (Lopez-Paz & Ranzato 2017, arXiv:1706.08840).

    Args:
        accuracies: On task j after stage i, float, `(T, T)`.
        initial: Accuracy on task j before the first stage, of random weights or of a model that was
            pretrained on something else, $b_j$, `(T,)`.

    Returns:
        The mean over all tasks but the first, in [-1, 1], scalar; NaN for one task.

    Raises:
        TypeError: If the matrix is not a float tensor.
        ValueError: If it is not square, or `initial` does not have an accuracy per task.

    Example:
        >>> forward_transfer(torch.tensor([[0.9, 0.3], [0.6, 0.8]]), initial=torch.tensor([0.1, 0.1]))
        tensor(0.2000)
    """
    n_tasks = len(_checked(accuracies))
    if initial.shape != (n_tasks,):
        raise ValueError(
            f"`initial` must have one accuracy per task, shape ({n_tasks},), got {tuple(initial.shape)}. "
            "Pass those of the model before the first stage."
        )
    return (accuracies.diagonal(1) - initial[1:]).mean()


def _checked(accuracies: Tensor) -> Tensor:
    if not isinstance(accuracies, Tensor) or not accuracies.is_floating_point():
        kind = accuracies.dtype if isinstance(accuracies, Tensor) else type(accuracies).__name__
        raise TypeError(
            f"`accuracies` must be a float tensor, got {kind}. Pass accuracies in [0, 1]: torch.tensor(rows)."
        )
    if accuracies.ndim != 2 or accuracies.shape[0] != accuracies.shape[1] or not accuracies.numel():
        raise ValueError(
            "`accuracies` must have a row per stage and a column per task, as many of one as of the other, "
            f"got shape {tuple(accuracies.shape)}. Leave out stages that learn no task; the accuracies of a "
            "model before the first stage are `initial` of `forward_transfer`."
        )
    return accuracies


def _mean(scores: list[Tensor], accuracies: Tensor) -> Tensor:
    return torch.stack(scores).mean() if scores else accuracies.new_tensor(torch.nan)
