"""Ready tasks: a module and the data of a prior and a new task, for demonstrations, tests and studies."""

from lightning_mixcd.tasks.classifier import Classifier, cnn, mlp
from lightning_mixcd.tasks.digits import Digits, digits_pairing
from lightning_mixcd.tasks.embedded_text import embedded_text_pairing
from lightning_mixcd.tasks.generation import generation_pairing, translation_pairing
from lightning_mixcd.tasks.images import image_pairing
from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.rows import TextRows
from lightning_mixcd.tasks.sentences import SentenceClassifier, sentence_pairing
from lightning_mixcd.tasks.spans import SpanReader, span_pairing
from lightning_mixcd.tasks.tensor_data import TensorDataModule
from lightning_mixcd.tasks.texts import TextTask
from lightning_mixcd.tasks.transformer import load_network
from lightning_mixcd.tasks.writers import Writer

__all__ = [
    "Classifier",
    "Digits",
    "Pairing",
    "SentenceClassifier",
    "SpanReader",
    "TensorDataModule",
    "TextRows",
    "TextTask",
    "Writer",
    "cnn",
    "digits_pairing",
    "embedded_text_pairing",
    "generation_pairing",
    "image_pairing",
    "load_network",
    "mlp",
    "sentence_pairing",
    "span_pairing",
    "translation_pairing",
]
