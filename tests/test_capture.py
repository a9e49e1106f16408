"""Reading correctness: every way that is understood, and what is said where none is."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mixcd import CaptureError, MixCD, RehearsalCallback, Uniform
from lightning_mixcd.capture import Reading, Readout
from tests.toys import Listed, LossOnly, Toy, finetune, ledger, pool, trainer

LOGITS = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
LABELS = torch.tensor([1, 1, 1, 0])
RIGHT = [True, False, True, True]
X = torch.zeros(4, 2)


class Pair(NamedTuple):
    x: Tensor
    label: Tensor
    weight: Tensor


@dataclass
class Record:
    x: Tensor
    y: Tensor


@pytest.mark.parametrize(
    ("outputs", "batch", "settings"),
    [
        ({"logits": LOGITS}, (X, LABELS), {}),
        ({"logits": LOGITS}, [X, LABELS], {}),
        ({"logits": LOGITS}, {"x": X, "labels": LABELS}, {}),
        ({"logits": LOGITS}, {"x": X, "y": LABELS}, {}),
        ({"logits": LOGITS}, {"target": LABELS, "x": X}, {}),
        ({"logits": LOGITS}, Pair(X, LABELS, torch.ones(4)), {}),
        ({"logits": LOGITS}, Record(X, LABELS), {}),
        ({"logits": LOGITS}, {"x": X, "genre": LABELS}, {"target": "genre"}),
        ({"logits": LOGITS}, {"x": X, "values": LABELS}, {"target": "values"}),
        ({"logits": LOGITS}, (LABELS, X), {"target": 0}),
        ({"logits": LOGITS}, (X, LABELS, torch.arange(4)), {"target": 1}),
        ({"logits": LOGITS}, (X, torch.zeros(4), LABELS), {}),
        ({"logits": LOGITS}, (X.long(), X.long(), LABELS), {}),
        ({"logits": LOGITS}, (torch.arange(4), LABELS), {}),
        ({"logits": LOGITS}, Record(X, LABELS), {"target": "y"}),
        ({"logits": LOGITS}, (X, LABELS[:, None]), {"target": lambda batch: batch[1].squeeze(1)}),
        ({"scores": LOGITS, "logits": -LOGITS}, (X, LABELS), {"logits": "scores"}),
        (LOGITS, (X, LABELS), {}),
        ({"preds": torch.tensor([1, 0, 1, 0])}, (X, LABELS), {}),
        ({"correct": torch.tensor(RIGHT), "logits": -LOGITS}, (X, LABELS), {}),
        (
            {"z": LOGITS},
            (X, LABELS),
            {"correctness": lambda outputs, batch: outputs["z"].argmax(1) == batch[1]},
        ),
    ],
)
def test_every_place_that_is_understood(outputs, batch, settings):
    readout = Readout(**settings)
    assert readout.read(outputs, batch).correct.tolist() == RIGHT
    assert readout.read(outputs, batch, last=3).correct.tolist() == RIGHT[1:]
    assert readout.read(outputs, batch, last=1).correct.tolist() == RIGHT[3:]


def test_loss_and_label_of_the_last_rows():
    reading = Readout().read({"logits": LOGITS}, (X, LABELS), last=2, with_loss=True)
    expected = [-float(torch.log_softmax(LOGITS[row], 0)[LABELS[row]]) for row in (2, 3)]
    assert reading.loss.tolist() == pytest.approx(expected)
    assert reading.label.tolist() == [1, 0]
    assert Readout().read({"logits": LOGITS}, (X, LABELS)).loss is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_of_rounded_logits_is_not_rounded_itself(dtype):
    logits = (7 * LOGITS).to(dtype)
    rounded, exact = (
        Readout().read({"logits": given}, (X, LABELS), with_loss=True).loss
        for given in (logits, logits.float())
    )
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, exact)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("with_loss", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("broken", [[NAN] * 3, [0.0, NAN, 1.0], [NAN, INF, 0.0], [INF, 0.0, 0.0], [-INF] * 3])
def test_broken_logits_are_never_right(broken, dtype, with_loss):
    for label in range(3):
        logits = torch.tensor([broken, [0.0, 2.0, 1.0]], dtype=dtype)
        outputs, batch = {"logits": logits}, (X[:2], torch.tensor([label, 1]))
        reading = Readout().read(outputs, batch, with_loss=with_loss)
        assert reading.correct.tolist() == [False, True]
        assert not with_loss or reading.loss[1].isfinite()


def test_a_class_that_is_ruled_out_does_no_harm():
    outputs = {"logits": torch.tensor([[-INF, 1.0, 0.0], [-INF, 0.0, 1.0]])}
    reading = Readout().read(outputs, (X[:2], torch.tensor([1, 1])), with_loss=True)
    assert reading.correct.tolist() == [True, False]
    assert reading.loss.isfinite().all()


@pytest.mark.parametrize("label", [-100, -1, 2, 10**6])
def test_targets_that_are_no_class_are_never_right_and_have_no_loss(label):
    labels = torch.tensor([1, label, 1, 0])
    reading = Readout().read({"logits": LOGITS}, (X, labels), with_loss=True)
    expected = Readout().read({"logits": LOGITS}, (X, LABELS), with_loss=True)
    assert reading.correct.tolist() == [True, False, True, True]
    assert reading.loss.isnan().tolist() == [False, True, False, False]
    assert reading.loss[[0, 2, 3]].tolist() == expected.loss[[0, 2, 3]].tolist()
    assert reading.label.tolist() == labels.tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_whole_numbers_of_any_width_are_targets(dtype):
    readings = [
        Readout().read({"logits": LOGITS}, (X, y), with_loss=True) for y in (LABELS, LABELS.to(dtype))
    ]
    assert readings[0].correct.tolist() == readings[1].correct.tolist()
    assert readings[0].loss.tolist() == readings[1].loss.tolist()


@pytest.mark.parametrize("as_rule", [True, False])
def test_own_rule_may_give_losses(as_rule):
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    correct = torch.tensor(RIGHT)
    if as_rule:
        reading = Readout(correctness=lambda outputs, batch: (correct, losses)).read({}, (X, LABELS), last=2)
    else:
        reading = Readout().read({"correct": correct, "losses": losses}, (X, LABELS), last=2)
    assert reading.loss.tolist() == [3.0, 4.0]
    assert not reading.loss.requires_grad
    assert reading.label is None


def test_reading_carries_no_graph():
    logits = LOGITS.clone().requires_grad_()
    reading = Readout().read({"logits": logits}, (X, LABELS), with_loss=True)
    assert not reading.loss.requires_grad


@pytest.mark.parametrize(
    ("outputs", "batch", "settings", "message"),
    [
        ({"loss": 1}, (X, LABELS), {}, r"gave a dict with \['loss'\]\.\nAny one of these.*\n  1\. return"),
        (torch.tensor(1.0), (X, LABELS), {}, "gave a Tensor"),
        (None, (X, LABELS), {}, "gave a NoneType"),
        (
            {"logits": LOGITS[:3]},
            (X, LABELS),
            {},
            r"`logits` must be.*row of the batch \(4\), got .*\(3, 2\)",
        ),
        ({"logits": [1, 2, 3, 4]}, (X, LABELS), {}, r"`logits` must be a tensor.*got \[1, 2, 3, 4\]"),
        ({"logits": LOGITS[:, :1]}, (X, LABELS), {}, r"C classes, 2 or more, got \(4, 1\)"),
        ({"logits": LOGITS[:, None]}, (X, LABELS), {}, r"C classes, 2 or more, got \(4, 1, 2\)"),
        ({"preds": LOGITS}, (X, LABELS), {}, r"`preds` must be a tensor"),
        ({"preds": LABELS[:2]}, (X, LABELS), {}, r"`preds` must be a tensor"),
        ({"preds": LOGITS[:, 0]}, (X, LABELS), {}, r"must be classes, whole numbers, got torch\.float32"),
        (
            {"logits": LOGITS},
            {"x": X, "genre": LABELS},
            {},
            r"found nothing in a dict with \['x', 'genre'\]\. Name .* leave them in the batch,",
        ),
        ({"logits": LOGITS}, {"x": X, "y": X}, {}, r"shape \(4,\), one class per row, found torch.float32"),
        ({"logits": LOGITS}, {"x": X, "y": LABELS}, {"target": "label"}, r"found nothing in a dict"),
        ({"logits": LOGITS}, (X, LABELS), {"target": 2}, r"found nothing in a tuple"),
        ({"logits": LOGITS}, (X, LABELS), {"target": "y"}, r"found nothing in a tuple"),
        ({"logits": LOGITS}, X, {}, "found nothing in a Tensor"),
        (
            {"logits": LOGITS},
            (X, LABELS, torch.arange(4)),
            {},
            r"`target` must be named .*, got \[1, 2\] of 3 .*Readout\(target=1\)",
        ),
        ({"logits": LOGITS}, [X, LABELS, LABELS > 0], {}, "`target` must be named"),
        (
            {"logits": LOGITS},
            (X, LOGITS.softmax(1), LABELS),
            {},
            r"`target` must be named where a part .* at 1\. .*Readout\(target=-1\).* return the `losses`",
        ),
        (
            {"correct": LABELS},
            (X, LABELS),
            {},
            r"bool tensor of shape \(4,\).*got torch.int64 of shape \(4,\)",
        ),
        ({"correct": LABELS[:3] > 0}, (X, LABELS), {}, r"got torch.bool of shape \(3,\)"),
        ({"correct": [True]}, (X, LABELS), {}, r"got \[True\]"),
        ({"correct": LABELS > 0, "losses": torch.ones(3)}, (X, LABELS), {}, "`losses` must be a tensor"),
        ({}, (X, LABELS), {"correctness": lambda outputs, batch: 0.5}, r"got 0\.5\. Compare per row"),
    ],
)
def test_what_cannot_be_read_is_refused(outputs, batch, settings, message):
    with pytest.raises(CaptureError, match=message):
        Readout(**settings).read(outputs, batch)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, r"gave a dict with \['losses'\].\nAny one of these"),
        ({"logits": LOGITS}, "Targets must be whole numbers .* return the `losses`"),
        ({"logits": LOGITS[:, :1]}, "Targets must be"),
    ],
)
def test_losses_are_enough_where_nobody_asks_what_is_right(outputs, message):
    losses = torch.rand(4)
    batch = (X, torch.rand(4))
    seen = Readout().read({**outputs, "losses": losses}, batch)
    more = Reading.joined([seen, Readout().read({"correct": LABELS > 0, "losses": losses}, batch)])
    assert torch.equal(seen.loss, losses)
    assert torch.equal(more.loss, losses.repeat(2))
    for reading in (seen, more):
        with pytest.raises(CaptureError, match=message):
            assert reading.correct is not None
    by_loss = Readout(tolerance=0.5).read({**outputs, "losses": losses}, batch)
    assert torch.equal(by_loss.loss, losses)
    assert by_loss.correct.all()


def test_logits_are_enough_where_nobody_asks_what_is_right():
    seen = Readout().read({"logits": LOGITS}, (X, LOGITS.softmax(1)), with_logits=True, with_loss=True)
    assert torch.equal(seen.logits, LOGITS)
    assert seen.loss is None
    assert "Targets must be whole numbers" in seen.problem
    with pytest.raises(CaptureError, match="Targets must be whole numbers"):
        Readout().read({"logits": LOGITS}, (X, LOGITS.softmax(1)), with_loss=True)


def test_a_part_like_the_logits_may_stand_before_targets_that_are_named():
    reading = Readout(target=-1).read({"logits": LOGITS}, (X, LOGITS, LABELS))
    assert torch.equal(reading.label, LABELS)


def test_classes_keep_their_labels_where_losses_are_given_and_damage_is_a_rise_of_them():
    losses = torch.rand(4)
    reading = Readout(tolerance=0.5).read({"logits": LOGITS, "losses": losses}, (X, LABELS))
    assert torch.equal(reading.label, LABELS)
    assert torch.equal(reading.loss, losses)


# In a real run: modules as users write them.


class Preds(Toy):
    def outputs(self, loss, logits):
        return {"loss": loss, "preds": logits.argmax(1)}


class OtherKey(Toy):
    def outputs(self, loss, logits):
        return {"loss": loss, "scores": logits}


class Correct(Toy):
    def training_step(self, batch, batch_idx):
        given = super().training_step(batch, batch_idx)
        return {"loss": given["loss"], "correct": given["logits"].argmax(1) == batch[1]}


def rates(module, readout=None, **settings):
    strategy = MixCD()
    callback = RehearsalCallback(strategy, pool=pool(), ledger=ledger(), readout=readout, mix_ratio=1)
    trainer(callback, max_epochs=2, **settings).fit(module, DataLoader(finetune(), 8))
    return strategy.signal().tolist()


@pytest.mark.parametrize(
    ("kind", "readout"),
    [
        (LossOnly, Readout(module="net")),
        (LossOnly, Readout(module="net.3")),
        (Preds, None),
        (OtherKey, Readout(logits="scores")),
        (Correct, None),
        (OtherKey, Readout(correctness=lambda outputs, batch: outputs["scores"].argmax(1) == batch[-1])),
        (Toy, Readout(target=1)),
        (Toy, Readout(target=lambda batch: batch[1])),
    ],
)
def test_all_ways_learn_the_same(kind, readout):
    assert rates(kind(), readout) == rates(Toy())


def test_row_count_that_does_not_match_stops_the_first_step():
    class PoolRowsDropped(Toy):
        def outputs(self, loss, logits):
            return {"loss": loss, "logits": logits[:8]}

    module = PoolRowsDropped()
    with pytest.raises(
        CaptureError, match=r"`logits` must be a tensor with a row per row of the batch \(16\)"
    ):
        rates(module)
    assert len(module.seen) == 1


def test_unreadable_outputs_stop_the_first_step_with_remedies():
    module = LossOnly()
    with pytest.raises(
        CaptureError, match=r"(?s)gave a dict with \[.loss.\].*2\. name the submodule.*4\. pass"
    ):
        rates(module)
    assert len(module.seen) == 1


def test_unknown_submodule_is_refused_before_the_first_step():
    module = LossOnly()
    with pytest.raises(
        CaptureError, match=r"must name a submodule, got 'classifier'\. There are: \['net', 'net.0'"
    ):
        rates(module, Readout(module="classifier"))
    assert module.seen == []


def test_submodule_output_is_read_once():
    module, readout = LossOnly(), Readout(module="net")
    readout.attach(module)
    module.net(torch.zeros(4, 4))
    assert len(readout.read(None, (X, LABELS)).correct) == 4
    with pytest.raises(CaptureError, match="The submodule 'net' put out no logits"):
        readout.read(None, (X, LABELS))


def test_submodule_that_does_not_run_is_named():
    class Idle(LossOnly):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(1, 1)

    with pytest.raises(CaptureError, match="The submodule 'head' put out no logits in `training_step`"):
        rates(Idle(), Readout(module="head"))


def test_submodule_output_of_validation_is_not_taken_for_that_of_training():
    class TrainsWithoutNet(LossOnly):
        def training_step(self, batch, batch_idx):
            x, y = batch
            logits = self.net[3](torch.tanh(self.net[0](x[:, :-1])))
            return nn.functional.cross_entropy(logits, y)

    callback = RehearsalCallback(Uniform(), pool=pool(), ledger=ledger(), readout=Readout(module="net"))
    with pytest.raises(CaptureError, match="The submodule 'net' put out no logits"):
        trainer(callback, num_sanity_val_steps=1, limit_train_batches=1).fit(
            TrainsWithoutNet(), DataLoader(finetune(), 8), DataLoader(finetune(), 10)
        )


# `self.log` inside a compiled LightningModule crashes in Lightning 2.6.6 with torch 2.12 and later.
class Unlogged(Toy):
    def log(self, *args, **kwargs):
        pass


class UnloggedLossOnly(LossOnly, Unlogged):
    pass


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_lightning_module_is_read_by_its_outputs():
    compiled = torch.compile(Unlogged(), backend="eager")
    assert rates(compiled) == rates(Toy())


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_lightning_module_cannot_be_listened_to():
    module = UnloggedLossOnly()
    compiled = torch.compile(module, backend="eager")
    with pytest.raises(CaptureError, match=r"inside a compiled LightningModule.*compile the network instead"):
        rates(compiled, Readout(module="net"))
    assert module.seen == []


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo looks at it
@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_network_can_be_listened_to(in_place):
    module = UnloggedLossOnly()
    if in_place:
        module.net.compile(backend="eager")
    else:
        module.net = torch.compile(module.net, backend="eager")
    assert rates(module, Readout(module="net")) == rates(Toy())


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", ["module", "features"])
@pytest.mark.parametrize("in_place", [True, False])
def test_hooks_that_compilation_leaves_out_are_told_from_heads_that_do_not_run(in_place, name):
    model = nn.ModuleDict({"net": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))})
    if not in_place:
        model["net"] = torch.compile(model["net"], backend="eager")
        model["net"](X)  # as validation does, before anything is listened to
    readout = Readout(**{name: "net.1" if in_place else "net._orig_mod.1"})
    readout.attach(model)
    logits = None if in_place else model["net"](X)
    with pytest.raises(CaptureError) as refusal:
        readout.read({"logits": logits}, (X, LABELS), with_features=name == "features")
    assert ("write `self.net.compile()` in place" in str(refusal.value)) is not in_place


def test_nothing_needs_to_be_readable_where_nothing_is_learnt():
    logger, module = Listed(), LossOnly()
    callback = RehearsalCallback(Uniform(), pool=pool())
    trainer(callback, logger=logger, log_every_n_steps=5).fit(module, DataLoader(finetune(), 8))
    assert [len(step) for step in module.seen] == [10] * 5
    assert "rehearsal/damaged_share" not in logger.rows[-1][1]


def test_readings_put_together_are_right_where_each_was():
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [2.0, 1.0]])
    target = torch.tensor([1, 0, 1])
    one = Readout().read({"logits": logits}, {"y": target}, with_loss=True)
    rule = Readout(correctness=lambda _outputs, batch: (batch["y"] == 1, batch["y"].float()))
    other = rule.read({}, {"y": target})
    for readings in ([one], [one, one], [one, other], [other, other]):
        joined = Reading.joined(readings)
        assert joined.correct.tolist() == [flag for r in readings for flag in r.correct.tolist()]
        assert joined.loss.nan_to_num(7.0).tolist() == [
            loss for r in readings for loss in r.loss.nan_to_num(7.0).tolist()
        ]
    assert one.correct.tolist() == [True, False, False]


class TwoLayers(nn.Module):
    """Names its parts."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
        self.body, self.head = self.net[:2], self.net[2]

    def training_step(self, batch):
        return {"logits": self.net(batch[0])}


def five_rows():
    return torch.arange(10.0).reshape(5, 2), torch.tensor([0, 1, 1, 0, 1])


def test_losses_of_rows_go_before_those_of_the_logits():
    logits, own = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([3.0, 4.0], requires_grad=True)
    batch = (torch.zeros(2, 1), torch.tensor([1, 1]))
    for answers in ({"logits": logits}, {"preds": logits.argmax(1)}):
        reading = Readout().read({**answers, "losses": own}, batch, last=1, with_loss=True)
        assert (reading.correct.tolist(), reading.loss.tolist()) == ([False], [4.0])
    assert (
        Readout()
        .read({"logits": logits, "losses": own}, batch, with_loss=True, with_graph=True)
        .loss.requires_grad
    )
    with pytest.raises(CaptureError, match="`losses` must be a tensor"):
        Readout().read({"correct": batch[1] == 1, "losses": [3.0, 4.0]}, batch)
    parts = {"logits": logits, "losses": {"cross_entropy": 1.0, "norm": 2.0}}
    plain = Readout().read(parts, batch, with_loss=True).loss
    torch.testing.assert_close(plain, nn.functional.cross_entropy(logits, batch[1], reduction="none"))


@pytest.mark.parametrize("name", [None, "head"])
def test_features_are_the_input_of_the_head(name):
    module, readout = TwoLayers(), Readout(features=name)
    batch = five_rows()
    listening = readout.attach(module, with_features=True)
    assert readout.head(module) is module.head
    outputs = module.training_step(batch)
    reading = readout.read(outputs, batch, last=2, with_features=True, with_logits=True)
    assert torch.equal(reading.features, module.body(batch[0])[3:])
    assert torch.equal(reading.logits, outputs["logits"][3:])
    assert not reading.features.requires_grad
    assert not reading.logits.requires_grad
    assert not readout.read(outputs, batch).highest.requires_grad
    listening.close()
    assert not module.head._forward_hooks


def test_features_and_logits_are_left_out_unless_asked_for():
    reading = Readout().read({"logits": LOGITS}, (X, LABELS))
    assert reading.features is None
    assert reading.logits is None
    assert Readout().read({"preds": LABELS}, (X, LABELS), with_logits=True).logits is None


def test_readings_are_joined_with_what_all_of_them_have():
    readout, parts = Readout(features="0"), []
    model = nn.Sequential(nn.Linear(2, 2))
    readout.attach(model)
    for x in (X[:1] + 1, X[:3] + 2):
        outputs = {"logits": model(x)}
        batch = (x, LABELS[: len(x)])
        parts.append(readout.read(outputs, batch, with_features=True, with_logits=True, with_loss=True))
    joined = Reading.joined(parts)
    assert joined.features.tolist() == [[1, 1], [2, 2], [2, 2], [2, 2]]
    assert torch.equal(joined.logits, torch.cat([part.logits for part in parts]))
    assert Reading.joined([parts[0], Reading(torch.tensor([True]))]).features is None


def test_same_step_can_be_read_twice_with_its_graph():
    module, readout = TwoLayers(), Readout(features="head")
    batch = five_rows()
    readout.attach(module)
    outputs = module.training_step(batch)
    first = readout.read(
        outputs, batch, with_features=True, with_logits=True, with_loss=True, with_graph=True, keep=True
    )
    for value in (first.loss, first.logits, first.features):
        assert torch.autograd.grad(value.sum(), module.net[0].weight, retain_graph=True)[0].any()
    assert torch.equal(readout.read(outputs, batch, with_features=True).features, first.features)
    with pytest.raises(CaptureError, match="nothing, because it did not run"):
        readout.read(outputs, batch, with_features=True)


def test_deaf_to_what_the_model_is_run_on_meanwhile():
    module, readout = TwoLayers(), Readout(features="head", module="net")
    batch = five_rows()
    readout.attach(module)
    outputs = module.training_step(batch)
    with readout.hearing(False):
        module.training_step((X[:3], LABELS[:3]))
    reading = readout.read(outputs, batch, with_features=True, with_logits=True)
    assert torch.equal(reading.logits, outputs["logits"].detach())
    assert len(reading.features) == 5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nothing", r"`features` must name a submodule, got 'nothing'"),
        ("flat", r"'flat' was given torch.float32 of shape \(4, 2, 3\)"),
        ("unused", "'unused' was given nothing, because it did not run"),
        (None, "the last `nn.Linear` was given nothing"),
    ],
)
def test_heads_that_get_no_vector_per_row_are_refused(name, expected):
    model = nn.ModuleDict({"flat": nn.Flatten(), "head": nn.Linear(6, 2), "unused": nn.Linear(1, 1)})
    readout = Readout(features=name)
    with pytest.raises(CaptureError, match=expected) as refusal:  # noqa: PT012 -- either may refuse
        readout.attach(model, with_features=True)
        outputs = {"logits": model["head"](model["flat"](torch.zeros(4, 2, 3)))}
        readout.read(outputs, (X, LABELS), with_features=True)
    assert name == "nothing" or 'Readout(features="classifier")' in str(refusal.value)


def test_last_linear_layer_is_refused_unless_it_makes_the_logits():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 7))
    readout = Readout()
    readout.attach(model, with_features=True)
    logits = model[0](X)
    model[1](logits)
    with pytest.raises(CaptureError, match=r"the last `nn.Linear` puts out something else"):
        readout.read({"logits": logits}, (X, LABELS), with_features=True)


class WithTeacher(TwoLayers):
    """Has another network of the same size, which it calls after its own."""

    def __init__(self):
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))

    def training_step(self, batch):
        outputs = super().training_step(batch)
        self.teacher(batch[0])
        return outputs


class Twice(TwoLayers):
    def training_step(self, batch):
        outputs = super().training_step(batch)
        self.net(batch[0] + 1)
        return outputs


@pytest.mark.parametrize("kind", [WithTeacher, Twice])
def test_last_linear_layer_is_refused_where_it_makes_other_logits_than_those_read(kind):
    torch.manual_seed(0)
    module, readout, batch = kind(), Readout(), five_rows()
    readout.attach(module, with_features=True)
    with pytest.raises(CaptureError, match="something else, the last time that it is called"):
        readout.read(module.training_step(batch), batch, with_features=True)


def test_named_head_is_not_compared_with_the_logits():
    module, readout, batch = WithTeacher(), Readout(features="head"), five_rows()
    readout.attach(module)
    reading = readout.read(module.training_step(batch), batch, with_features=True)
    assert torch.equal(reading.features, module.body(batch[0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_logits_may_be_a_rounded_copy_of_what_the_head_puts_out(dtype):
    module, readout, batch = TwoLayers(), Readout(), five_rows()
    readout.attach(module, with_features=True)
    logits = module.training_step(batch)["logits"].to(dtype)
    reading = readout.read({"logits": logits}, batch, with_features=True)
    assert torch.equal(reading.features, module.body(batch[0]))


def with_block(*layers):
    return inject_adapter_in_model(LoraConfig(r=2, target_modules=["1"]), nn.Sequential(*layers))


def test_low_rank_block_is_part_of_its_layer():
    model = with_block(nn.Linear(2, 3), nn.Linear(3, 2))
    readout = Readout()
    readout.attach(model, with_features=True)
    assert readout.head(model) is model[1]
    features = readout.read({"logits": model(X)}, (X, LABELS), with_features=True).features
    assert torch.equal(features, model[0](X))


def test_last_layer_with_a_block_is_refused_unless_it_makes_the_logits():
    model = with_block(nn.Linear(2, 2), nn.Linear(2, 7))
    readout = Readout()
    readout.attach(model, with_features=True)
    logits = model[0](X)
    model[1](logits)
    with pytest.raises(CaptureError, match=r"the last `nn.Linear` puts out something else"):
        readout.read({"logits": logits}, (X, LABELS), with_features=True)


def test_model_without_linear_layer_must_name_its_head():
    with pytest.raises(CaptureError, match="`features` must name the head, because the model has no"):
        Readout().attach(nn.Identity(), with_features=True)
