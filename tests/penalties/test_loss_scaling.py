"""Penalties under 16-bit precision with loss scaling, which Lightning leaves to CUDA, on the CPU too."""

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.amp import GradScaler
from torch.utils.data import DataLoader

from lightning_mixcd import CaptureError, Pool, RehearsalCallback, Uniform
from lightning_mixcd.partitions import ByLabel, Single
from lightning_mixcd.penalties import AGEM, DER, EWC, GEM, KFAC, L2SP, MAS, Distillation, Flow
from lightning_mixcd.scaling import skip_if_not_finite
from tests.penalties.replay import full_ledger
from tests.toys import OnBatchEnd, Toy, finetune, pool, trainer, weights

PROJECTIONS = {"agem": AGEM, "gem": lambda: GEM(Single(), margin=0.0), "gem by label": lambda: GEM(ByLabel())}
PENALTIES = {
    **PROJECTIONS,
    "l2sp": lambda: L2SP(1.0),
    "ewc": lambda: EWC(1.0, n_samples=20),
    "mas": lambda: MAS(1.0, n_samples=20),
    "kfac": lambda: KFAC(1.0, n_samples=20),
    "lwf": Distillation,
    "der": DER,
    "flow": Flow,
}
DEVICES = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
EVERY = pytest.mark.parametrize("accumulate", [1, 3])


class Plain(Toy):
    """Steps are as long as gradients are, so that what rounding does to these does no more to weights."""

    def __init__(self, factor=1.0, overflows_at=(), looks_overflow_at=()):
        super().__init__()
        self.factor, self.overflows_at, self.looks_overflow_at = factor, overflows_at, looks_overflow_at

    def outputs(self, loss, logits):
        loss = loss * self.factor
        if not self.training and len(self.seen) - 1 in self.looks_overflow_at:
            loss = loss * torch.inf
        if self.training and len(self.seen) - 1 in self.overflows_at:
            loss = loss * torch.inf
        return super().outputs(loss, logits)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.3 / self.factor)


def fit(*penalties, accumulate=1, scale=None, module=None, device="cpu"):
    """The module's weights after each batch of three optimizer steps, and the scaler."""
    module, after = module or Plain(), []
    callback = RehearsalCallback(
        Uniform(), pool=Pool(pool(), lag=1), ledger=full_ledger(), mix_ratio=0.5, penalties=penalties
    )
    keep = OnBatchEnd(lambda _, module, *__: after.append(weights(module).cpu()))
    scaler = None if scale is None else GradScaler(device, init_scale=scale)
    plugins = [] if scaler is None else [MixedPrecision("16-mixed", device, scaler=scaler)]
    settings = {"accumulate_grad_batches": accumulate, "limit_train_batches": accumulate, "max_epochs": 3}
    settings["accelerator"] = "cpu" if device == "cpu" else "gpu"
    trainer(callback, keep, plugins=plugins, **settings).fit(module, DataLoader(finetune(), 8))
    return after, scaler


def assert_second_is_left_out(after, scaler, accumulate):
    first, second, third = after[accumulate - 1 :: accumulate]
    assert torch.equal(second, first)
    assert scaler.get_scale() == 2.0**9
    assert not torch.equal(third, second)
    assert third.isfinite().all()


@DEVICES
@EVERY
@pytest.mark.parametrize("name", PENALTIES)
def test_scaled_run_is_the_unscaled_one_but_for_rounding(name, accumulate, device):
    plain, _ = fit(PENALTIES[name](), accumulate=accumulate)
    scaled, scaler = fit(PENALTIES[name](), accumulate=accumulate, scale=2.0**10, device=device)
    without, _ = fit(accumulate=accumulate)
    assert scaler.get_scale() == 2.0**10
    off = (scaled[-1] - plain[-1]).norm()
    assert off < 0.02 * (plain[-1] - weights(Plain())).norm()
    assert off < 0.1 * (plain[-1] - without[-1]).norm()


@DEVICES
@EVERY
@pytest.mark.parametrize("name", PENALTIES)
def test_step_that_overflows_is_left_out(name, accumulate, device):
    """The middle one of three; with accumulation, in the middle one of its batches."""
    module = Plain(overflows_at=[accumulate + accumulate // 2])
    settings = {"accumulate": accumulate, "scale": 2.0**10, "module": module, "device": device}
    after, scaler = fit(PENALTIES[name](), **settings)
    assert_second_is_left_out(after, scaler, accumulate)


@EVERY
@pytest.mark.parametrize("name", PROJECTIONS)
def test_gradients_too_small_for_16_bits_are_projected_too(name, accumulate):
    plain, _ = fit(PENALTIES[name](), accumulate=accumulate)
    tiny = Plain(factor=2.0**-24)
    scaled, _ = fit(PENALTIES[name](), accumulate=accumulate, scale=2.0**24, module=tiny)
    off = (scaled[-1] - plain[-1]).norm()
    assert off < 0.02 * (plain[-1] - weights(Plain())).norm()


@EVERY
@pytest.mark.parametrize("name", PROJECTIONS)
def test_step_whose_rehearsed_rows_overflow_is_left_out(name, accumulate):
    """Only their own gradient overflows, which the scaler does not see when it looks at that of the step."""
    module = Plain(looks_overflow_at=[2 * accumulate - 1])
    after, scaler = fit(PENALTIES[name](), accumulate=accumulate, scale=2.0**10, module=module)
    assert_second_is_left_out(after, scaler, accumulate)


def test_optimizer_that_unscales_by_itself_is_refused():
    class Fused(Plain):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 0.01, fused=True)

    with pytest.raises(CaptureError, match=r"got AdamW that unscales within.*fused=False"):
        fit(L2SP(), scale=2.0**10, module=Fused())
    fit(L2SP(), module=Fused())


@pytest.mark.parametrize("place", [None, 0, 1])
def test_one_gradient_that_is_not_finite_is_enough_to_skip_the_step(place):
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer, scaler = torch.optim.SGD(parameters, 0.1), GradScaler("cpu", init_scale=4.0)
    scaler.scale(sum(parameter.sum() for parameter in parameters)).backward()
    scaler.unscale_(optimizer)
    if place is not None:
        parameters[place].grad[1] = torch.nan
    skip_if_not_finite(scaler, optimizer, [parameter.grad for parameter in parameters])
    scaler.step(optimizer)
    scaler.update()
    assert [bool((parameter == 1).all()) for parameter in parameters] == [place is not None] * 2
