"""KFAC: Kronecker products written out, LoRA adapters, tokens, what is refused."""

import importlib.util

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset
from transformers.pytorch_utils import Conv1D

from lightning_mixcd.penalties import KFAC
from lightning_mixcd.weights import HeadFirst
from tests.penalties.replay import assert_same, base_net, gradient_of, replay, samples
from tests.penalties.starting import Knock, begun, fit
from tests.toys import N_CLASSES, N_FEATURES, N_POOL, Toy, pool


class Lora(nn.Module):
    """A frozen linear layer with an adapter beside it, in the form of `peft`."""

    def __init__(self, base, rank=2, scaling=1.5):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)
        self.lora_dropout = nn.Dropout(0.5)
        self.scaling = {"default": scaling}

    def forward(self, x):
        through = self.lora_B["default"](self.lora_A["default"](self.lora_dropout(x)))
        return self.base_layer(x) + self.scaling["default"] * through


class Adapted(Toy):
    def __init__(self, **settings):
        super().__init__(**settings)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.net[0], self.net[3] = Lora(self.net[0]), Lora(self.net[3], scaling=0.5)


def factors(penalty, name):
    state = penalty.state_dict()
    return state[f"inputs.{name}"], state[f"outputs.{name}"]


def slow_factors(net, name, rows=range(N_POOL)):
    """A and G of a layer of the toy, with the exact expectation over labels, one row after the other."""
    layers, total_a, total_g = dict(net.named_children()), 0.0, 0.0
    for i in rows:
        x = pool()[i][0][None, :N_FEATURES]
        hidden = layers["2"](layers["0"](x))
        into, out = (x, layers["0"](x)) if name == "0" else (hidden, layers["3"](hidden))
        out = out.detach().requires_grad_()
        logits = out if name == "3" else layers["3"](layers["2"](out))
        odds = logits.softmax(1)[0].detach()
        a = torch.cat([into, torch.ones(1, 1)], 1)[0].detach()
        total_a = total_a + torch.outer(a, a)
        for label in range(N_CLASSES):
            loss = cross_entropy(logits, torch.tensor([label]))
            [g] = torch.autograd.grad(loss, out, retain_graph=True)
            total_g = total_g + odds[label] * torch.outer(g[0], g[0])
    return total_a / len(rows), total_g / len(rows)


def energy(move, a, g):
    """`vec(D)' (A x G) vec(D)`, with the product written out; columns are stacked."""
    vector = move.T.reshape(-1)
    return vector @ torch.kron(a, g) @ vector


def loss_of(penalty):
    return penalty.metrics()["loss"]


@pytest.mark.parametrize("name", ["0", "3"])
def test_factors_are_those_of_a_loop(name):
    penalty = begun(KFAC(n_samples=N_POOL, labels="all"), Toy())
    for found, expected in zip(factors(penalty, f"net.{name}"), slow_factors(base_net(), name), strict=True):
        torch.testing.assert_close(found, expected)


def test_term_is_the_kronecker_product():
    module = Toy()
    penalty = begun(KFAC(3.0, n_samples=20), module)
    assert loss_of(penalty) == 0
    Knock().on_train_start(None, module)
    expected, base = 0.0, base_net()
    for name in ("0", "3"):
        now, then = module.net.get_submodule(name), base.get_submodule(name)
        move = torch.cat([now.weight - then.weight, (now.bias - then.bias)[:, None]], 1)
        expected = expected + 1.5 * energy(move, *factors(penalty, f"net.{name}"))
    torch.testing.assert_close(loss_of(penalty), expected.detach())


class OneLayer(Toy):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(6)
            self.net = nn.Linear(N_FEATURES, N_CLASSES)


def test_is_the_whole_fisher_matrix_where_all_inputs_are_the_same():
    module, n = OneLayer(), 10
    x = torch.tensor([0.5, -1.0, 2.0, 0.1, 0.0]).expand(n, -1)
    data = TensorDataset(x, torch.zeros(n, dtype=torch.long))
    penalty = begun(KFAC(2.0, n_samples=n, labels="all"), module, data)
    fisher = 0.0
    for label in range(N_CLASSES):
        logits = module.net(x[:1, :N_FEATURES])
        loss = cross_entropy(logits, torch.tensor([label]))
        flat = torch.cat([g.flatten() for g in gradient_of(module.net, loss)])
        fisher = fisher + logits.softmax(1)[0, label].detach() * torch.outer(flat, flat)
    before = nn.utils.parameters_to_vector(module.net.parameters()).detach().clone()
    Knock().on_train_start(None, module)
    move = nn.utils.parameters_to_vector(module.net.parameters()).detach() - before
    torch.testing.assert_close(loss_of(penalty), move @ fisher @ move)


def test_steps_are_those_of_a_plain_loop():
    module, strength = Toy(), 2.0
    penalty = KFAC(strength, n_samples=20)
    fit(module, penalty, max_epochs=2)
    base = base_net()

    def slow(net, ids):
        x, y = samples(ids)
        loss = cross_entropy(net(x), y)
        for name in ("0", "3"):
            a, g = factors(penalty, f"net.{name}")
            now, then = net.get_submodule(name), base.get_submodule(name)
            move = torch.cat([now.weight - then.weight.detach(), (now.bias - then.bias.detach())[:, None]], 1)
            loss = loss + strength / 2 * (move * (g @ move @ a)).sum()
        return gradient_of(net, loss)

    assert_same(module, replay(module.seen[-10:], slow))


class TestAdapters:
    def test_factors_are_those_of_the_layer_below(self):
        plain = begun(KFAC(n_samples=20), Toy())
        adapted = begun(KFAC(n_samples=20), Adapted())
        for name, size in (("net.0", N_FEATURES), ("net.3", 8)):
            (a, g), (all_a, all_g) = factors(adapted, name), factors(plain, name)
            torch.testing.assert_close(a, all_a[:size, :size])
            torch.testing.assert_close(g, all_g)
        assert not [key for key in adapted.state_dict() if key.startswith("base.")]

    def test_move_is_the_product(self):
        module = Adapted()
        penalty = begun(KFAC(3.0, n_samples=20), module)
        assert loss_of(penalty) == 0
        Knock().on_train_start(None, module)
        expected = 0.0
        for name in ("net.0", "net.3"):
            layer = module.get_submodule(name)
            up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
            expected += 1.5 * energy(layer.scaling["default"] * up @ down, *factors(penalty, name))
        torch.testing.assert_close(loss_of(penalty), expected.detach())

    def test_gradient_is_that_of_the_term(self):
        module = Adapted()
        penalty = begun(KFAC(3.0, n_samples=20), module)
        Knock().on_train_start(None, module)
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        found = {name: torch.zeros_like(p) for name, p in trained.items()}
        penalty.change_gradients(found, [], lambda tensor: tensor)
        step = 1e-3
        for name, parameter in trained.items():
            with torch.no_grad():
                for place in range(3):
                    values = []
                    for sign in (1, -1):
                        parameter.view(-1)[place] += sign * step
                        values.append(loss_of(penalty).double())
                        parameter.view(-1)[place] -= sign * step
                    slope = (values[0] - values[1]) / (2 * step)
                    torch.testing.assert_close(
                        found[name].view(-1)[place].double(), slope, rtol=0.02, atol=0.02
                    )

    def test_only_the_adapters_move(self):
        module = Adapted()
        fit(module, KFAC(1.0, n_samples=20), precision="bf16-mixed", max_epochs=2)
        assert torch.equal(module.net[0].base_layer.weight, Toy().net[0].weight)
        assert module.net[0].lora_B["default"].weight.any()

    def test_one_that_is_not_at_zero_is_refused(self):
        module = Adapted()
        nn.init.ones_(module.net[3].lora_B["default"].weight)
        with pytest.raises(ValueError, match=r"got 'net\.3' that does not\. Merge it"):
            fit(module, KFAC(n_samples=5))

    def test_frozen_one_of_an_earlier_stage_is_part_of_the_base(self):
        alone, beside = Adapted(), Adapted()
        for layer in (beside.net[0], beside.net[3]):
            for part in (layer.lora_A, layer.lora_B):
                part["earlier"] = nn.Linear(2, 2).requires_grad_(False)
            layer.scaling["earlier"] = 1.0
        losses = []
        for module in (alone, beside):
            penalty = begun(KFAC(3.0, n_samples=20), module)
            Knock().on_train_start(None, module)
            losses.append(loss_of(penalty))
        assert losses[0] == losses[1] > 0

    @pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
    def test_those_of_peft_are_found(self):
        from peft import LoraConfig, inject_adapter_in_model

        module = Toy()
        module.net = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0", "3"]), module.net)
        penalty = begun(KFAC(n_samples=20), module)
        assert factors(penalty, "net.0")[1].any()
        Knock().on_train_start(None, module)
        assert loss_of(penalty) > 0


def test_precision_of_the_factors_does_not_fall_with_that_of_training():
    penalty = KFAC(n_samples=N_POOL)
    fit(Toy(), penalty, precision="bf16-mixed")
    x = pool().tensors[0][:, :N_FEATURES].bfloat16().float()
    found = factors(penalty, "net.0")[0][:N_FEATURES, :N_FEATURES]
    torch.testing.assert_close(found, x.T @ x / N_POOL, rtol=1e-2, atol=1e-2)
    assert found.dtype == torch.float32


class Tokens(Toy):
    """Each feature is a token that passes the same layer; the loss is of their sum."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(6)
            self.net = nn.Linear(1, N_CLASSES, bias=False)

    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0][:, :N_FEATURES, None]).sum(1)
        return self.outputs(cross_entropy(logits, batch[1]), logits)


def test_tokens_are_averaged_going_in_and_summed_coming_back():
    module = Tokens()
    a, g = factors(begun(KFAC(n_samples=N_POOL, labels="true"), module), "net")
    x, y = pool().tensors
    torch.testing.assert_close(a, x[:, :N_FEATURES].square().mean()[None, None])
    logits = module.net(x[:, :N_FEATURES, None]).sum(1)
    at_logits = (logits.softmax(1) - torch.eye(N_CLASSES)[y]).detach()
    torch.testing.assert_close(g, N_FEATURES * at_logits.T @ at_logits / N_POOL)


def test_a_model_without_linear_layers_is_refused():
    module = Toy()
    for child in (module.net[0], module.net[3]):
        child.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="`KFAC` holds linear layers, and none is trained"):
        fit(module, KFAC(n_samples=5))


@pytest.mark.parametrize("frozen", ["bias", "weight"])
def test_what_is_frozen_later_is_still_part_of_the_term(frozen):
    module = Toy()
    penalty = begun(KFAC(3.0, n_samples=20), module)
    Knock().on_train_start(None, module)
    whole, free = loss_of(penalty), {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    penalty.change_gradients(free, [], lambda tensor: tensor)
    getattr(module.net[3], frozen).requires_grad_(False)
    assert loss_of(penalty) == whole
    held = {name: torch.zeros_like(p) for name, p in module.named_parameters() if p.requires_grad}
    penalty.change_gradients(held, [], lambda tensor: tensor)
    assert len(held) == len(free) - 1
    assert all(torch.equal(held[name], free[name]) for name in held)


def test_head_first_freezes_what_is_held():
    module = Toy()
    fit(module, KFAC(1.0, n_samples=20), callbacks=[HeadFirst("net.3", steps=3)])
    assert not torch.equal(module.net[0].weight, Toy().net[0].weight)


class Attending(Toy):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(6)
            self.net.insert(1, nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))


class Convolved(Toy):
    """With a layer of GPT-2."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(6)
            self.net.insert(1, Conv1D(8, 8))
        self.embedding = nn.Embedding(3, 4)  # looked up in, not multiplied by


def test_matrices_of_other_layers_are_named():
    with pytest.warns(UserWarning, match=r"leaves \['net\.1'\] free, 1 in all"):
        begun(KFAC(n_samples=5), Convolved())


def test_layers_that_are_never_called_are_named():
    module, penalty = Attending(), KFAC(n_samples=5)
    with pytest.warns(UserWarning, match=r"leaves \['net\.1\.self_attn'\] free, 1 in all"):
        begun(penalty, module)
    assert {"inputs.net.1.linear1", "inputs.net.0"} < penalty.state_dict().keys()
    before = loss_of(penalty)
    with torch.no_grad():
        module.net[1].self_attn.out_proj.weight += 1
    assert loss_of(penalty) == before == 0


def test_attention_that_is_frozen_is_not_named():
    module = Attending()
    module.net[1].self_attn.requires_grad_(False)
    begun(KFAC(n_samples=5), module)


def test_layers_of_which_the_bias_alone_is_trained_are_named():
    module = Toy()
    module.net[0].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"leaves \['net\.0'\] free, 1 in all"):
        begun(KFAC(n_samples=5), module)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
class TestComputedWeights:
    def test_those_of_hooks_are_named(self, name):
        module = Toy()
        module.net[0] = getattr(nn.utils, name)(module.net[0])
        with pytest.warns(UserWarning, match=r"leaves \['net\.0'\] free, 1 in all.*`nn\.utils\.param"):
            fit(module, KFAC(n_samples=5))

    def test_none_but_those_of_hooks_is_refused(self, name):
        module = OneLayer()
        module.net = getattr(nn.utils, name)(module.net)
        with pytest.raises(ValueError, match=r"or hooks make their weights.*`nn\.utils\.parametrizations`"):
            begun(KFAC(n_samples=5), module)

    def test_those_of_parametrizations_are_held(self, name):
        module, penalty = Toy(), KFAC(n_samples=5)
        getattr(parametrizations, name)(module.net[0])
        fit(module, penalty)
        kept = factors(penalty, "net.0")
        move = module.net[0].weight - penalty.state_dict()["base.net.0"][:, :N_FEATURES]
        assert all(factor.any() for factor in (*kept, move))
