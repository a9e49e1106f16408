from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_mixcd.tasks import Writer
from lightning_mixcd.tasks.tokenized import TokenizedDataModule
from lightning_mixcd.tasks.writers import token_readings
from tests.tasks.tiny import collator, module, network, ragged
from tests.toys import QUIET

FORMS = ["seq2seq", "causal"]


def test_readings_are_means_over_the_tokens_that_count():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 4, generator=generator)
    labels = torch.tensor([[1, 2, -100, -100, -100], [-100, 0, 3, 1, 2], [2, 2, 2, 2, 2]])
    losses, right = token_readings(logits, labels)
    for row in range(3):
        there = [k for k in range(5) if labels[row, k] != -100]
        expected = [-logits[row, k].softmax(0)[labels[row, k]].log() for k in there]
        assert losses[row].item() == pytest.approx(float(sum(expected)) / len(there), abs=1e-5)
        hits = [int(logits[row, k].argmax()) == int(labels[row, k]) for k in there]
        assert right[row].item() == pytest.approx(sum(hits) / len(there))


@pytest.mark.parametrize("form", FORMS)
def test_each_token_is_told_from_those_before_it_alone(form):
    # The slow way: one token after the other, each with nothing but what comes before it.
    model = module(form).eval()
    batch, samples = ragged(form, [5, 8], seed=0)
    outputs = model.training_step(batch, 0)
    for k, sample in enumerate(samples):
        losses, hits = [], []
        for place, token in enumerate(sample["labels"]):
            if token == -100:
                continue
            if form == "causal":
                logits = model.network(input_ids=torch.tensor([sample["input_ids"][:place]])).logits[0, -1]
            else:
                before = torch.tensor([[0, *sample["labels"][:place]]])
                ids = torch.tensor([sample["input_ids"]])
                logits = model.network(input_ids=ids, decoder_input_ids=before).logits[0, -1]
            losses.append(-logits.log_softmax(0)[token].item())
            hits.append(int(logits.argmax()) == token)
        assert outputs["losses"][k].item() == pytest.approx(sum(losses) / len(losses), abs=1e-4)
        assert outputs["token_accuracy"][k].item() == pytest.approx(sum(hits) / len(hits))


class Said(torch.nn.Module):
    """Says what it was told to."""

    config = SimpleNamespace(is_encoder_decoder=True)

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, **batch):
        return {"logits": self.logits}


def test_a_row_is_right_by_the_share_of_its_tokens_and_by_its_loss():
    labels = torch.tensor([[0, 0, 0, 0], [0, 0, 1, -100], [0, 1, 1, 1], [1, 1, -100, -100]])
    # Every token is said to be 0, of which each row is surer than the one before.
    said = Said(torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None] * torch.tensor([1.0, 0.0]).expand(4, 4, 2))
    losses, shares = token_readings(said.logits, labels)
    assert shares.tolist() == pytest.approx([1, 2 / 3, 1 / 4, 0])
    assert losses.tolist() == sorted(losses.tolist())
    bound = float(losses[1])
    for options, expected in (
        ({}, [True, False, False, False]),
        ({"min_token_accuracy": 0.6}, [True, True, False, False]),
        ({"min_token_accuracy": 0.25}, [True, True, True, False]),
        ({"min_token_accuracy": 0, "max_loss": bound}, [True, True, False, False]),
        ({"min_token_accuracy": 0.7, "max_loss": bound}, [True, False, False, False]),
        ({"min_token_accuracy": 0.25, "max_loss": bound}, [True, True, False, False]),
    ):
        outputs = Writer(said, **options).training_step({"labels": labels}, 0)
        assert outputs["correct"].tolist() == expected, options


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, {"min_token_accuracy": 0, "max_loss": 99.0}])
def test_row_without_tokens_is_wrong_and_leaves_the_others_alone(form, options):
    def trained(rows):
        batch, _ = ragged(form, [5, 8, 6], seed=0)
        batch["labels"][1] = -100
        if form == "causal":
            batch["labels"][1, 0] = 3  # the first token is told by nothing
        model = Writer(network(form), **options).eval()
        chosen = {name: values[rows] for name, values in batch.items()}
        outputs = model.training_step(chosen, 0)
        outputs["loss"].backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return outputs, model.scores(outputs, chosen), torch.cat([g.flatten() for g in gradients])

    (outputs, scores, gradient), (expected, expected_scores, its_gradient) = (
        trained([0, 1, 2]),
        trained([0, 2]),
    )
    torch.testing.assert_close(outputs["loss"], expected["loss"])
    torch.testing.assert_close(gradient, its_gradient)
    assert outputs["losses"].isnan().tolist() == [False, True, False]
    assert not outputs["correct"][1]
    torch.testing.assert_close(scores["loss"], expected_scores["loss"])
    nothing, _, gradient = trained([1])
    assert (nothing["loss"], gradient.norm()) == (0, 0)


@pytest.mark.parametrize("form", FORMS)
def test_batch_without_tokens_leaves_the_loss_of_a_validation_alone(form):
    batch, samples = ragged(form, [5, 8], seed=0)
    without = [{**sample, "labels": [-100] * len(sample["labels"])} for sample in samples]
    loader = TokenizedDataModule([], samples + without, collator(form), batch_size=2).val_dataloader()
    model = module(form).eval()
    [found] = Trainer(**QUIET).validate(model, loader, verbose=False)
    expected = model.training_step(batch, 0)
    assert found["val/new/loss"] == pytest.approx(float(expected["losses"].mean().detach()), rel=1e-4)
    assert found["val/new/accuracy"] == pytest.approx(float(expected["correct"].float().mean()) / 2)


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_those_of_the_rows(form):
    batch, _ = ragged(form, [5, 8], seed=0)
    model = module(form).eval()
    outputs = model.training_step(batch, 0)
    assert {name: values.shape for name, values in model.scores(outputs, batch).items()} == dict.fromkeys(
        ("accuracy", "token_accuracy", "loss"), (2,)
    )


@pytest.mark.parametrize(
    "options",
    [{"min_token_accuracy": 1.1}, {"min_token_accuracy": -0.1}, {"max_loss": 0}, {"max_loss": float("nan")}],
)
def test_bounds_out_of_range_are_refused(options):
    with pytest.raises(
        ValueError, match=r"`min_token_accuracy` must be between 0 and 1, and `max_loss` above 0"
    ):
        Writer(network("causal"), **options)


def test_bounds_that_everything_keeps_are_refused():
    with pytest.raises(ValueError, match="every row were right"):
        Writer(network("causal"), min_token_accuracy=0)
