"""A strategy of your own: its import path, `hard_first.HardFirst`, is the name that a configuration uses."""

import torch

from lightning_mixcd.strategies import Strategy


class HardFirst(Strategy):
    """Draw base-correct samples with probability proportional to the base model's loss."""

    needs_ledger = True

    def __init__(self, *, softening: float = 1e-3) -> None:
        self.softening = softening  # added to each loss, in nats: more of it is closer to uniform

    def setup(self, n_pool, ledger, *, seed):
        correct, loss = torch.tensor(ledger.correct), torch.tensor(ledger.loss)
        self.weights = torch.where(correct, loss + self.softening, 0.0)
        self.n_available = int(correct.sum())

    def select(self, n, *, signal, generator):
        return torch.multinomial(self.weights, n, generator=generator)
