"""What L2SP, EWC, MAS and KFAC have in common: they hold weights where the base model had them."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_mixcd import NoRehearsal, Pool, RehearsalCallback
from lightning_mixcd.errors import CaptureError
from lightning_mixcd.penalties import EWC, KFAC, L2SP, MAS
from tests.penalties.starting import Knock, Still, begun, fit, knocks
from tests.toys import N_POOL, Opening, Toy, finetune, trainer, weights

N = 20
PENALTIES = {
    "l2sp": L2SP,
    "ewc": lambda strength: EWC(strength, n_samples=N),
    "mas": lambda strength: MAS(strength, n_samples=N),
    "kfac": lambda strength: KFAC(strength, n_samples=N),
}
every_penalty = pytest.mark.parametrize("make", PENALTIES.values(), ids=PENALTIES)
SPRINGS = [PENALTIES[name] for name in ("l2sp", "ewc", "mas")]
every_spring = pytest.mark.parametrize("make", SPRINGS, ids=["l2sp", "ewc", "mas"])


class Descending(Toy):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


@every_penalty
def test_no_strength_changes_nothing(make):
    plain, held = Toy(dropout=0.3), Toy(dropout=0.3)
    for module, penalties in ((plain, []), (held, [make(0.0)])):
        torch.manual_seed(3)
        fit(module, *penalties, max_epochs=2)
    assert torch.equal(weights(plain), weights(held))


@every_penalty
def test_the_stronger_the_nearer_to_the_base(make):
    far = []
    for strength in (0.0, 1.0, 10.0, 100.0):
        fit(Toy(lr=1e-3), penalty := make(strength), max_epochs=6)
        penalty.alpha = penalty.strength = 1.0  # to compare like with like
        far.append(penalty.metrics()["loss"])
    assert far == sorted(far, reverse=True)
    assert far[-1] < far[0] / 2


def test_without_end_of_strength_the_base_stays():
    # As strong as stable steps allow: each step ends one plain step from the base.
    lr = 1e-4
    held, plain = Descending(lr=lr), Descending(lr=lr)
    fit(held, L2SP(1 / lr), max_epochs=4)
    fit(plain, max_epochs=4)
    base = weights(Toy())
    assert (weights(held) - base).norm() < 1.5 * (weights(plain) - base).norm() / 20


@every_spring
@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}, {"gradient_clip_val": 1e6}],
    ids=["plain", "accumulated", "bf16-mixed", "clipped"],
)
def test_gradient_is_strength_times_importance_times_distance(make, settings):
    lr, strength = 0.01, 0.7
    module, penalty, base = Still(lr=lr), make(strength), Still()
    fit(module, penalty, callbacks=[Knock()], **settings)
    steps = 3 if "accumulate_grad_batches" in settings else 5
    then = dict(base.named_parameters())
    for name, knock in knocks(base).items():
        factor = strength * penalty.importances.get(name, torch.ones(()))
        expected = then[name] + knock * (1 - lr * factor) ** steps
        torch.testing.assert_close(dict(module.named_parameters())[name], expected)


@every_spring
def test_logged_loss_is_half_the_weighted_square(make):
    module = Toy()
    penalty = begun(make(0.7), module)
    assert penalty.metrics()["loss"] == 0
    expected = 0.0
    with torch.no_grad():
        for name, knock in knocks(module).items():
            module.get_parameter(name).add_(knock)
            importance = penalty.importances.get(name, torch.ones_like(knock))
            expected += sum(
                0.35 * i * d * d
                for i, d in zip(importance.flatten().tolist(), knock.flatten().tolist(), strict=True)
            )
    assert penalty.metrics()["loss"].item() == pytest.approx(expected, rel=1e-4)


@every_penalty
def test_frozen_parameters_cost_nothing_and_stay(make):
    module = Toy()
    module.net[0].requires_grad_(False)
    penalty = make(1.0)
    fit(module, penalty)
    assert torch.equal(module.net[0].weight, Toy().net[0].weight)
    assert not [key for key in penalty.state_dict() if ".net.0" in key]
    assert [key for key in penalty.state_dict() if ".net.3" in key]


class Normalised(Toy):
    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(8))


@every_penalty
def test_buffers_are_free(make):
    plain, held = Normalised(), Normalised()
    fit(plain)
    fit(held, penalty := make(0.0))
    assert torch.equal(plain.net[1].running_mean, held.net[1].running_mean)
    assert not torch.equal(held.net[1].running_mean, Normalised().net[1].running_mean)
    assert not [key for key in penalty.state_dict() if "running" in key]


@every_spring
def test_shared_weights_are_held_once(make):
    module = Toy()
    module.again = nn.Linear(4, 8)
    module.again.weight = module.net[0].weight
    module.again.bias = module.net[0].bias
    once, twice = begun(make(1.0), Toy()), begun(make(1.0), module)
    with torch.no_grad():
        for penalty in (once, twice):
            for parameter in penalty.parameters.values():
                parameter += 1.0
    assert once.metrics()["loss"] == twice.metrics()["loss"]


@every_penalty
def test_resumed_run_is_the_uninterrupted_one(make, tmp_path):
    checkpoint = tmp_path / "first.ckpt"
    fit(Toy(), make(3.0), save=checkpoint)
    torch.load(checkpoint, weights_only=True)
    whole, resumed, first, second = Toy(), Toy(), make(3.0), make(3.0)
    counted = fit(whole, first, max_epochs=2)
    recounted = fit(resumed, second, max_epochs=2, ckpt_path=checkpoint)
    assert torch.equal(weights(whole), weights(resumed))
    assert counted.compute_units == recounted.compute_units
    # Only the second epoch: the base model was not looked at again.
    assert resumed.rows_forwarded == 40
    state = first.state_dict()
    assert state.keys() == second.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in second.state_dict().items())


@every_penalty
def test_compute_units_are_what_the_network_did(make):
    module, backwards = Toy(), []
    module.net[3].register_full_backward_pre_hook(lambda _, gradients: backwards.append(len(gradients[0])))
    callback = fit(module, make(1.0))
    assert callback.compute_units == module.rows_forwarded + 2 * sum(backwards)


@pytest.mark.parametrize("name", ["ewc", "mas", "kfac"])
def test_processes_share_out_the_rows(name):
    module, n = Toy(), 5
    kinds = {"ewc": EWC, "mas": MAS, "kfac": KFAC}

    def made(**settings):
        return begun(kinds[name](n_samples=n), module, **settings).state_dict()

    whole = made(seed=7)
    for world_size in (2, 8):  # more processes than rows, too
        inputs = [key for key in whole if key.startswith("inputs.")]
        parts = [sums(made, rank, world_size) for rank in range(world_size)]
        for position, value in enumerate(parts[0]):
            total = sum(part[position] for part in parts[1:]) + value
            found = totals_to_state(name, whole, inputs, n)[position]
            torch.testing.assert_close(total, found)


def sums(made, rank, world_size):
    """What one process puts into each exchange, in order."""
    given = []

    def total(tensor):
        given.append(tensor.clone())
        return tensor + 1  # of the others

    made(seed=7, rank=rank, world_size=world_size, total=total)
    return given


def totals_to_state(name, whole, inputs, n):
    """What all of them together must have put in, from the state of one process alone."""
    if name != "kfac":
        return [n * value for key, value in whole.items() if key.startswith("importance.")]
    found = []
    for key in inputs:
        found += [torch.tensor(float(n)), n * whole[key], n * whole[key.replace("inputs", "outputs")]]
    return found


@every_penalty
def test_rows_and_labels_follow_from_the_seed(make):
    states = [begun(make(1.0), Toy(), seed=seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    if make is not L2SP:
        assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


class Manual(Toy):
    automatic_optimization = False


@every_penalty
def test_manual_optimization_is_refused(make):
    with pytest.raises(CaptureError, match="manual optimization"):
        fit(Manual(), make(1.0))


@pytest.mark.parametrize("kind", [EWC, MAS, KFAC])
def test_more_rows_than_the_pool_has_are_refused(kind):
    with pytest.raises(ValueError, match=rf"`n_samples` .* \({N_POOL}\), got 61"):
        fit(Toy(), kind(n_samples=N_POOL + 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda value=value: L2SP(value), r"`alpha` .* got") for value in (-1.0, float("inf"))),
        (lambda: L2SP(beta=-0.1), r"`beta` .* got -0.1"),
        *(
            (lambda kind=kind, value=value: kind(value), r"`strength` .* got")
            for kind in (EWC, MAS, KFAC)
            for value in (-1.0, float("nan"))
        ),
        *((lambda kind=kind: kind(n_samples=0), "`n_samples` .* got 0") for kind in (EWC, MAS, KFAC)),
        *((lambda kind=kind: kind(labels="mine"), "`labels` .* got 'mine'") for kind in (EWC, KFAC)),
        *((lambda value=value: EWC(decay=value), "`decay` .* got") for value in (-0.1, 1.1)),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("strength", [1e4, 1e6])
def test_small_importances_and_great_strengths_fit_into_half_precision(dtype, strength):
    module, penalty = nn.Linear(50, 50).to(dtype), EWC(strength)
    penalty.attach(module)
    penalty.hold({name: torch.full(p.shape, 3e-6) for name, p in module.named_parameters()})
    with torch.no_grad():
        module.weight += 2e-3 * torch.randn(50, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    penalty.change_gradients(found, [], lambda tensor: tensor)
    move = module.weight.detach().double() - penalty.anchors["weight"].double()
    pull = strength * 3e-6 * move
    assert found["weight"].dtype == dtype
    assert (found["weight"].double() - pull).norm() < 0.01 * pull.norm()
    assert penalty.metrics()["loss"].item() == pytest.approx(float((pull * move).sum() / 2), rel=0.01)


@pytest.mark.parametrize("kind", [EWC, MAS, KFAC])
def test_workers_of_the_pool_read_what_weights_are_measured_on(kind):
    found = []
    for num_workers in (0, 2):
        dataset, penalty, module = Opening(), kind(1.0, n_samples=N), Toy()
        given = Pool(dataset, num_workers=num_workers, lag=8)
        callback = RehearsalCallback(NoRehearsal(), pool=given, penalties=[penalty])
        torch.manual_seed(3)
        trainer(callback).fit(module, DataLoader(finetune(), 8, shuffle=True))
        assert dataset.opened == (num_workers == 0)
        found.append(weights(module))
    assert torch.equal(*found)
