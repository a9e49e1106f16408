"""Models that write texts, trained and measured with the true text before each token."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import override

from lightning_mixcd.tasks.generation_scores import GenerationScores
from lightning_mixcd.tasks.transformer import Batch, TransformerModule

__all__ = ["Writer", "token_readings"]


class Writer(TransformerModule):
    """Writes texts. A row is right by the tokens that it would write after the true ones before them.

    The loss of a row is the mean over its tokens, and that of a batch the mean over its rows: a long text
    counts as much as a short one, and rows do not depend on what they share a batch with. A row without
    tokens is wrong, does not count in the loss, and has none of its own: a ledger refuses it. Validation logs
    the accuracy, `loss`, and `token_accuracy`.

    Args:
        network: A Transformers model for `"Seq2SeqLM"` or `"CausalLM"`, see `load_network`.
        min_token_accuracy: Share of its tokens that a row needs right to be right.
        max_loss: Loss, in nats, that a row must not be above to be right.
        generation: Scores of texts that the model writes by itself, to be logged in validation too; None for
            none, because each token of these takes a forward.
        lr: Learning rate.
        val_names: Names of the validation loaders, in order.

    Raises:
        ValueError: If a bound leaves nothing that could be wrong, or right.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        min_token_accuracy: float = 1.0,
        max_loss: float = float("inf"),
        generation: GenerationScores | None = None,
        lr: float = 5e-5,
        val_names: tuple[str, ...] = ("new", "prior"),
    ) -> None:
        super().__init__(network, lr=lr, val_names=val_names)
        if not 0 <= min_token_accuracy <= 1 or not max_loss > 0:
            raise ValueError(
                "`min_token_accuracy` must be between 0 and 1, and `max_loss` above 0, got "
                f"{min_token_accuracy} and {max_loss}. Change them."
            )
        if min_token_accuracy == 0 and max_loss == float("inf"):
            raise ValueError(
                "`min_token_accuracy` must be above 0 where there is no `max_loss`, or every row were right, "
                "got 0. Set one of them."
            )
        self.min_token_accuracy, self.max_loss = min_token_accuracy, max_loss
        self.generation = generation
        self._has_decoder = bool(cast("Any", network).config.is_encoder_decoder)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if self._has_decoder:
            # It makes what the decoder reads of the labels, put one place on.
            logits = self.network(**batch, use_cache=False)["logits"]
        else:
            inputs = {key: values for key, values in batch.items() if key != "labels"}
            logits = self.network(**inputs, use_cache=False)["logits"][:, :-1]
        losses, right = token_readings(logits, self._told(batch))
        there = self._has_tokens(batch)
        correct = there & (right >= self.min_token_accuracy) & (losses.detach() <= self.max_loss)
        loss = losses.where(there, 0).sum() / there.sum().clamp(min=1)
        return {"loss": loss, "losses": losses, "correct": correct, "token_accuracy": right}

    # The labels that logits are compared with.
    def _told(self, batch: Batch) -> Tensor:
        return batch["labels"] if self._has_decoder else batch["labels"][:, 1:]

    def _has_tokens(self, batch: Batch) -> Tensor:
        return (self._told(batch) != -100).any(dim=1)

    @override
    def on_validation_epoch_start(self) -> None:
        if self.generation is not None:
            self.generation.forget()

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        if self.generation is not None:
            loaders: Any = self.trainer.val_dataloaders
            loader = loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders
            self.generation.add(self.network, batch, loader.collate_fn, self.val_names[dataloader_idx])

    @override
    def on_validation_epoch_end(self) -> None:
        if self.generation is not None:
            self.log_dict(self.generation.compute(), sync_dist=True)

    @override
    def scores(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {
            "accuracy": outputs["correct"],
            "token_accuracy": outputs["token_accuracy"],
            "loss": outputs["losses"][self._has_tokens(batch)],
        }


def token_readings(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compare what a model says of each token with the token.

    Args:
        logits: `(B, L, V)`.
        labels: Tokens, int64, `(B, L)`; -100 where there is none to compare.

    Returns:
        Mean loss over the tokens of each row in nats, and the share of them with the highest logit, `(B,)`
        each; NaN, without a gradient, and 0 where there is none.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]]])
        >>> token_readings(logits, torch.tensor([[1, 1, -100]]))[1]
        tensor([0.5000])
    """
    there = labels != -100
    n_tokens = there.sum(dim=1)
    losses = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none").view_as(labels)
    right = (logits.argmax(dim=2) == labels) & there
    # Divided by 0, a loss would pass a NaN on to the weights even where it is left out.
    at_least = n_tokens.clamp(min=1)
    mean = losses.sum(dim=1) / at_least
    return mean.masked_fill(n_tokens == 0, torch.nan), right.sum(dim=1) / at_least
