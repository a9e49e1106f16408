"""LwF and distillation on rehearsed rows, against sums over rows and classes in a plain loop."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_mixcd import Ledger, NoRehearsal, RehearsalCallback, Uniform
from lightning_mixcd.penalties import Distillation
from tests.penalties.replay import assert_same, base_net, fit, gradient_of, parted, replay
from tests.toys import Toy, finetune, pool, trainer, weights


def divergence(teacher, student, temperature):
    """Mean KL divergence, one row and class after the other."""
    total = 0.0
    for a, b in zip(teacher.tolist(), student, strict=True):
        odds = [math.exp(z / temperature) for z in a]
        p = [o / sum(odds) for o in odds]
        log_q = b / temperature - torch.stack([z / temperature for z in b]).exp().sum().log()
        total = total + sum(p[c] * (math.log(p[c]) - log_q[c]) for c in range(len(p)))
    return total / len(teacher)


def slow_loss(net, ids, *, weight, temperature, rows, n_classes=None):
    (x, y), (px, py) = parted(ids)
    every_x, every_y = torch.cat([x, px]), torch.cat([y, py])
    chosen = {"finetune": x, "rehearsed": px, "both": every_x}[rows]
    with torch.no_grad():
        teacher = base_net()(chosen)[:, :n_classes]
    far = divergence(teacher, net(chosen)[:, :n_classes], temperature)
    return cross_entropy(net(every_x), every_y) + weight * far


@pytest.mark.parametrize("rows", ["finetune", "rehearsed", "both"])
@pytest.mark.parametrize("n_classes", [None, 2])
def test_as_a_loop_over_rows_and_classes(rows, n_classes):
    options = {"weight": 3.0, "temperature": 1.5, "rows": rows, "n_classes": n_classes}
    module, _ = fit([Distillation(**options)], max_epochs=2)
    slow = replay(module.seen, lambda net, ids: gradient_of(net, slow_loss(net, ids, **options)))
    assert_same(module, slow)


def test_accumulated_batches_count_as_their_mean():
    module, _ = fit([Distillation(3.0, rows="both")], accumulate_grad_batches=2, limit_train_batches=4)
    options = {"weight": 3.0, "temperature": 2.0, "rows": "both"}
    steps = list(zip(module.seen[::2], module.seen[1::2], strict=True))
    slow = replay(
        steps, lambda net, step: gradient_of(net, sum(slow_loss(net, ids, **options) for ids in step) / 2)
    )
    assert_same(module, slow)


def test_steps_without_rehearsed_rows_are_plain_ones():
    # 0.05 of 16 finetune rows is no whole row yet.
    ours, plain = (
        fit(penalties, mix_ratio=0.05, limit_train_batches=2)[0]
        for penalties in ([Distillation(rows="rehearsed")], [])
    )
    assert torch.equal(weights(ours), weights(plain))


def test_lwf_needs_neither_rehearsal_nor_ledger():
    module, plain = Toy(), Toy()
    callback = RehearsalCallback(NoRehearsal(), pool=pool(), penalties=[Distillation(3.0)])
    trainer(callback).fit(module, DataLoader(finetune(), 8))
    trainer().fit(plain, DataLoader(finetune(), 8))
    options = {"weight": 3.0, "temperature": 2.0, "rows": "finetune"}
    assert module.seen == plain.seen
    assert_same(
        module, replay(module.seen, lambda net, ids: gradient_of(net, slow_loss(net, ids, **options)))
    )
    # 40 rows trained on, and one forward of the base model for each.
    assert callback.compute_units == 3 * 40 + 40 == module.rows_forwarded + 2 * 40


def test_rehearsed_rows_cost_no_forward():
    module, callback = fit([Distillation(rows="rehearsed")])
    assert module.rows_forwarded == 40 + 20
    assert callback.compute_units == 3 * (40 + 20)


@pytest.mark.parametrize("rows", ["finetune", "both"])
def test_very_heavy_penalty_keeps_the_base_models_answers(rows):
    module, _ = fit([Distillation(1e4, rows=rows)], module=Toy(lr=0.001), max_epochs=3)
    plain, _ = fit([Distillation(0.0, rows=rows)], module=Toy(lr=0.001), max_epochs=3)
    x = finetune().tensors[0][:, :4]
    with torch.no_grad():
        kept, moved = ((m.net(x).softmax(1) - base_net()(x).softmax(1)).abs().max() for m in (module, plain))
    assert kept < moved / 5


def test_teacher_has_neither_dropout_nor_statistics_of_the_training():
    module, _ = fit([Distillation(rows="finetune")], module=Toy(dropout=0.5))
    assert module.training
    module, callback = fit([Distillation(rows="finetune")])
    teacher = callback.penalties[0].state_dict()
    assert all(torch.equal(teacher[f"net.{name}"], value) for name, value in base_net().state_dict().items())


def test_bf16_mixed():
    module, _ = fit([Distillation(3.0, rows="both")], precision="bf16-mixed")
    options = {"weight": 3.0, "temperature": 2.0, "rows": "both"}

    def gradients(net, ids):
        with torch.autocast("cpu", torch.bfloat16):
            loss = slow_loss(net, ids, **options)
        return gradient_of(net, loss)

    assert_same(module, replay(module.seen, gradients), rtol=0.1, atol=0.05)
    assert all(p.dtype == torch.float32 for p in module.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, r"`weight` must be in \[0, inf\), got -1\.0"),
        ({"weight": math.inf}, r"`weight` must be in \[0, inf\), got inf"),
        ({"temperature": 0.0}, r"`temperature` must be in \(0, inf\), got 0\.0"),
        ({"temperature": math.nan}, r"`temperature` must be in \(0, inf\), got nan"),
        ({"rows": "all"}, r"`rows` must be one of \('finetune', 'rehearsed', 'both'\), got 'all'"),
        ({"n_classes": 1}, r"`n_classes` must be at least 2, got 1\. None compares all"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Distillation(**options)


def test_ledger_without_logits_is_refused_at_setup():
    plain = Ledger.from_arrays(correct=[True] * 60, loss=[0.1] * 60)
    callback = RehearsalCallback(
        Uniform(), pool=pool(), ledger=plain, penalties=[Distillation(rows="rehearsed")]
    )
    with pytest.raises(
        ValueError, match=r"column `logits`, because Distillation needs it.*keep=\[\"logits\"\]"
    ):
        trainer(callback).fit(Toy(), DataLoader(finetune(), 8))


def test_logits_of_another_head_are_refused():
    other = Ledger.from_arrays(correct=[True] * 60, loss=[0.1] * 60, logits=torch.zeros(60, 7))
    callback = RehearsalCallback(
        Uniform(), pool=pool(), ledger=other, mix_ratio=0.5, penalties=[Distillation(rows="rehearsed")]
    )
    with pytest.raises(ValueError, match=r"must have the shape of the model's, \(4, 3\), got \(4, 7\)"):
        trainer(callback).fit(Toy(), DataLoader(finetune(), 8))


@pytest.mark.parametrize("rows", ["finetune", "rehearsed"])
@pytest.mark.parametrize("shape", [(5, 3), (1,)])
def test_logits_of_tokens_and_single_outputs_are_refused(shape, rows):
    class Writes(Toy):
        def outputs(self, loss, logits):
            others = logits.sum() * torch.ones(len(logits), *shape)
            return {"loss": loss, "logits": others, "correct": logits.argmax(1) >= 0}

    ledger = Ledger.from_arrays(correct=[True] * 60, loss=[0.1] * 60, logits=torch.zeros(60, *shape))
    callback = RehearsalCallback(
        Uniform(), pool=pool(), ledger=ledger, mix_ratio=0.5, penalties=[Distillation(rows=rows)]
    )
    got = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"2 classes or more, got \(\d, {got}\).*such as `L2SP` or"):
        trainer(callback).fit(Writes(), DataLoader(finetune(), 8))


def test_logits_are_recorded_where_there_is_no_ledger_yet(tmp_path):
    callback = RehearsalCallback(
        Uniform(), pool=pool(), ledger=tmp_path / "l", penalties=[Distillation(rows="rehearsed")]
    )
    module = Toy()
    trainer(callback).fit(module, DataLoader(finetune(), 8))
    assert Ledger.open(tmp_path / "l").column("logits").shape == (60, 3)


class Tied(Toy):
    """One matrix under two names."""

    def __init__(self):
        super().__init__()
        self.twin = self.net


def test_tied_weights():
    tied, _ = fit([Distillation(3.0)], module=Tied())
    plain, _ = fit([Distillation(3.0)])
    assert torch.equal(weights(tied), weights(plain))


def test_classes_that_both_rule_out_count_for_nothing():
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = torch.full((2, 6, 1), -torch.inf)
    teacher, student = torch.cat([logits, out], 2)
    penalty = Distillation(temperature=0.5)
    found, expected = penalty._divergence(teacher, student), penalty._divergence(*logits)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(found, logits)[0].isfinite().all()


def test_logits_that_depend_on_the_rest_of_the_batch_are_refused():
    class Contrastive(Toy):
        def outputs(self, loss, logits):
            return {"loss": loss, "logits": logits @ logits.T, "correct": logits.argmax(1) >= 0}

    message = r"each row by itself, .* got \(8, 8\) of the base model and \(8, 12\) of .* `L2SP`"
    with pytest.raises(ValueError, match=message):
        fit([Distillation()], module=Contrastive())
