"""What a finetuned model would be worth nearer to its base."""

import copy
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from lightning_mixcd.weights.averaging import State, interpolate

__all__ = ["wise_ft_curve"]

ALPHAS = tuple(i / 10 for i in range(11))


def wise_ft_curve(
    trainer: Trainer,
    module: LightningModule,
    base: State,
    *,
    data: Any,  # noqa: ANN401 -- what `Trainer.validate` takes
    alphas: Iterable[float] = ALPHAS,
) -> dict[float, dict[str, float]]:
    """Validate a finetuned model at points of the line to its base; the model is left as it was.

    One run gives a whole curve of prior against new accuracy (WiSE-FT, arXiv:2109.01903), for one validation
    per point and no training. Points are measured with the statistics of batch normalisation interpolated
    like weights.

    Args:
        trainer: Validates. Best one of its own, so that the training's logs and metrics stay as they are:
            `Trainer(logger=False)`.
        module: The finetuned model.
        base: State dict of the base model.
        data: A datamodule or the validation loaders, of both tasks.
        alphas: The points: 0 is the base model, 1 the finetuned one.

    Returns:
        By alpha, the values that validation logged.

    Raises:
        ValueError: If a point is not in [0, 1], the models do not match, or the trainer itself averages.
    """
    callbacks = getattr(trainer, "callbacks", [])
    if any(isinstance(callback, WeightAveraging) for callback in callbacks):
        raise ValueError(
            "`trainer` must not average weights: that callback would validate its average at every point. "
            "Pass another one: Trainer(logger=False)."
        )
    finetuned = copy.deepcopy(module.state_dict())
    curve = {}
    try:
        for alpha in alphas:
            module.load_state_dict(interpolate(base, finetuned, alpha))
            found = trainer.validate(module, data, verbose=False)
            curve[alpha] = {name: value for loader in found for name, value in loader.items()}
    finally:
        module.load_state_dict(finetuned)
    return curve
