"""A-GEM and GEM in training, against a plain loop over single rows."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_mixcd import CaptureError, MixCD, Uniform, UniformCorrect
from lightning_mixcd.partitions import ByColumn, ByLabel, Single
from lightning_mixcd.penalties import AGEM, GEM
from lightning_mixcd.schedules import HoldRetention
from tests.functional.test_projection import slow_cone
from tests.penalties.replay import assert_same, base_net, fit, gradient_of, replay, samples
from tests.toys import POOL_IDS, Listed, Toy, finetune, flat, pool, trainer, weights


def one_vector(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients]).double()


def mean_gradient(net, ids):
    """Of the rows of both tasks, one row after the other."""
    rows = [one_vector(gradient_of(net, cross_entropy(net(x), y))) for x, y in ([*samples([i])] for i in ids)]
    return sum(rows) / len(rows)


def split_like(net, vector):
    parts = vector.float().split([parameter.numel() for parameter in net.parameters()])
    return [part.view_as(parameter) for part, parameter in zip(parts, net.parameters(), strict=True)]


def along(net, gradient, old, *, bins=None, margin=0.0, acted=None):
    """A gradient turned by the written rules of either method, given the pool samples of the step."""
    groups = {}
    for i in old:
        groups.setdefault(0 if bins is None else bins[i - POOL_IDS], []).append(i)
    if not groups:
        return gradient
    references = torch.stack([mean_gradient(net, ids) for _, ids in sorted(groups.items())])
    if acted is not None:
        acted.append(bool((references @ gradient < 0).any()))
    return torch.as_tensor(slow_cone(gradient, references, margin))


def turned(net, step, **given):
    """The gradient of a step's finetune samples, turned."""
    fine, old = step
    return split_like(net, along(net, mean_gradient(net, fine), old, **given))


def by_step(seen):
    """Finetune and pool samples of each batch, where looks at pool rows follow it, however many."""
    steps = []
    for ids in seen:
        if ids[0] < POOL_IDS:
            steps.append((ids, []))
        else:
            steps[-1][1].extend(ids)
    return steps


def joined(steps, n):
    """Batches that were accumulated, taken together: looks come after the last of them."""
    parts = [zip(*steps[i : i + n], strict=True) for i in range(0, len(steps), n)]
    return [(flat(fine), flat(old)) for fine, old in parts]


@pytest.mark.parametrize("strategy", [Uniform, UniformCorrect])
def test_agem_as_a_loop(strategy):
    module, _ = fit([AGEM()], strategy(), max_epochs=3)
    acted = []
    steps = by_step(module.differentiated)
    assert [(len(fine), len(old)) for fine, old in steps] == [(8, 4)] * 15
    assert_same(module, replay(steps, lambda net, step: turned(net, step, acted=acted)))
    assert {*acted} == {True, False}


@pytest.mark.parametrize("penalty", [AGEM, lambda: GEM(Single(), margin=0.0)])
def test_accumulated_batches_make_one_gradient_and_one_reference(penalty):
    module, _ = fit([penalty()], accumulate_grad_batches=2, limit_train_batches=4, max_epochs=3)
    steps = joined(by_step(module.differentiated), 2)
    assert [(len(fine), len(old)) for fine, old in steps] == [(16, 8)] * 6
    assert_same(module, replay(steps, lambda net, step: turned(net, step)))


class Twice(torch.optim.SGD):
    """Goes by the gradient at the weights to which its gradient leads, as SAM does."""

    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        [group] = self.param_groups
        before = [p.detach().clone() for p in group["params"]]
        with torch.no_grad():
            for p in group["params"]:
                p += p.grad
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for p, own in zip(group["params"], before, strict=True):
                p.copy_(own)
        super().step()
        return loss


def test_gradients_are_turned_each_time_that_an_optimizer_asks_for_them():
    class Asking(Toy):
        def configure_optimizers(self):
            return Twice(self.parameters(), 0.1)

    module, _ = fit([AGEM()], module=Asking(), max_epochs=2)
    asked = by_step(module.differentiated)
    assert asked[::2] == asked[1::2]
    net, acted = base_net(), []
    for step in asked[::2]:
        before = [p.detach().clone() for p in net.parameters()]
        first = turned(net, step, acted=acted)
        with torch.no_grad():
            for p, own, gradient in zip(net.parameters(), before, first, strict=True):
                p.copy_(own + gradient)
        second = turned(net, step, acted=acted)
        with torch.no_grad():
            for p, own, gradient in zip(net.parameters(), before, second, strict=True):
                p.copy_(own - 0.1 * gradient)
    assert_same(module, net.state_dict())
    assert any(acted[1::2])


def test_batches_kept_apart_weigh_by_their_rows():
    module, _ = fit([AGEM()], mix_ratio=0.2, accumulate_grad_batches=4, limit_train_batches=4, max_epochs=4)
    assert {len(ids) for ids in module.differentiated} == {8, 1, 2}
    steps = joined(by_step(module.differentiated), 4)
    assert_same(module, replay(steps, lambda net, step: turned(net, step)))


# More steps would not do: Adam makes a step of what rounding leaves of a gradient that was projected to zero.
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gem_as_a_loop(margin):
    module, _ = fit([GEM(ByLabel(), margin=margin)])
    acted, bins = [], pool().tensors[1].tolist()
    steps = by_step(module.differentiated)
    assert [(len(fine), len(old)) for fine, old in steps] == [(8, 4)] * 5
    slow = replay(steps, lambda net, step: turned(net, step, bins=bins, margin=margin, acted=acted))
    assert_same(module, slow)
    assert any(acted)


def test_gem_with_one_group_and_no_margin_is_agem():
    gem, agem = (fit([penalty], max_epochs=2)[0] for penalty in (GEM(Single(), margin=0.0), AGEM()))
    torch.testing.assert_close(weights(gem), weights(agem), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("penalty", [AGEM, lambda: GEM(ByLabel())])
def test_cost_is_that_of_the_rows_in_the_batch(penalty):
    module, callback = fit([penalty()])
    assert module.rows_forwarded == 40 + 20
    assert callback.compute_units == 3 * (40 + 20)


def test_steps_without_rehearsed_rows_are_plain_ones():
    module, _ = fit([AGEM()], mix_ratio=0.05, limit_train_batches=2)
    plain = Toy()
    trainer(limit_train_batches=2).fit(plain, DataLoader(finetune(), 8))
    assert torch.equal(weights(module), weights(plain))


@pytest.mark.parametrize("penalty", [AGEM, lambda: GEM(ByLabel())])
def test_frozen_and_unused_parameters_are_left_alone(penalty):
    class Partly(Toy):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(2, 2)
            self.net[0].weight.requires_grad_(False)

    before = Partly()
    module, _ = fit([penalty()], module=Partly())
    assert torch.equal(module.net[0].weight, before.net[0].weight)
    assert module.unused.weight.grad is None
    assert not torch.equal(module.net[3].weight, before.net[3].weight)


@pytest.mark.parametrize("penalty", [AGEM, lambda: GEM(ByLabel())])
def test_parameters_in_no_optimizer_count_as_frozen_ones(penalty):
    """Their gradients pile up, since nobody empties them."""

    class HeadOnly(Toy):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net[-1].parameters(), 0.05)

    left_out, frozen = HeadOnly(), HeadOnly()
    frozen.net[0].requires_grad_(False)
    for module in (left_out, frozen):
        fit([penalty()], module=module, max_epochs=3)
    torch.testing.assert_close(weights(left_out), weights(frozen))


def test_agem_is_the_same_in_bf16_mixed_but_for_rounding():
    module, _ = fit([AGEM()], precision="bf16-mixed", limit_train_batches=3)
    assert_same(
        module,
        replay(by_step(module.differentiated), lambda net, step: turned(net, step)),
        rtol=0.2,
        atol=0.05,
    )


def test_clipping_comes_after():
    module, _ = fit([AGEM()], module=Toy(lr=0.05), gradient_clip_val=0.01)

    def clipped(net, step):
        gradients = turned(net, step)
        norm = one_vector(gradients).norm()
        return [gradient * min(1.0, float(0.01 / norm)) for gradient in gradients]

    assert_same(module, replay(by_step(module.differentiated), clipped))


def test_strategy_that_learns_is_refused():
    with pytest.raises(ValueError, match=r"`strategy` must be one that learns nothing.*got MixCD"):
        fit([AGEM()], MixCD())


def test_schedule_that_goes_by_damage_is_refused():
    with pytest.raises(ValueError, match=r"`schedule` must not go by damage .*, got HoldRetention, which"):
        fit([AGEM()], UniformCorrect(), schedule=HoldRetention(0.9))


def test_no_damage_is_logged_where_none_is_seen():
    logger = Listed()
    fit([AGEM()], UniformCorrect(), logger=logger, log_every_n_steps=1)
    assert len(logger.values("rehearsal/compute_units")) == 5
    assert logger.values("rehearsal/damaged_share") == []


def test_manual_optimization_is_refused():
    class Manual(Toy):
        automatic_optimization = False

    with pytest.raises(CaptureError, match="manual optimization"):
        fit([AGEM()], module=Manual())


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_bad_margin_is_refused(margin):
    with pytest.raises(ValueError, match=rf"`margin` must be in \[0, inf\), got {margin}"):
        GEM(Single(), margin=margin)


def test_gem_needs_the_column_of_its_partition():
    with pytest.raises(ValueError, match="source"):
        fit([GEM(ByColumn("source"))])
