"""Rehearsed rows in a batch of their own: the same objective, the same knowledge, nothing else touched."""

from itertools import chain

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixcd import (
    CaptureError,
    EveryNSteps,
    HeadProbe,
    MixCD,
    NoRehearsal,
    Oracle,
    Pool,
    Readout,
    RehearsalCallback,
    Uniform,
    record_ledger,
)
from lightning_mixcd.look import Look
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.penalties import AGEM, DER, EWC, GEM, L2SP, Distillation, Flow
from lightning_mixcd.separate import SeparateStep
from lightning_mixcd.strategies import MIR, GradientMatching, ScreenDamaged, ScreenHighestLoss
from lightning_mixcd.types import PoolRows
from tests.penalties.replay import full_ledger
from tests.toys import (
    N_CLASSES,
    N_FEATURES,
    POOL_IDS,
    Listed,
    OnBatchEnd,
    Toy,
    finetune,
    ids,
    pool,
    rehearsed,
    trainer,
    weights,
)

N_OLD = 5  # classes of the old task, where it has others


class Apart(Toy):
    """Does with pool rows what `Toy` does with all."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.kept = []

    def rehearsal_step(self, batch, batch_idx):
        if self.training:
            self.kept.append([i - POOL_IDS for i in ids(batch[0])])
        logits = self.net(batch[0][:, :-1])
        return {"loss": cross_entropy(logits, batch[1]), "logits": logits}


def fit(module=None, strategy=None, *others, **settings):
    module = Toy() if module is None else module
    given = {"pool": Pool(pool(), lag=2), "mix_ratio": 0.4, "ledger": full_ledger()}
    names = (*given, "readout", "rehearsal_weight", "penalties", "schedule")
    given |= {name: settings.pop(name) for name in names if name in settings}
    callback = RehearsalCallback(strategy or Uniform(), **given)
    settings = {"max_epochs": 2, **settings}
    trainer(callback, *others, **settings).fit(module, DataLoader(finetune(), 8))
    return getattr(module, "_orig_mod", module), callback


class Weighed(Uniform):
    """Draws come with weights."""

    def context(self, index):
        return {"weight": 0.5 + index / 20}


# The same objective as in a joined batch.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rehearsal_weight": 3.0},
        {"rehearsal_weight": 0.0},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.1},
        {"mix_ratio": 0.1},  # less than a row a step
        {"schedule": EveryNSteps(2)},
    ],
    ids=str,
)
@pytest.mark.parametrize("strategy", [Uniform, Weighed])
def test_gradients_are_those_of_joined_batches(strategy, settings):
    joined, callback = fit(Toy(), strategy(), **settings)
    apart, apart_callback = fit(Apart(), strategy(), **settings)
    assert apart.kept == [rows for rows in rehearsed(joined) if rows]
    assert [row for row in apart.seen if max(row) >= POOL_IDS] == []
    torch.testing.assert_close(weights(apart), weights(joined), rtol=1e-4, atol=1e-5)
    assert apart_callback.compute_units == callback.compute_units


@pytest.mark.parametrize(
    "penalty",
    [
        lambda: [L2SP(0.1)],
        lambda: [EWC(1.0, n_samples=8)],
        lambda: [Distillation(2.0, rows="finetune")],
        lambda: [Distillation(2.0, rows="rehearsed")],
        lambda: [Distillation(2.0, rows="both")],
        lambda: [DER(0.5, beta=0.5)],
        lambda: [Flow()],
        lambda: [AGEM()],
        lambda: [GEM(ByLabel(), margin=0.0)],
    ],
)
def test_penalties_see_the_same(penalty):
    joined, callback = fit(Toy(), penalties=penalty())
    apart, apart_callback = fit(Apart(), penalties=penalty())
    torch.testing.assert_close(weights(apart), weights(joined), rtol=1e-3, atol=1e-4)
    assert apart_callback.compute_units == callback.compute_units


@pytest.mark.parametrize(
    "strategy",
    [
        lambda: MixCD(),
        lambda: HeadProbe(candidates_per_row=4),
        lambda: Oracle(every_n_steps=2),
        lambda: ScreenDamaged(),
        lambda: ScreenHighestLoss(),
        lambda: MIR(),
        lambda: GradientMatching(),
    ],
)
def test_strategies_learn_and_choose_the_same(strategy):
    one, two = strategy(), strategy()
    logs = Listed(), Listed()
    joined, callback = fit(Toy(), one, logger=logs[0], log_every_n_steps=1)
    apart, apart_callback = fit(Apart(), two, logger=logs[1], log_every_n_steps=1)
    assert apart.kept == [rows for rows in rehearsed(joined) if rows]
    for name, state in one.state_dict().items():
        # Of batches of other sizes, which some processors sum up in another order.
        torch.testing.assert_close(two.state_dict()[name], state, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(weights(apart), weights(joined), rtol=1e-3, atol=1e-4)
    assert apart_callback.compute_units == callback.compute_units
    share = "rehearsal/damaged_share"
    assert logs[1].values(share) == pytest.approx(logs[0].values(share), nan_ok=True)
    assert len(logs[0].values(share)) > 0


def test_mixed_precision():
    joined, _ = fit(Toy(), precision="bf16-mixed")
    apart, _ = fit(Apart(), precision="bf16-mixed")
    torch.testing.assert_close(weights(apart), weights(joined), rtol=0.1, atol=0.05)


def test_compiled_module():
    class Wordless(Apart):  # logging in a compiled step fails without us too
        def log(self, *args, **settings):
            pass

    compiled, _ = fit(torch.compile(Wordless(), backend="eager"))
    torch.testing.assert_close(weights(compiled), weights(fit(Apart())[0]))


# Two heads: what cannot be joined.


@pytest.fixture(scope="module")
def old_pool():
    x, _ = pool().tensors
    generator = torch.Generator().manual_seed(4)
    longer = torch.cat([x[:, :-1], torch.randn(len(x), 2, generator=generator), x[:, -1:]], 1)
    return TensorDataset(longer, (x[:, :N_FEATURES].abs() * 7).sum(1).long() % N_OLD)


class TwoHeads(Toy):
    """The old task has other inputs and other classes."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.read_old, self.old_head = nn.Linear(N_FEATURES + 2, N_FEATURES), nn.Linear(8, N_OLD)
        self.kept, self.numbers = [], []

    def old_logits(self, x):
        return self.old_head(self.net[:-1](self.read_old(x[:, :-1])))

    def rehearsal_step(self, batch, batch_idx):
        if self.training:
            self.kept.append([i - POOL_IDS for i in ids(batch[0])])
            self.numbers.append(batch_idx)
        logits = self.old_logits(batch[0])
        return {"loss": cross_entropy(logits, batch[1]), "logits": logits}


def in_a_loop(seen, kept, data, weight):
    """The two losses of each step, put together by the number of rows, by hand."""
    module = TwoHeads()
    optimizer = torch.optim.Adam(module.parameters(), module.lr)
    (x, y), (old_x, old_y) = finetune().tensors, data.tensors
    for new, old in zip(seen, kept, strict=True):
        losses = [cross_entropy(module.net(x[i : i + 1, :-1]), y[i : i + 1]) for i in new]
        losses += [weight * cross_entropy(module.old_logits(old_x[i : i + 1]), old_y[i : i + 1]) for i in old]
        optimizer.zero_grad()
        (sum(losses) / len(losses)).backward()
        optimizer.step()
    return weights(module)


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_two_heads_as_in_a_loop(weight, old_pool):
    module, callback = fit(
        TwoHeads(), pool=Pool(old_pool, lag=2), ledger=None, mix_ratio=0.5, rehearsal_weight=weight
    )
    assert {len(rows) for rows in module.kept} == {4}
    expected = in_a_loop(module.seen, module.kept, old_pool, weight)
    torch.testing.assert_close(weights(module), expected, rtol=1e-3, atol=1e-4)
    assert callback.compute_units == 3 * 10 * (8 + 4)
    assert module.numbers == [*range(5)] * 2


def test_ledger_and_screens_go_by_the_old_head(tmp_path, old_pool):
    base = TwoHeads()
    found = record_ledger(base, old_pool, tmp_path / "a", batch_size=7)
    with torch.no_grad():
        logits = base.eval().old_logits(old_pool.tensors[0])
    losses = cross_entropy(logits, old_pool.tensors[1], reduction="none")
    assert found.correct.tolist() == (logits.argmax(1) == old_pool.tensors[1]).tolist()
    torch.testing.assert_close(torch.tensor(found.loss), losses)

    offered = []

    class Noting(ScreenHighestLoss):
        def screen(self, candidates, n):
            chosen = super().screen(candidates, n)
            offered.append((candidates.ticket["index"].tolist(), chosen.tolist()))
            return chosen

    module, callback = fit(
        TwoHeads(), Noting(), max_steps=1, pool=Pool(old_pool), ledger=tmp_path / "b", mix_ratio=0.5
    )
    [(index, chosen)] = offered
    by_loss = sorted(index, key=lambda i: -float(losses[i]))
    assert [index[i] for i in chosen] == module.kept[0] == by_loss[:4]
    assert callback._session.ledger.loss.tolist() == pytest.approx(found.loss.tolist(), rel=1e-4)


@pytest.mark.parametrize("penalties", [[DER(0.5, beta=1.0)], [Distillation(rows="both")]])
def test_penalties_on_two_heads(penalties, old_pool, tmp_path):
    base = record_ledger(TwoHeads(), old_pool, tmp_path / "base", keep={"logits": "float32"})
    module, _ = fit(
        TwoHeads(), pool=Pool(old_pool, lag=2), ledger=base, mix_ratio=0.5, penalties=penalties, max_steps=1
    )
    reference = TwoHeads()
    optimizer = torch.optim.Adam(reference.parameters(), reference.lr)
    rows = torch.tensor(module.kept[0])
    (x, y), (old_x, old_y) = finetune()[:8], old_pool[rows]
    new, old = reference.net(x[:, :-1]), reference.old_logits(old_x)
    if isinstance(penalties[0], DER):
        # In the first step the logits are still those of the base model.
        loss = cross_entropy(new, y) + 1.0 * cross_entropy(old, old_y)
    else:
        loss = (8 * cross_entropy(new, y) + 4 * cross_entropy(old, old_y)) / 12
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(weights(module), weights(reference), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("penalty", [lambda: EWC(1.0, n_samples=8), AGEM])
def test_looks_at_pool_rows_go_through_the_old_head(penalty, old_pool):
    given = []

    class Noting(TwoHeads):
        def rehearsal_step(self, batch, batch_idx):
            given.append(len(batch[0]))
            return super().rehearsal_step(batch, batch_idx)

    made = penalty()
    module, _ = fit(Noting(), pool=Pool(old_pool), ledger=None, mix_ratio=0.5, penalties=[made], max_steps=1)
    if isinstance(made, AGEM):
        assert given == [4]  # kept apart, and looked at once
        assert module.kept == []
    else:
        assert given == [1] * 8 + [4]
        assert module.kept != []


def test_logits_of_unlike_heads_are_not_all_asked_for(old_pool, tmp_path):
    class All(L2SP):
        def loss(self, step):
            return step.logits().sum()

    base = record_ledger(TwoHeads(), old_pool, tmp_path / "base")
    with pytest.raises(
        ValueError, match=r'must have one shape, got \(8, 3\) and .*step.logits\("rehearsed"\)'
    ):
        fit(TwoHeads(), pool=old_pool, ledger=base, penalties=[All(0.1)])


# How it is called.


def test_number_of_the_batch_is_optional():
    class Short(Apart):
        def rehearsal_step(self, batch):
            return super().rehearsal_step(batch, 0)

    assert torch.equal(weights(fit(Short())[0]), weights(fit(Apart())[0]))


def test_it_may_call_the_training_step():
    class Same(Apart):
        def rehearsal_step(self, batch, batch_idx):
            return self.training_step(batch, batch_idx)

    module, _ = fit(Same())
    assert torch.equal(weights(module), weights(fit(Apart())[0]))
    assert len(module.seen) == 20


def test_a_loss_alone_is_enough_where_nothing_is_read():
    class Bare(Apart):
        def rehearsal_step(self, batch, batch_idx):
            return super().rehearsal_step(batch, batch_idx)["loss"]

    assert torch.equal(weights(fit(Bare(), ledger=None)[0]), weights(fit(Apart(), ledger=None)[0]))


def test_not_called_where_nothing_is_rehearsed():
    module, _ = fit(Apart(), NoRehearsal())
    assert module.kept == []
    plain = Toy()
    trainer(max_epochs=2).fit(plain, DataLoader(finetune(), 8))
    assert torch.equal(weights(module), weights(plain))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_skipped_batches_are_skipped():
    class Skipping(Apart):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    module, callback = fit(Skipping(), MixCD(), max_epochs=1, mix_ratio=0.5)
    assert len(module.kept) == 4
    assert callback.compute_units == 3 * 4 * 12 + 8


def test_validation_has_no_part_in_it():
    class Validating(Apart):
        def validation_step(self, batch, batch_idx):
            self.log("val", self.training_step(batch, batch_idx)["loss"])

    module = Validating()
    run = trainer(RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5))
    run.fit(module, DataLoader(finetune(), 8), DataLoader(finetune(), 40))
    assert len(module.kept) == 5
    with torch.no_grad():
        expected = cross_entropy(module.net(finetune().tensors[0][:, :-1]), finetune().tensors[1])
    torch.testing.assert_close(run.callback_metrics["val"], expected)


def test_other_callbacks_see_the_outputs_of_the_training_step_with_the_loss_of_all_rows():
    given = []
    note = OnBatchEnd(lambda run, module, outputs, batch: given.append((outputs, batch)))
    module, _ = fit(Apart(), None, note, max_steps=1, mix_ratio=0.5)
    [(outputs, batch)] = given
    assert [*outputs] == ["loss", "logits"]
    assert ids(batch[0]) == module.seen[0]
    assert outputs["logits"].shape == (8, N_CLASSES)
    joined = []
    fit(Toy(), None, OnBatchEnd(lambda *args: joined.append(args[2]["loss"])), max_steps=1, mix_ratio=0.5)
    torch.testing.assert_close(outputs["loss"], joined[0])


def test_module_gets_its_step_back():
    module, _ = fit(Apart())
    assert not {"training_step", "rehearsal_step", "on_after_batch_transfer"} & set(module.__dict__)
    assert all(not part._forward_pre_hooks for part in module.modules())


# What is read.


@pytest.mark.parametrize("returns", ["loss", "all"])
def test_named_submodule_is_heard_in_its_own_step(returns, old_pool, tmp_path):
    class Quiet(TwoHeads):
        def rehearsal_step(self, batch, batch_idx):
            found = super().rehearsal_step(batch, batch_idx)
            return found["loss"] if returns == "loss" else found

    settings = {"pool": Pool(old_pool, lag=2), "mix_ratio": 0.5}
    base = record_ledger(TwoHeads(), old_pool, tmp_path / "base")
    one, two = MixCD(), MixCD()
    module, _ = fit(Quiet(), one, ledger=base, readout=Readout(module="old_head"), **settings)
    plain, _ = fit(TwoHeads(), two, ledger=base, **settings)
    assert module.kept == plain.kept
    assert torch.equal(one.signal(), two.signal())


def test_both_steps_are_heard_whatever_the_model_is_run_on_between():
    """Losses alone are returned; a penalty looks at other rows first, and reads both steps then."""
    read, made = [], []

    class Late(L2SP):
        needs_look = True

        def loss(self, step):
            step.look.see(step.batch)
            read.append([step.logits(part).detach() for part in ("finetune", "rehearsed")])

    class Silent(Apart):
        def outputs(self, loss, logits):
            if torch.is_grad_enabled():
                made.append(logits.detach())
            return loss

        def rehearsal_step(self, batch, batch_idx):
            return self.outputs(*super().rehearsal_step(batch, batch_idx).values())

    fit(Silent(), MixCD(), penalties=[Late(0.1)], mix_ratio=0.5, readout=Readout(module="net"))
    assert len(read) == 10
    assert all(torch.equal(a, b) for a, b in zip(chain.from_iterable(read), made, strict=True))


def test_a_look_at_marked_rows_runs_their_own_step(old_pool):
    module = TwoHeads()
    look, batch = Look(module, Readout()), list(old_pool[:6])
    found = look.gradient(PoolRows(batch))
    slow = torch.autograd.grad(
        cross_entropy(module.eval().old_logits(batch[0]), batch[1]), [module.old_head.weight]
    )[0]
    torch.testing.assert_close(found["old_head.weight"], slow)
    assert (look.forwards, look.backwards) == (6, 6)
    look.gradient(list(finetune()[:3]))
    assert (look.forwards, look.backwards) == (9, 9)


class Hooked(Apart):
    """Adds noise on the device, and notes how many rows came."""

    def __init__(self):
        super().__init__(lr=0.0)
        self.came, self.noise = [], []

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.training:
            self.came.append(len(batch[0]))
            self.noise.append(float(torch.rand(())))
        return batch


def test_pool_rows_go_through_the_transfer_hooks_alone():
    module, _ = fit(Hooked(), mix_ratio=0.5)
    assert module.came == [4, 8] * 10
    pool_noise, own_noise = module.noise[::2], module.noise[1::2]
    assert len(set(pool_noise)) == 10
    again, _ = fit(Hooked(), mix_ratio=0.5)
    assert again.noise[::2] == pool_noise  # seeded
    assert again.noise[1::2] != own_noise  # the run's own chance


# What is refused.


def test_what_is_no_method_is_refused():
    class Odd(Toy):
        rehearsal_step = 3

    with pytest.raises(TypeError, match=r"`rehearsal_step` of Odd must be a method, got 3"):
        fit(Odd())


@pytest.mark.parametrize("returned", [None, {"logits": torch.zeros(3, 3)}, torch.zeros(2)])
@pytest.mark.parametrize("strategy", [Uniform, MixCD])
def test_a_step_without_a_loss_is_refused(returned, strategy):
    class Lossless(Apart):
        def rehearsal_step(self, batch, batch_idx):
            return returned if self.training else super().rehearsal_step(batch, batch_idx)

    with pytest.raises(CaptureError, match=r"must be a 0-dim tensor, returned by `rehearsal_step`"):
        fit(Lossless(), strategy())


def test_what_cannot_be_read_is_refused_by_name():
    class Bare(Apart):
        def rehearsal_step(self, batch, batch_idx):
            return super().rehearsal_step(batch, batch_idx)["loss"]

    with pytest.raises(CaptureError, match=r"`rehearsal_step` gave a Tensor") as error:
        fit(Bare(), MixCD())
    assert "training_step" not in str(error.value)

    class Flagged(Apart):
        def rehearsal_step(self, batch, batch_idx):
            found = super().rehearsal_step(batch, batch_idx)
            return {"loss": found["loss"], "correct": found["logits"].argmax(1) == batch[1]}

    with pytest.raises(ValueError, match=r"needs the losses of each row, and `rehearsal_step` gave none"):
        fit(Flagged(), Weighed())


def test_manual_optimization_is_refused():
    class Manual(Apart):
        automatic_optimization = False

    with pytest.raises(
        CaptureError, match=r"A `rehearsal_step` cannot be made beside .* manual optimization"
    ):
        fit(Manual())
    assert len(fit(Manual(), NoRehearsal())[0].seen) == 10


def test_sharded_modules_are_refused():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        module = Apart()
        weight = distribute_tensor(module.net[0].weight.detach(), init_device_mesh("cpu", (1,)))
        module.net[0].weight = nn.Parameter(weight)
        SeparateStep(module, Readout()).begin(None, alone=True).close()
        with pytest.raises(CaptureError, match=r"sharded over processes cannot make a `rehearsal_step`"):
            SeparateStep(module, Readout()).begin(None, alone=False)
    finally:
        torch.distributed.destroy_process_group()
