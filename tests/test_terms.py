"""What is added to the loss of somebody else's step, and where its gradients are changed."""

import copy
from contextlib import nullcontext

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixcd import (
    CaptureError,
    NoRehearsal,
    Readout,
    RehearsalCallback,
    ScreenHighestLoss,
    Uniform,
)
from lightning_mixcd.penalties import L2SP, Penalty
from lightning_mixcd.terms import with_loss
from tests.toys import (
    N_FEATURES,
    POOL_IDS,
    Listed,
    LossOnly,
    OnBatchEnd,
    Toy,
    finetune,
    finetuned,
    ids,
    ledger,
    pool,
    rehearsed,
    trainer,
    weights,
)


class Noting(Penalty):
    """Adds a constant times the mean square of the logits, and remembers what it was shown."""

    def __init__(self, weight=0.0):
        self.weight, self.steps, self.gradients = weight, [], []

    def loss(self, step):
        self.steps.append(step)
        return self.weight * step.logits().square().mean()

    def change_gradients(self, gradients, apart, total):
        self.gradients.append({name: value.clone() for name, value in gradients.items()})


class Shrinking(Toy):
    """Has that term by itself."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x[:, :N_FEATURES])
        return cross_entropy(logits, y) + self.weight * logits.square().mean()


def fit(penalties=(), module=None, strategy=None, *, data=None, **settings):
    given = {key: settings.pop(key) for key in ("readout", "rehearsal_weight", "ledger") if key in settings}
    module = Toy() if module is None else module
    callback = RehearsalCallback(
        strategy or Uniform(), pool=pool(), mix_ratio=0.5, penalties=penalties, **given
    )
    trainer(callback, **settings).fit(module, DataLoader(data or finetune(), 8))
    return getattr(module, "_orig_mod", module)


# The loss.


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}])
def test_terms_are_as_if_the_module_had_them(settings):
    ours = fit([Noting(0.25), Noting(0.5)], **settings)
    theirs = fit(module=Shrinking(0.75), **settings)
    torch.testing.assert_close(weights(ours), weights(theirs))


def test_a_term_of_zero_changes_no_bit():
    assert torch.equal(weights(fit([Noting()])), weights(fit()))


def test_penalty_without_a_term_changes_no_bit():
    class Silent(Penalty):
        pass

    assert torch.equal(weights(fit([Silent()])), weights(fit()))


class OutputOfTransformers(Toy):
    def outputs(self, loss, logits):
        from transformers.modeling_outputs import SequenceClassifierOutput

        return SequenceClassifierOutput(loss=loss, logits=logits)


@pytest.mark.parametrize("kind", [LossOnly, OutputOfTransformers])
def test_loss_is_found_in_whatever_is_returned(kind):
    if kind is OutputOfTransformers:
        pytest.importorskip("transformers")
    ours = fit([Noting(0.5)], kind(), readout=Readout(module="net"))
    assert torch.equal(weights(ours), weights(fit([Noting(0.5)])))


def test_what_is_returned_keeps_its_kind_and_is_not_changed():
    given = {"loss": torch.tensor(1.0), "logits": torch.zeros(2)}
    changed = with_loss(given, torch.tensor(2.0))
    assert type(changed) is dict
    assert given["loss"] == 1
    assert changed["loss"] == 2
    assert changed["logits"] is given["logits"]
    assert with_loss(torch.tensor(1.0), torch.tensor(2.0)) == 2


def test_output_without_a_loss_is_refused():
    class Wordy(Toy):
        def outputs(self, loss, logits):
            return {"objective": loss}

    with pytest.raises(CaptureError, match=r"The loss must be a 0-dim tensor, returned by `training_step`"):
        fit([Noting()], Wordy(), readout=Readout(module="net"))


def test_missing_logits_are_named():
    class Flagged(Toy):
        def outputs(self, loss, logits):
            return {"loss": loss, "correct": logits.argmax(1) >= 0}

    with pytest.raises(
        ValueError, match=r"A penalty needs the logits of each row, and `training_step` gave none"
    ):
        fit([Noting()], Flagged())


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_skipped_batches_are_skipped():
    class Skipping(Toy):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    noting = Noting()
    fit([noting], Skipping())
    assert len(noting.steps) == len(noting.gradients) == 4


def test_compiled_module():
    class Wordless(Toy):  # logging in a compiled step fails without us too
        def log(self, *args, **settings):
            pass

    compiled = torch.compile(Wordless(), backend="eager")
    torch.testing.assert_close(weights(fit([Noting(0.5)], compiled)), weights(fit([Noting(0.5)])))


# What a penalty is shown.


@pytest.mark.parametrize("strategy", [Uniform, NoRehearsal])
def test_step_shows_the_rows_and_what_is_known_of_them(strategy):
    class Knowing(Noting):
        needs_columns = ("label",)

    noting = Knowing()
    module = fit([noting], strategy=strategy(), ledger=ledger())
    assert [step.finetune for step in noting.steps] == [8] * 5
    assert [ids(step.batch[0]) for step in noting.steps] == module.seen
    for step, new, old in zip(noting.steps, finetuned(module), rehearsed(module), strict=True):
        assert (step.rows, step.rehearsed) == (len(new) + len(old), len(old))
        if strategy is Uniform:
            assert step.ticket["index"].tolist() == old
            assert torch.equal(step.ticket["ledger/label"], step.batch[1][8:])
        torch.testing.assert_close(
            step.losses(), cross_entropy(step.logits(), step.batch[1], reduction="none")
        )


def test_outputs_are_read_once_for_all_penalties():
    calls = []

    def rule(outputs, batch):
        calls.append(len(batch[1]))
        right = outputs["logits"].argmax(1) == batch[1]
        return right, cross_entropy(outputs["logits"], batch[1], reduction="none")

    class Losing(Penalty):
        def loss(self, step):
            return step.losses().mean()

    fit([Losing(), Losing()], readout=Readout(correctness=rule))
    assert calls == [12] * 5


# Weights of rehearsed rows.


class Weighed(Uniform):
    """Draws come with weights: half of the sample's number."""

    def context(self, index):
        return {"weight": index / 2}


class Weighing(Toy):
    """Weighs rows by itself."""

    def __init__(self, weigh):
        super().__init__()
        self.weigh = weigh

    def training_step(self, batch, batch_idx):
        x, y = batch
        losses = cross_entropy(self.net(x[:, :N_FEATURES]), y, reduction="none", ignore_index=-100)
        number = x[:, -1]
        row_weights = torch.where(number < POOL_IDS, 1.0, self.weigh(number - POOL_IDS))
        return (row_weights * losses).sum() / (y != -100).sum()


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_weights_of_draws_multiply_that_of_rehearsal(weight):
    ours = fit(strategy=Weighed(), rehearsal_weight=weight)
    theirs = fit(module=Weighing(lambda number: weight * number / 2))
    torch.testing.assert_close(weights(ours), weights(theirs))


@pytest.mark.parametrize("strategy", [Uniform(), ScreenHighestLoss()])
def test_losses_alone_will_do_for_weights_and_screens(strategy):
    class Losses(Toy):
        def training_step(self, batch, batch_idx):
            x, y = batch
            losses = cross_entropy(self.net(x[:, :N_FEATURES]), y, reduction="none")
            return {"loss": losses.mean(), "losses": losses}

    ours = fit(module=Losses(), strategy=copy.deepcopy(strategy), rehearsal_weight=3.0)
    theirs = fit(strategy=copy.deepcopy(strategy), rehearsal_weight=3.0)
    torch.testing.assert_close(weights(ours), weights(theirs))


def test_rows_without_a_label_do_not_spoil_the_loss():
    x, y = finetune().tensors
    holes = TensorDataset(x, y.masked_fill(x[:, -1].long() % 4 == 1, -100))
    ours = fit(data=holes, rehearsal_weight=3.0)
    theirs = fit(module=Weighing(lambda number: torch.full_like(number, 3.0)), data=holes)
    assert weights(ours).isfinite().all()
    torch.testing.assert_close(weights(ours), weights(theirs))


def test_batches_without_any_label_are_not_weighed():
    class Noted(Toy):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))

    losses = []
    nothing = Readout(target=lambda batch: torch.full_like(batch[1], -100))
    fit(module=Noted(), readout=nothing, rehearsal_weight=3.0)
    fit(module=Noted())
    assert losses[:5] == losses[5:]


# Gradients.


def test_gradients_are_shown_once_per_optimizer_step_before_clipping():
    shown = Noting()
    fit([shown], accumulate_grad_batches=2, limit_train_batches=4, gradient_clip_val=1e-3)
    assert len(shown.gradients) == 2
    for gradients in shown.gradients:
        assert [*gradients] == ["net.0.weight", "net.0.bias", "net.3.weight", "net.3.bias"]
        assert torch.cat([g.flatten() for g in gradients.values()]).norm() > 0.01


def test_sparse_gradients_are_refused():
    class Embedding(Toy):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(3, N_FEATURES + 1, sparse=True)
            self.configure_optimizers = lambda: torch.optim.SGD(self.parameters(), 0.1)

        def training_step(self, batch, batch_idx):
            return super().training_step([batch[0] + self.words(batch[1]), batch[1]], batch_idx)

    with pytest.raises(CaptureError, match=r"L2SP changes gradients, .* got a sparse one of `words.weight`"):
        fit([L2SP()], Embedding())


def test_changed_gradients_are_what_the_optimizer_uses():
    class Clearing(Penalty):
        def change_gradients(self, gradients, apart, total):
            for name, gradient in gradients.items():
                if name.startswith("net.0"):
                    gradient.zero_()

    module = fit([Clearing()])
    assert torch.equal(module.net[0].weight, Toy().net[0].weight)
    assert not torch.equal(module.net[3].weight, Toy().net[3].weight)


def test_rows_kept_apart_come_by_optimizer_step_and_leave_batches_plain():
    class Apart(Noting):
        keeps_apart = True

        def change_gradients(self, gradients, apart, total):
            self.gradients.append([(ids(part.batch[0]), part.ticket["index"].tolist()) for part in apart])

    noting = Apart()
    module = fit([noting], accumulate_grad_batches=2, limit_train_batches=4)
    plain = Toy()
    trainer().fit(plain, DataLoader(finetune(), 8))
    assert module.seen == plain.seen[:4]
    assert [len(step) for step in noting.gradients] == [2, 2]
    for numbers, index in (part for step in noting.gradients for part in step):
        assert len(index) == 4
        assert numbers == [i + POOL_IDS for i in index]


# Around training.


@pytest.mark.parametrize("breaks", [False, True])
def test_module_gets_its_step_back(breaks):
    module = Toy()
    own = module.training_step

    class Breaking(Noting):
        def loss(self, step):
            if breaks:
                raise RuntimeError("enough")

    def with_own_step(batch, batch_idx):
        return own(batch, batch_idx)

    module.training_step = with_own_step
    with pytest.raises(RuntimeError, match="enough") if breaks else nullcontext():
        fit([Breaking()], module)
    assert module.__dict__["training_step"] is with_own_step
    del module.training_step
    assert module.training_step == own


def test_penalty_that_only_changes_gradients_leaves_the_step_alone():
    class Halving(Penalty):
        def change_gradients(self, gradients, apart, total):
            for gradient in gradients.values():
                gradient *= 0.5

    for penalty, stands in ((Halving(), False), (Noting(), True)):
        replaced = []
        watch = OnBatchEnd(lambda t, m, o, b, seen=replaced: seen.append("training_step" in m.__dict__))
        rehearsal = RehearsalCallback(Uniform(), pool=pool(), penalties=[penalty])
        trainer(rehearsal, watch).fit(Toy(), DataLoader(finetune(), 8))
        assert replaced == [stands] * 5


def test_what_a_penalty_asked_of_the_ledger_is_not_shown_to_the_strategy():
    class Knowing(Noting):
        needs_columns = ("label",)

    class Seeing(Uniform):
        def tally(self, outcome):
            shown.append({*outcome.context})

    shown, noting = [], Knowing()
    fit([noting], strategy=Seeing(), ledger=ledger())
    assert all("ledger/label" in step.ticket for step in noting.steps)
    assert shown
    assert all(names == {"index", "base_correct"} for names in shown)


@pytest.mark.parametrize("weight", [1.0, 3.0])
@pytest.mark.parametrize("with_gradients", [False, True])
def test_validation_has_no_terms(with_gradients, weight):
    noting = Noting(1.0)

    class Validating(Toy):
        def validation_step(self, batch, batch_idx):
            with torch.set_grad_enabled(with_gradients):
                self.log("val", self.training_step(batch, batch_idx)["loss"])

    module = Validating()
    callback = RehearsalCallback(Uniform(), pool=pool(), penalties=[noting], rehearsal_weight=weight)
    run = trainer(callback, inference_mode=not with_gradients)
    run.fit(module, DataLoader(finetune(), 8), DataLoader(finetune(), 40))
    assert len(noting.steps) == 5
    x, y = finetune().tensors
    with torch.no_grad():
        expected = cross_entropy(module.net(x[:, :N_FEATURES]), y)
    torch.testing.assert_close(run.callback_metrics["val"], expected)


def test_metrics_are_logged_by_the_name_of_the_penalty():
    class Telling(Penalty):
        def metrics(self):
            return {"mood": torch.tensor(0.5)}

    logger = Listed()
    fit([Telling()], logger=logger, log_every_n_steps=1)
    assert logger.values("rehearsal/Telling/mood") == [0.5] * 5


def test_metrics_of_several_penalties_of_a_kind_are_told_apart():
    class Telling(Penalty):
        def __init__(self, mood):
            self.mood = mood

        def metrics(self):
            return {"mood": torch.tensor(self.mood)}

    logger = Listed()
    fit([Telling(0.5), Noting(), Telling(0.25)], logger=logger, log_every_n_steps=1)
    assert logger.values("rehearsal/Telling/mood") == [0.5] * 5
    assert logger.values("rehearsal/Telling_2/mood") == [0.25] * 5


def test_manual_optimization_is_refused(tmp_path):
    class Manual(LightningModule):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            raise AssertionError("too late")

        def configure_optimizers(self):
            return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)

    for given in ({}, {"ledger": tmp_path / "l"}):
        with pytest.raises(CaptureError, match=r"Penalties and a `rehearsal_weight` other than 1 cannot act"):
            fit([Noting()], Manual(), **given)
