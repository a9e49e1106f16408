"""Ready tasks: a module and the data of a prior and a new task, for demonstrations, tests and studies."""

from lightning_mixcd.tasks.classifier import Classifier, cnn, mlp
from lightning_mixcd.tasks.digits import Digits, TensorDataModule, digits_pairing
from lightning_mixcd.tasks.pairing import Pairing

__all__ = ["Classifier", "Digits", "Pairing", "TensorDataModule", "cnn", "digits_pairing", "mlp"]
