"""Heat maps of models that learnt one task after another."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

__all__ = ["plot_matrices"]

Floats = npt.NDArray[np.float64]
COLUMNS = 3  # panels side by side


def plot_matrices(matrices: Mapping[str, npt.ArrayLike], tasks: Sequence[str]) -> Figure:
    """Plot accuracies on each task after each stage, a panel per method.

    Args:
        matrices: By panel title, accuracies in [0, 1] on task j after stage i, `(T, T)`; with another row
            above for the model before the first stage, `(T + 1, T)`.
        tasks: Names of the tasks, T of them.

    Returns:
        The figure: tasks to the right, stages downwards. Tasks that were learnt already have a frame.
    """
    n_columns = min(COLUMNS, len(matrices))
    n_rows = math.ceil(len(matrices) / n_columns)
    size = 1.1 + 0.62 * len(tasks)
    figure = Figure(
        figsize=(max(n_columns * size + 1.4, 4), n_rows * (size + 0.3) + 0.4), layout="constrained"
    )
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for axes, (title, matrix) in zip(panels, matrices.items(), strict=False):
        _draw(axes, np.asarray(matrix, dtype=np.float64), tasks)
        axes.set_title(title, fontsize="medium")
    for axes in panels[len(matrices) :]:
        axes.remove()
    figure.colorbar(panels[0].images[0], ax=panels[: len(matrices)], label="accuracy (%)")
    figure.supxlabel("accuracy on", fontsize="medium")
    figure.supylabel("after learning", fontsize="medium")
    return figure


def _draw(axes: Axes, matrix: Floats, tasks: Sequence[str]) -> None:
    n_before = len(matrix) - len(tasks)
    axes.imshow(100 * matrix, vmin=0, vmax=100, cmap="viridis")
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(matrix)), [*["nothing"] * n_before, *tasks])
    for (stage, task), accuracy in np.ndenumerate(matrix):
        ink = "black" if accuracy > 0.5 else "white"
        axes.text(task, stage, f"{100 * accuracy:.0f}", ha="center", va="center", color=ink)
        if task <= stage - n_before:
            corner = (task - 0.46, stage - 0.46)
            axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=ink, linewidth=0.8))
