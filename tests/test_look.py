"""Running the model in between training steps: what is seen and differentiated, what it costs, no trace."""

import copy
import random
from contextlib import nullcontext

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torch.amp import GradScaler
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lightning_mixcd import CaptureError, Readout
from lightning_mixcd.look import Look, loss_of
from tests.toys import N_FEATURES, LossOnly, Toy, finetune, pool, weights


class Rich(Toy):
    """With batch norm, dropout, a metric and a parameter that the loss does not depend on."""

    def __init__(self):
        super().__init__(dropout=0.5)
        self.net = nn.Sequential(self.net[0], nn.BatchNorm1d(8), *self.net[1:])
        self.idle, self.frozen = (nn.Parameter(torch.ones(2)) for _ in range(2))
        self.frozen.requires_grad_(False)
        self.seen_rows = torchmetrics.SumMetric()
        with torch.no_grad():
            self.net(pool().tensors[0][:, :-1])  # running statistics that matter

    def training_step(self, batch, batch_idx):
        self.seen_rows.update(len(batch[0]))
        random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
        return super().training_step(batch, batch_idx)


def batch(n=10, data=pool):
    return [part[:n] for part in data().tensors]


def plain(module, rows):
    """Logits and loss of each row, the obvious way."""
    module = copy.deepcopy(module).eval()
    logits = module.net(rows[0][:, :-1])
    return logits, cross_entropy(logits, rows[1], reduction="none")


def same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-7) for name in expected)


def by_hand(module, rows):
    """Gradient of the mean loss, the obvious way."""
    module = copy.deepcopy(module).eval()
    plain_logits = module.net(rows[0][:, :-1])
    cross_entropy(plain_logits, rows[1]).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in module.named_parameters()
        if p.requires_grad
    }


def elsewhere(module):
    """A copy with other weights."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for number, parameter in enumerate(other.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return other


def test_a_look_shows_what_the_model_does_in_eval_mode():
    module, rows = Rich(), batch()
    look = Look(module, Readout())
    look.with_features = True
    seen = look.see(rows)
    logits, loss = plain(module, rows)
    assert torch.equal(seen.logits, logits)
    assert torch.allclose(seen.loss, loss)
    assert torch.equal(seen.label, rows[1])
    assert torch.equal(seen.correct, logits.argmax(1) == rows[1])
    assert torch.allclose(seen.features @ module.net[-1].weight.T + module.net[-1].bias, logits)
    assert not any(part.requires_grad for part in (seen.logits, seen.loss, seen.features))


def test_other_weights_can_be_looked_through():
    module, rows = Rich(), batch()
    other, look = elsewhere(module), Look(module, Readout())
    given = dict(other.named_parameters())
    assert torch.allclose(look.see(rows, weights=given).loss, plain(other, rows)[1])
    same(look.gradient(rows, weights=given), by_hand(other, rows))
    # What is not given is the model's own.
    assert torch.equal(look.see(rows, weights={}).logits, plain(module, rows)[0])


def test_gradient_is_that_of_the_modules_own_loss():
    module, rows = Rich(), batch()
    found = Look(module, Readout()).gradient(rows)
    same(found, by_hand(module, rows))
    assert not found["idle"].any()
    assert "frozen" not in found


def test_gradient_under_loss_scaling_is_that_without():
    module, rows = Rich(), batch()
    found = Look(module, Readout(), scaler=GradScaler("cpu", init_scale=2.0**10)).gradient(rows)
    same(found, by_hand(module, rows))


def test_recurrent_layers_are_differentiated_without_cudnn():
    """Which refuses to in eval mode."""

    class Recurrent(Toy):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.LSTM(N_FEATURES, 3), _First())
            self.cudnn = []

        def training_step(self, batch, batch_idx):
            self.cudnn.append(torch.backends.cudnn.enabled)
            return super().training_step(batch, batch_idx)

    module, rows = Recurrent(), batch()
    look = Look(module, Readout())
    same(look.gradient(rows), by_hand(module, rows))
    [*look.gradients_by_row(batch(1), lambda seen: seen.loss)]
    look.see(rows)
    assert module.cudnn == [False, False, True]
    assert torch.backends.cudnn.enabled


class _First(nn.Module):
    def forward(self, both):
        return both[0]


def test_a_snapshot_stays_as_it_is():
    module, rows = Rich(), batch()
    look = Look(module, Readout())
    before = look.snapshot()
    assert before.keys() == module.state_dict().keys()
    logits = plain(module, rows)[0]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(look.see(rows, weights=before).logits, logits)


def test_trainable_parameters_are_the_models_own():
    module = Rich()
    found = Look(module, Readout()).trainable()
    assert set(found) == {name for name, _ in module.named_parameters()} - {"frozen"}
    assert all(found[name] is module.get_parameter(name) for name in found)


def test_gradients_by_row_are_those_of_single_rows():
    module, rows = Rich(), batch(4)
    look = Look(module, Readout())
    found = list(look.gradients_by_row(rows, lambda seen: torch.cat([seen.loss, seen.logits[0]])))
    assert len(found) == 4 * 4
    for row in range(4):
        one = [part[row : row + 1] for part in rows]
        same(found[4 * row], by_hand(module, one))
        lone = copy.deepcopy(module).eval()
        lone.net(one[0][:, :-1])[0, 2].backward()
        assert torch.allclose(found[4 * row + 3]["net.4.weight"], lone.net[4].weight.grad)
    assert (look.forwards, look.backwards) == (4, 16)


class Counter:
    """Counts rows through a layer, by hooks."""

    def __init__(self, module):
        self.forwards = self.backwards = 0
        module.net[-1].register_forward_hook(self.forward)
        module.net[-1].register_full_backward_hook(self.backward)

    def forward(self, _layer, _inputs, output):
        self.forwards += len(output)

    def backward(self, _layer, _inputs, output):
        self.backwards += len(output[0])


@pytest.mark.parametrize(
    "action",
    [
        lambda look: look.see(batch(7)),
        lambda look: look.see(batch(7), weights=look.snapshot()),
        lambda look: look.gradient(batch(5)),
        lambda look: look.gradient(batch(5), weights=look.snapshot()),
        lambda look: list(look.gradients_by_row(batch(3), lambda seen: seen.loss)),
    ],
)
def test_what_is_counted_is_what_hooks_count(action):
    module = Toy()
    counter, look = Counter(module), Look(module, Readout())
    action(look)
    assert (look.forwards, look.backwards) == (counter.forwards, counter.backwards)
    assert look.forwards > 0


def look_around(look):
    look.see(batch())
    stepped = {name: value - 0.1 * look.gradient(batch())[name] for name, value in look.trainable().items()}
    look.see(batch(), weights={**look.snapshot(), **stepped})
    look.gradient(batch(), weights=look.snapshot())
    list(look.gradients_by_row(batch(2), lambda seen: seen.loss))


def test_no_trace_is_left():
    module = Rich()
    module.net[1].eval()  # as a user may keep it
    logged = []
    module.log = lambda *args, **settings: logged.append(args)
    own_log = module.log
    module.training_step(batch(data=finetune), 0)["loss"].backward()
    n_logged = len(logged)

    def state():
        return {
            "weights": [p.detach().clone() for p in module.parameters()],
            "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
            "needs": [p.requires_grad for p in module.parameters()],
            "buffers": [b.clone() for b in module.buffers()],
            "modes": [m.training for m in module.modules()],
            "metric": module.seen_rows.compute(),
            "chance": (random.random(), np.random.rand(), torch.rand(())),  # noqa: NPY002
        }

    found = []
    for looks in (False, True):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
        if looks:
            look_around(Look(module, Readout()))
        found.append(state())
    assert str(found[0]) == str(found[1])
    assert len(logged) == n_logged
    assert module.log is own_log
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("readout", [Readout(module="net.3"), Readout(module="net.3", features="net.3")])
def test_what_the_training_step_showed_stays_readable(readout):
    module, rows = Toy(), batch(data=finetune)
    listening = readout.attach(module, with_features=True)
    look = Look(module, readout)
    look.with_features = True
    outputs = module.net(rows[0][:, :-1])
    look_around(look)
    reading = readout.read(None, rows, with_logits=True, with_features=True)
    assert torch.equal(reading.logits, outputs)
    assert len(reading.features) == len(rows[0])
    listening.close()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.net)


def test_a_look_that_fails_leaves_no_trace_either():
    module = Toy(dropout=0.5)
    look = Look(module, Readout(correctness=lambda outputs, rows: 0.5))
    state = torch.get_rng_state()
    with pytest.raises(CaptureError, match=r"Correctness must be a bool tensor .* got 0\.5"):
        look.see(batch())
    assert module.training
    assert "log" not in module.__dict__
    assert torch.equal(torch.get_rng_state(), state)


class Checkpointed(Toy):
    """Makes the outputs of its layers anew in the backward."""

    def __init__(self, *, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def training_step(self, rows, batch_idx):
        x = rows[0][:, :-1].requires_grad_()
        logits = checkpoint(self.net, x, use_reentrant=self.reentrant)
        return {"loss": cross_entropy(logits, rows[1]), "logits": logits}


@pytest.mark.parametrize("lent", [False, True])
def test_gradients_through_checkpoints_are_those_without(lent):
    found = []
    for module in (Toy(), Checkpointed(reentrant=False)):
        look = Look(module, Readout())
        weights = {name: value + 0.5 for name, value in look.snapshot().items()} if lent else None
        found.append(look.gradient(batch(), weights=weights))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])


def test_checkpoints_that_hide_their_layers_are_refused():
    look = Look(Checkpointed(reentrant=True), Readout())
    with pytest.raises(CaptureError, match="Pass use_reentrant=False"):
        look.gradient(batch())
    with pytest.raises(CaptureError, match="Pass use_reentrant=False"):
        next(look.gradients_by_row(batch(), lambda seen: seen.loss))


def test_rows_that_a_forward_shortens_keep_their_length():
    class Words(Toy):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(8, N_FEATURES, max_norm=0.1)

        def training_step(self, rows, batch_idx):
            logits = self.net(self.words(rows[1]))
            return {"loss": cross_entropy(logits, rows[1]), "logits": logits}

    module = Words()
    before = module.words.weight.detach().clone()
    assert (before.norm(dim=1) > 0.1).all()
    look = Look(module, Readout())
    look.see(batch())
    assert look.gradient(batch())["words.weight"].any()
    assert torch.equal(module.words.weight, before)


def test_learning_rate_is_the_current_one():
    rates = iter([0.1, 0.2])
    look = Look(Toy(), Readout(), learning_rate=lambda: next(rates))
    assert [look.learning_rate, look.learning_rate] == [0.1, 0.2]


@pytest.mark.parametrize("context", [nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_looks_are_made_in_the_precision_of_training(context):
    module, rows = Toy(), batch()
    look = Look(module, Readout(), context=context)
    with context():
        expected = module.net(rows[0][:, :-1])
    assert look.see(rows).logits.dtype == expected.dtype
    assert torch.equal(look.see(rows).logits, expected)
    assert all(gradient.dtype == torch.float32 for gradient in look.gradient(rows).values())


def test_tied_weights_are_stepped_once():
    class Tied(Toy):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
            self.net[2].weight = self.net[0].weight

    module, rows = Tied(), batch()
    look = Look(module, Readout())
    gradient = look.gradient(rows)
    same(gradient, by_hand(module, rows))
    stepped = {name: value - gradient[name] for name, value in look.trainable().items()}
    other = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(stepped[name])
    assert torch.allclose(look.see(rows, weights=stepped).logits, plain(other, rows)[0])


class Manual(Toy):
    automatic_optimization = False


def test_manual_optimization_is_refused_unless_a_step_is_named():
    with pytest.raises(CaptureError, match=r"manual optimization would train\. Say how .* Readout\(step="):
        Look(Manual(), Readout()).check()
    step = Readout(step=lambda module, rows: {"logits": module.net(rows[0][:, :-1])})
    look = Look(Manual(), step)
    look.check()
    assert torch.equal(look.see(batch()).logits, plain(Manual(), batch())[0])


def test_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(CaptureError, match=r"`torch.inference_mode` is on"):
        Look(Toy(), Readout()).check()


def test_sharded_parameters_are_refused():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        module = Toy()
        weight = distribute_tensor(module.net[0].weight.detach(), init_device_mesh("cpu", (1,)))
        module.net[0].weight = nn.Parameter(weight)
        with pytest.raises(CaptureError, match=r"sharded over processes\. Train with DDP, or .* MixCD"):
            Look(module, Readout()).check()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("outputs", [None, {"logits": torch.zeros(2)}, torch.zeros(2), {"loss": 0.1}])
def test_a_loss_is_required_where_something_starts_from_it(outputs):
    with pytest.raises(CaptureError, match="The loss must be a 0-dim tensor"):
        loss_of(outputs)


def test_a_plain_loss_is_enough_for_gradients():
    same(Look(LossOnly(), Readout()).gradient(batch()), by_hand(LossOnly(), batch()))


def test_a_module_that_was_compiled_whole_is_looked_at_itself():
    module = torch.compile(Toy(), backend="eager")
    look = Look(module, Readout())
    assert isinstance(look.module, pl.LightningModule)
    assert torch.equal(look.see(batch()).logits, plain(Toy(), batch())[0])
    assert len(look.gradient(batch())) == 4


class Tied(Toy):
    """One submodule under two names, and one parameter in two submodules."""

    def __init__(self):
        super().__init__()
        self.twin = self.net
        self.other = nn.Linear(N_FEATURES, 8)
        self.other.weight = self.net[0].weight


def test_lent_weights_reach_every_place_and_leave_it_again():
    module = Tied()
    own = weights(module).clone()
    batch = [part[:6] for part in pool().tensors]
    look = Look(module, Readout())
    lent = {name: 2 * value for name, value in look.snapshot().items()}
    scaled = Toy()
    for parameter in scaled.parameters():
        parameter.data.mul_(2)
    assert torch.equal(look.see(batch, weights=lent).loss, Look(scaled, Readout()).see(batch).loss)
    assert torch.equal(weights(module), own)
    assert all(parameter.requires_grad for parameter in module.parameters())
