"""What many processes do together, done by one: slow, and unaware of ranks."""

import math

import torch

from lightning_mixcd import MixCD
from lightning_mixcd.functional.sampling import stream_key
from lightning_mixcd.types import Outcome
from tests.toys import N_POOL, POOL_IDS, ledger

LAG = 4
OF_A_ROUND = LAG // 2


class OneProcess:
    """Makes draws of a fixed size in rounds, and learns from all rows after every `OF_A_ROUND` batches.

    A round goes by what was known before anybody had opened the draw `LAG` before it.
    """

    def __init__(self, rows_per_draw, strategy=None):
        self.rows_per_draw = rows_per_draw
        self.strategy = strategy or MixCD()
        if strategy is None:
            self.strategy.setup(N_POOL, ledger(), seed=0)
        self.notes = [(-math.inf, self.strategy.signal())]  # the furthest draw that was open, and the signal
        self.rates, self.draws = [], []
        self.unread, self.steps = [], 0.0

    def batch(self, rows, furthest, *, steps):
        """See the rows of all ranks in one batch; `furthest` is the last draw that any of them has opened."""
        self.unread, self.steps = self.unread + rows, self.steps + steps
        if len(self.rates) % OF_A_ROUND == OF_A_ROUND - 1:
            self.strategy.update(self.strategy.tally(self.outcome(self.unread)), steps=self.steps)
            self.notes.append((furthest, self.strategy.signal()))
            self.unread, self.steps = [], 0.0
        self.rates.append(self.strategy.signal().tolist())

    def outcome(self, rows):
        """What rows have shown."""
        index = torch.tensor([i for i, _ in rows], dtype=torch.int64)
        right = torch.tensor([right for _, right in rows], dtype=torch.bool)
        return Outcome(index, right, context=self.strategy.context(index))

    def follow(self, runs, *, first=0, n_batches=None, steps=lambda batch: 1.0):
        """See what the runs of all ranks saw, which began with draw `first`.

        Returns:
            The last draw that any of them has opened.
        """
        taken = [0] * len(runs)
        for batch in [*zip(*(run["rows"] for run in runs), strict=True)][:n_batches]:
            taken = [n + len(rows) for n, rows in zip(taken, batch, strict=True)]
            last = first - 1 + max(draws_for(taken, self.rows_per_draw))
            self.batch([row for rows in batch for row in rows], last, steps=steps(len(self.rates)))
        return last

    def draw(self, n):
        """The first `n` draws, after all batches were seen."""
        while len(self.draws) < n:
            start = len(self.draws)
            known = [signal for furthest, signal in self.notes if furthest < start - LAG]
            self.draws += self.strategy.draw_round(
                OF_A_ROUND,
                self.rows_per_draw,
                signal=known[-1],
                generator=torch.Generator().manual_seed(stream_key(0, start)),
            ).tolist()
        return self.draws[:n]


def share_of(rank, n_ranks, rows_per_draw):
    """Rows of each draw that fall to a rank."""
    return len(range(rank, rows_per_draw, n_ranks))


def draws_for(taken, rows_per_draw):
    """Draws that the ranks have opened, by the rows that each has taken."""
    return [math.ceil(n / share_of(rank, len(taken), rows_per_draw)) for rank, n in enumerate(taken)]


def drawn(run):
    """Pool indices that each training step was given."""
    return [[i - POOL_IDS for i in step if i >= POOL_IDS] for step in run["seen"]]


def in_order(run):
    """The same, whatever the steps."""
    return [i for step in drawn(run) for i in step]


def n_opened(runs, rows_per_draw):
    """Draws that each rank has opened."""
    return draws_for([len(in_order(run)) for run in runs], rows_per_draw)


def assert_shared_out(runs, one, *, first=0):
    """Every rank was given its own part of each draw from `first` on, as far as it came."""
    draws = one.draw(first + max(n_opened(runs, one.rows_per_draw)))[first:]
    for rank, run in enumerate(runs):
        part = [i for draw in draws for i in draw[rank :: len(runs)]]
        assert 0 < len(in_order(run)) <= len(part)
        assert in_order(run) == part[: len(in_order(run))]


def ours(run):
    """What the callback logged, by step."""
    return [
        (step, {k: v for k, v in row.items() if k.startswith("rehearsal/")}) for step, row in run["logged"]
    ]
