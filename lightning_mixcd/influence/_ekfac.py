"""EK-FAC by the library kronfluence, which only this module imports."""

import copy
import logging
import tempfile
import warnings
from dataclasses import replace
from typing import Any

import torch
from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model
from kronfluence.factor.config import FactorConfig
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.data.seeded import seeded
from lightning_mixcd.influence.stage import RowLosses, Stage

__all__ = ["Factors", "fit", "solve_block"]

Factors = dict[str, dict[str, Tensor]]
_STRATEGY = "ekfac"


def fit(stage: Stage, layers: list[str], *, sampled: RowLosses | None, progress: bool) -> Factors:
    """Fit the factors of some layers.

    Args:
        stage: The stage.
        layers: Names of submodules.
        sampled: See `KroneckerFactored`.
        progress: Whether bars are shown.

    Returns:
        Tensors by kind and layer.
    """
    # kronfluence replaces layers; a trainer that the module refers to is not copied with it.
    module = copy.deepcopy(stage.module, {id(getattr(stage.module, "_trainer", None)): None})
    task = _LayerTask(replace(stage, module=module), sampled, layers)
    with tempfile.TemporaryDirectory() as folder, seeded(0), task.stage.at_rest(), warnings.catch_warnings():
        # kronfluence's own use of torch.
        warnings.filterwarnings("ignore", message=".*GradScaler", category=FutureWarning)
        analyzer = Analyzer(
            "influence",
            prepare_model(module, task),
            task,
            cpu=next(module.parameters()).device.type == "cpu",
            output_dir=folder,
            log_level=logging.WARNING,
            disable_tqdm=not progress,
        )
        pool = stage.pool
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(pool.num_workers, pool.collate_fn))
        analyzer.fit_all_factors(
            "factors",
            pool.dataset,
            per_device_batch_size=stage.batch_size,
            factor_args=FactorArguments(_STRATEGY, use_empirical_fisher=sampled is None),
        )
        factors: Factors = analyzer.load_all_factors("factors")
    return factors


def solve_block(factors: Factors, layer: str, block: Tensor, *, damping: float) -> Tensor:
    """Multiply with the inverse of one layer's block.

    Args:
        factors: Of `fit`.
        layer: Name of the layer.
        block: What is multiplied: a row per output, a column per input and one for the bias, `(o, i)`.
        damping: Added to the diagonal.

    Returns:
        The product, float32, `(o, i)`.
    """
    # Preparing adds the damping in place: to a copy, or it would add up from call to call.
    storage = {kind: tensors[layer].clone() for kind, tensors in factors.items() if layer in tensors}
    config = FactorConfig.CONFIGS[_STRATEGY]
    config.prepare(storage, ScoreArguments(damping_factor=damping), block.device)
    solved: Tensor = config.precondition_gradient(block[None].float(), storage)[0]
    return solved


class _LayerTask(Task):  # type: ignore[misc]
    """A stage, as kronfluence takes it."""

    def __init__(self, stage: Stage, sampled: RowLosses | None, layers: list[str]) -> None:
        self.stage, self._layers = stage, layers
        self._drawn = replace(stage, losses=sampled) if sampled else stage

    @override
    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        with torch.enable_grad():
            return (self._drawn if sample else self.stage).row_losses(batch).sum()

    @override
    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    @override
    def get_influence_tracked_modules(self) -> list[str]:
        return self._layers
