"""No step against the gradient of the rehearsed rows."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional.joining import n_rows
from lightning_mixcd.functional.projection import project
from lightning_mixcd.penalties._rehearsed import refuse_no_rehearsal
from lightning_mixcd.penalties._vectors import flat, overwrite
from lightning_mixcd.penalties.base import Apart, Penalty, Start

__all__ = ["AGEM"]


class AGEM(Penalty):
    """Takes out of the finetune gradient what points against the gradient of the rehearsed rows.

    A-GEM (Chaudhry et al. 2019, arXiv:1812.00420). Rehearsed rows stay out of the training batch; their own
    gradient is made before each optimizer step, in eval mode, which costs them the forward and backward that
    they would have had in the batch. All parameters are one vector, of which up to five copies are held, in
    float32. It works on raw gradients, before clipping and before the optimizer's own arithmetic.

    Use a strategy that learns nothing, such as `UniformCorrect`: what is kept apart teaches it nothing.

    Raises:
        ValueError: At the start of `fit`, if the strategy rehearses nothing.

    Example:
        >>> from lightning_mixcd import RehearsalCallback, Uniform
        >>> callback = RehearsalCallback(Uniform(), pool=range(1000), penalties=[AGEM()])
    """

    needs_look = True
    keeps_apart = True

    @override
    def setup(self, start: Start) -> None:
        refuse_no_rehearsal(self, start)

    @override
    def change_gradients(
        self,
        gradients: Mapping[str, Tensor],
        apart: Sequence[Apart],
        total: Callable[[Tensor], Tensor],
    ) -> None:
        gradient = flat(gradients.values())
        sums = gradient.new_zeros(len(gradient) + 1)  # the last is the number of rows
        for part in apart:
            rows, found = n_rows(part.batch), part.look.gradient(part.batch)
            sums[:-1].add_(flat(found[name] for name in gradients), alpha=rows)
            sums[-1] += rows
        sums = total(sums)
        reference = sums[:-1].div_(sums[-1].clamp(min=1))
        overwrite(gradients.values(), project(gradient, reference))
