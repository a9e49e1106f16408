"""Ready tasks: a module and the data of a prior and a new task, for demonstrations, tests and studies."""

from lightning_mixcd.tasks.classifier import Classifier, cnn, mlp
from lightning_mixcd.tasks.digits import Digits, digits_pairing, digits_task
from lightning_mixcd.tasks.embedded_text import embedded_text_pairing, embedded_text_tasks
from lightning_mixcd.tasks.generation import generation_pairing, translation_pairing
from lightning_mixcd.tasks.generation_scores import GenerationScores
from lightning_mixcd.tasks.images import image_pairing, image_task
from lightning_mixcd.tasks.mean_pooled import MeanPooledClassifier
from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.rows import TextRows
from lightning_mixcd.tasks.sentences import SentenceClassifier, sentence_pairing
from lightning_mixcd.tasks.spans import SpanReader, span_pairing
from lightning_mixcd.tasks.tensor_data import TensorDataModule
from lightning_mixcd.tasks.transformer import load_network
from lightning_mixcd.tasks.two_heads import TwoHeads
from lightning_mixcd.tasks.vit import vit
from lightning_mixcd.tasks.writers import Writer

__all__ = [
    "Classifier",
    "Digits",
    "GenerationScores",
    "MeanPooledClassifier",
    "Pairing",
    "SentenceClassifier",
    "SpanReader",
    "TensorDataModule",
    "TextRows",
    "TwoHeads",
    "Writer",
    "cnn",
    "digits_pairing",
    "digits_task",
    "embedded_text_pairing",
    "embedded_text_tasks",
    "generation_pairing",
    "image_pairing",
    "image_task",
    "load_network",
    "mlp",
    "sentence_pairing",
    "span_pairing",
    "translation_pairing",
    "vit",
]
