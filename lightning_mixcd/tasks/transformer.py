"""What all modules around a Transformers model have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.tasks.checks import check_inputs
from lightning_mixcd.tasks.embedding import packaged_encoder

__all__ = ["TransformerModule", "load_auto", "load_network"]

Batch = Mapping[str, Tensor]
# What `peft` calls the kinds of `AutoModelFor...`.
TASK_TYPES = {
    "SequenceClassification": "SEQ_CLS",
    "QuestionAnswering": "QUESTION_ANS",
    "Seq2SeqLM": "SEQ_2_SEQ_LM",
    "CausalLM": "CAUSAL_LM",
}


class TransformerModule(LightningModule, ABC):
    """A Transformers model, trained with AdamW.

    Validation logs `val/<name>/accuracy`, the share of rows that are right, and more per kind of task.

    Args:
        network: The model, see `load_network`.
        lr: Learning rate.
        val_names: Names of the validation loaders, in order.
    """

    def __init__(
        self, network: nn.Module, *, lr: float = 5e-5, val_names: tuple[str, ...] = ("new", "prior")
    ) -> None:
        super().__init__()
        self.network, self.lr, self.val_names = network, lr, tuple(val_names)

    @override
    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> Mapping[str, Tensor]: ...

    @abstractmethod
    def scores(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Score each row.

        Args:
            outputs: What `training_step` returned.
            batch: The batch.

        Returns:
            What validation logs the mean of, by name, each of all rows or of some, `(B,)` at most.
        """

    @override
    def on_validation_start(self) -> None:
        # The training data is not there yet, and these would be read first.
        if self.trainer.sanity_checking:
            check_inputs(self.trainer, self)

    @override
    def on_train_start(self) -> None:
        check_inputs(self.trainer, self)

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        scores = self.scores(self.training_step(batch, batch_idx), batch)
        for key, values in scores.items():
            self.log(
                f"val/{self.val_names[dataloader_idx]}/{key}",
                # The mean of no rows would be NaN, and with it that of all batches.
                values.float().sum() / max(1, len(values)),
                add_dataloader_idx=False,
                batch_size=len(values),
                prog_bar=key == "accuracy",
                sync_dist=True,
            )

    @override
    def configure_optimizers(self) -> Any:
        # The pool is there already, and comes before all else if a ledger is recorded of it at the start of
        # `fit`. Not in `setup`: modules that override it are taken to build their layers there.
        if self._trainer is not None:
            check_inputs(self._trainer, self)
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        # On the CPU torch's own choice takes six times as long; elsewhere fused ones do not go with fp16.
        return torch.optim.AdamW(trained, lr=self.lr, fused=self.device.type == "cpu" or None)


def load_network(
    kind: str,
    model: str | Mapping[str, Any] | None = None,
    *,
    gradient_checkpointing: bool = False,
    lora: Mapping[str, Any] | None = None,
    **settings: Any,  # noqa: ANN401 -- of any configuration
) -> nn.Module:
    """Load or make a Transformers model.

    Args:
        kind: `"SequenceClassification"`, `"QuestionAnswering"`, `"Seq2SeqLM"` or `"CausalLM"`.
        model: Name on the hub or folder of a pretrained model; or a configuration, such as
            `{"model_type": "t5", "d_model": 64}`, of one with random weights; by default the sentence encoder
            of the extra `bench`.
        gradient_checkpointing: Whether activations are computed again in the backward, to save memory.
        lora: Settings of low-rank adapters, as `peft.LoraConfig` takes them, such as `{"r": 8}`. These and
            a new head are then all that is trained. None trains every weight.
        **settings: What else its configuration is to hold, such as `num_labels`.

    Returns:
        The model, in train mode. What is not pretrained has weights from the global generator.

    Raises:
        ValueError: If `kind` is no known word.
        ModuleNotFoundError: If `peft`, or the encoder, is needed and not installed.

    Example:
        >>> tiny = {"model_type": "gpt2", "vocab_size": 9, "n_embd": 4, "n_head": 1, "n_layer": 1}
        >>> load_network("CausalLM", tiny).config.is_encoder_decoder
        False
    """
    if kind not in TASK_TYPES:
        raise ValueError(f"`kind` must be one of {[*TASK_TYPES]}, got {kind!r}. Pass one of them.")
    network = load_auto(f"AutoModelFor{kind}", model, settings)
    if lora is not None:
        network = _with_lora(network, kind, lora)
    if gradient_checkpointing:
        # Release 5 of `transformers` gives it another name.
        old, new = (f"{what}_checkpointing_enable" for what in ("gradient", "activation"))
        getattr(network, new if hasattr(network, new) else old)()
    # Pretrained models come in eval mode, in which Lightning leaves them.
    return network.train()  # type: ignore[no-any-return]


def load_auto(auto: str, model: str | Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Load or make a model by one of the classes of Transformers that find the right one.

    Args:
        auto: Name of that class, such as `"AutoModel"`.
        model: As for `load_network`.
        settings: What else its configuration is to hold.

    Returns:
        The model.
    """
    import transformers

    factory: Any = getattr(transformers, auto)
    if isinstance(model, Mapping):
        config = transformers.AutoConfig.for_model(**{**model, **settings})
        return factory.from_config(config)
    return factory.from_pretrained(model or packaged_encoder(), **settings)


def _with_lora(network: nn.Module, kind: str, settings: Mapping[str, Any]) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "`lora` needs the extra `lora`: pip install 'lightning-mixcd[lora]'."
        ) from error
    return get_peft_model(network, LoraConfig(task_type=TASK_TYPES[kind], **settings))
