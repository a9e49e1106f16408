"""What holds for every kind of task with a Transformers model."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from lightning_mixcd import Ledger, MixCD, Pool, Readout, RehearsalCallback, RehearsalDataModule
from lightning_mixcd.functional.joining import join
from lightning_mixcd.record import record_ledger
from lightning_mixcd.tasks import load_network
from lightning_mixcd.tasks.tokenized import TokenizedDataModule
from tests.tasks.tiny import BERT, GPT2, MODULES, NETWORKS, collator, module, network, ragged
from tests.toys import QUIET

KINDS = [*NETWORKS]


def read(model, batch):
    with torch.no_grad():
        outputs = model.eval().training_step(batch, 0)
    return Readout().read(outputs, batch, with_loss=True)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_read_the_same_alone_in_their_batch_and_joined(kind):
    model = module(kind)
    short, samples = ragged(kind, [3, 5], seed=1)
    long, more = ragged(kind, [11, 4, 7], seed=2)
    alone = [read(model, collator(kind)([sample])) for sample in samples + more]
    for joined, order in (
        (join(short, long, pad_values={"input_ids": 0}), alone),
        (join(long, short, pad_values={"input_ids": 0}), alone[2:] + alone[:2]),
    ):
        reading = read(model, joined)
        assert torch.allclose(reading.loss, torch.cat([row.loss for row in order]), atol=1e-5)
        assert reading.correct.tolist() == [bool(row.correct) for row in order]


@pytest.mark.parametrize("kind", KINDS)
def test_joined_batch_is_what_the_collator_makes_of_all_rows(kind):
    short, samples = ragged(kind, [3, 5], seed=1)
    long, more = ragged(kind, [11, 4, 7], seed=2)
    joined, expected = join(short, long, pad_values={"input_ids": 0}), collator(kind)(samples + more)
    assert set(joined) == set(expected)
    assert all(torch.equal(joined[key], expected[key]) for key in expected)


def test_a_step_is_that_of_torchs_own_adamw():
    batch, _ = ragged("sentences", [3, 9, 5], seed=3)
    ours, plain = module("sentences").eval(), module("sentences").eval()
    reference = torch.optim.AdamW(plain.parameters(), lr=plain.lr, fused=False)
    for model, optimizer in ((ours, ours.configure_optimizers()), (plain, reference)):
        for _ in range(3):
            optimizer.zero_grad()
            model.training_step(batch, 0)["loss"].backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_the_mean_over_rows(kind):
    batch, _ = ragged(kind, [3, 9, 5], seed=3)
    model = module(kind).eval()
    loss = model.training_step(batch, 0)["loss"]
    assert torch.allclose(loss, read(model, batch).loss.mean(), atol=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def tokenized(kind, n, *, seed):
    lengths = [3 + (7 * k) % 9 for k in range(n)]
    return ragged(kind, lengths, seed=seed)[1]


def fitted(kind, *, options=(), **settings):
    """A model, its trainer and the samples of a pool that was all right before."""
    model = module(kind, lr=1e-2, **dict(options))
    samples, finetune = tokenized(kind, 12, seed=4), tokenized(kind, 8, seed=5)
    data = RehearsalDataModule(
        TokenizedDataModule(finetune, finetune, collator(kind), batch_size=4),
        Pool(samples, collate_fn=collator(kind), pad_values={"input_ids": 0}),
        mix_ratio=0.5,
        ledger=Ledger.from_arrays(correct=np.ones(12, dtype=bool), loss=np.linspace(0, 1, 12)),
        prior_val=TokenizedDataModule([], samples, collator(kind), batch_size=5).val_dataloader(),
    )
    rehearsal = RehearsalCallback(MixCD(), rehearsal_weight=2.0)
    trainer = Trainer(callbacks=[rehearsal], **{**QUIET, "log_every_n_steps": 1, "max_epochs": 2, **settings})
    trainer.fit(model, datamodule=data)
    return model, trainer, samples


@pytest.mark.parametrize("kind", KINDS)
def test_rehearsal_learns_and_validation_measures_each_row_once(kind):
    model, trainer, samples = fitted(kind)
    assert 0 <= trainer.callback_metrics["rehearsal/damaged_share"] <= 1
    start = module(kind)
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), model.parameters(), strict=True))
    alone = [bool(read(model, collator(kind)([sample])).correct) for sample in samples]
    assert trainer.callback_metrics["val/prior/accuracy"] == pytest.approx(sum(alone) / len(alone))
    assert 0 <= trainer.callback_metrics["val/new/accuracy"] <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_rehearsal_runs_in_half_precision(kind):
    _, trainer, _ = fitted(kind, precision="bf16-mixed")
    assert 0 <= trainer.callback_metrics["rehearsal/damaged_share"] <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_ledger_holds_the_readings_of_each_row_alone(kind, tmp_path):
    model, samples = module(kind), tokenized(kind, 7, seed=6)
    pool = Pool(samples, collate_fn=collator(kind))
    ledger = record_ledger(model, pool, tmp_path / "base.ledger", batch_size=3)
    alone = [read(model, collator(kind)([sample])) for sample in samples]
    assert ledger.correct.tolist() == [bool(row.correct) for row in alone]
    assert torch.allclose(torch.tensor(ledger.loss), torch.cat([row.loss for row in alone]), atol=1e-5)


# `peft` reads a property that newer releases of `transformers` are about to rename.
renamed = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@renamed
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_checkpointing_activations_runs_layers_again_and_changes_no_gradient(kind, lora):
    if lora is not None:
        pytest.importorskip("peft")
        lora = {**lora, "fan_in_fan_out": kind == "causal"}
    batch, _ = ragged(kind, [3, 9, 5], seed=3)
    runs, gradients = [], []
    for checkpointing in (False, True):
        model = MODULES[kind](network(kind, gradient_checkpointing=checkpointing, lora=lora)).train()
        norms = [layer for layer in model.modules() if "norm" in type(layer).__name__.lower()]
        norms[1].register_forward_hook(lambda *_: runs.append(checkpointing))  # noqa: B023
        torch.manual_seed(0)  # the same dropout
        model.training_step(batch, 0)["loss"].backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert runs == [False, True, True]
    assert gradients[0]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@renamed
@pytest.mark.parametrize("kind", KINDS)
def test_low_rank_adapters_and_a_new_head_are_all_that_is_trained(kind):
    pytest.importorskip("peft")
    model = MODULES[kind](network(kind, lora={"r": 2, "fan_in_fan_out": kind == "causal"}))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("lora_" in name for name in trained)
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    [group] = model.configure_optimizers().param_groups
    assert len(group["params"]) == len(trained)
    if "modules_to_save" not in str(trained):
        # Without a new head there is nothing but adapters, which begin with nothing to say.
        batch, _ = ragged(kind, [3, 9, 5], seed=3)
        assert torch.allclose(read(model, batch).loss, read(module(kind), batch).loss, atol=1e-5)


def test_pretrained_weights_are_found_in_a_folder(tmp_path):
    made = network("causal")
    made.save_pretrained(tmp_path)
    again = load_network("CausalLM", str(tmp_path))
    assert all(layer.training for layer in again.modules())
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


def test_settings_go_into_the_configuration():
    assert load_network("SequenceClassification", BERT, num_labels=7).config.num_labels == 7


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"`kind` must be one of .*'CausalLM'.*, got 'MaskedLM'"):
        load_network("MaskedLM", GPT2)
