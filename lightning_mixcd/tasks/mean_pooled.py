"""A sentence encoder with a linear head."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import override

from lightning_mixcd.tasks.transformer import load_auto

__all__ = ["MeanPooledClassifier"]


class MeanPooledClassifier(nn.Module):
    """Classifies texts by the mean of an encoder's last hidden states.

    Sentence encoders are trained that way. `AutoModelForSequenceClassification` reads the first token
    instead, mostly through a layer that is random in a sentence encoder, and learns far more slowly.

    Args:
        num_labels: Number of classes.
        model: Name on the hub or folder of a pretrained encoder; or a configuration, such as
            `{"model_type": "bert", "hidden_size": 64}`, of one with random weights; by default the sentence
            encoder of the extra `bench`.
        **settings: What else its configuration is to hold, such as `num_hidden_layers`.

    Raises:
        ModuleNotFoundError: If the encoder is needed and not installed.

    Example:
        >>> import torch
        >>> tiny = {"model_type": "bert", "vocab_size": 9, "hidden_size": 4, "num_attention_heads": 1}
        >>> network = MeanPooledClassifier(3, tiny, num_hidden_layers=1, intermediate_size=4)
        >>> ids = torch.tensor([[1, 2], [3, 0]])
        >>> network(input_ids=ids, attention_mask=(ids > 0).long()).logits.shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num_labels: int,
        model: str | Mapping[str, Any] | None = None,
        **settings: Any,  # noqa: ANN401 -- of any configuration
    ) -> None:
        super().__init__()
        self.encoder = load_auto("AutoModel", model, settings | {"num_labels": num_labels})
        # Weights that nothing reads would get no gradient, which DDP refuses.
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None
        self.config = self.encoder.config
        self.head = nn.Linear(self.config.hidden_size, num_labels)
        self.train()

    @override
    def forward(
        self, attention_mask: Tensor, labels: Tensor | None = None, **inputs: Tensor
    ) -> Mapping[str, Tensor]:
        """Classify texts.

        Args:
            attention_mask: 1 for tokens, 0 for padding, `(B, L)`.
            labels: Classes, int64, `(B,)`.
            **inputs: What else the encoder reads, such as `input_ids`, each `(B, L)`.

        Returns:
            A `SequenceClassifierOutput` with `logits`, `(B, num_labels)`, and with `labels` the mean
            cross-entropy as `loss`.
        """
        from transformers.modeling_outputs import SequenceClassifierOutput

        hidden = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        mask = attention_mask.unsqueeze(2)
        logits = self.head((hidden * mask).sum(dim=1) / mask.sum(dim=1))
        loss = None if labels is None else cross_entropy(logits, labels)
        outputs: Mapping[str, Tensor] = SequenceClassifierOutput(loss=loss, logits=logits)
        return outputs
