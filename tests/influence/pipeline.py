"""Two stages of training a small tanh network, run to the end: the oracle for influence.

Everything is in float64 and goes by plain formulas; the package is not asked.
"""

from functools import cache

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_mixcd.influence import Stage

N_INPUTS, N_HIDDEN, N_OLD, N_NEW = 3, 2, 2, 3
DECAY = 0.02
WIDTH = N_HIDDEN * (N_INPUTS + 1)  # of the embedding, flat


def samples(n, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, N_INPUTS, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


PRETRAIN, FINETUNE, QUERIES = samples(12, N_OLD, 0), samples(9, N_NEW, 1), samples(4, N_NEW, 2)


def losses(embedding, head, data):
    """Loss of each row; an embedding and a head are flat vectors."""
    x, y = data
    w, b = embedding.split([N_HIDDEN * N_INPUTS, N_HIDDEN])
    v, c = head.split([len(head) * N_HIDDEN // (N_HIDDEN + 1), len(head) // (N_HIDDEN + 1)])
    hidden = torch.tanh(x @ w.view(N_HIDDEN, N_INPUTS).T + b)
    return cross_entropy(hidden @ v.view(-1, N_HIDDEN).T + c, y, reduction="none")


def minimum(objective, start):
    """Where the gradient is 0: L-BFGS, then Newton's method."""
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([point], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = objective(point)
        loss.backward()
        return loss

    optimizer.step(closure)
    point = point.detach()
    for _ in range(4):
        slope = torch.autograd.functional.jacobian(objective, point)
        point = point - torch.linalg.solve(torch.autograd.functional.hessian(objective, point), slope)
    assert torch.autograd.functional.jacobian(objective, point).abs().max() < 1e-12
    return point


def random_start(n, seed):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decay(point):
    return DECAY / 2 * point.square().sum()


def pretrained(raised=0, by=0.0, start=None):
    """Embedding and head after pretraining, with one sample's weight raised."""

    def objective(point):
        rows = losses(point[:WIDTH], point[WIDTH:], PRETRAIN)
        return rows.mean() + by * rows[raised] + decay(point)

    return minimum(objective, random_start(WIDTH + N_OLD * (N_HIDDEN + 1), 3) if start is None else start)


def finetuned(embedding, alpha, start=None):
    """Embedding and head after finetuning; alpha None keeps the embedding."""
    n_head = N_NEW * (N_HIDDEN + 1)
    if alpha is None:
        start = random_start(n_head, 4) if start is None else start[WIDTH:]
        head = minimum(lambda head: losses(embedding, head, FINETUNE).mean() + decay(head), start)
        return torch.cat([embedding, head])

    def objective(point):
        pull = alpha * (point[:WIDTH] - embedding).square().sum()
        return losses(point[:WIDTH], point[WIDTH:], FINETUNE).mean() + decay(point) + pull

    return minimum(objective, torch.cat([embedding, random_start(n_head, 4)]) if start is None else start)


@cache
def optimum(alpha):
    base = pretrained()
    return base, finetuned(base[:WIDTH], alpha)


def derivative(raised, alpha, by=1e-4):
    """How the mean query loss moves with a pretrain sample's weight: both stages again, up and down."""
    base, new = optimum(alpha)

    def after(change):
        embedding = pretrained(raised, change, start=base)[:WIDTH]
        point = finetuned(embedding, alpha, start=new)
        return losses(point[:WIDTH], point[WIDTH:], QUERIES).mean()

    return float(after(by) - after(-by)) / (2 * by)


class Net(nn.Module):
    """The same network as a module."""

    def __init__(self, point, classes):
        super().__init__()
        self.embedding = nn.Linear(N_INPUTS, N_HIDDEN).double()
        self.dropout = nn.Dropout()  # off, whatever mode the module was left in
        self.head = nn.Linear(N_HIDDEN, classes).double()
        with torch.no_grad():
            nn.utils.vector_to_parameters(point.clone(), self.parameters())

    def forward(self, x):
        return self.head(self.dropout(torch.tanh(self.embedding(x))))


def rows(module, batch):
    return cross_entropy(module(batch[0]), batch[1], reduction="none")


def stages(alpha, **settings):
    """Both stages at their optima, as the package takes them, with batches that do not divide the data."""
    base, new = optimum(alpha)
    settings = {"losses": rows, "weight_decay": DECAY, "batch_size": 5, **settings}
    return (
        Stage(Net(base, N_OLD), TensorDataset(*PRETRAIN), **settings),
        Stage(Net(new, N_NEW), TensorDataset(*FINETUNE), **settings),
    )


QUERY_DATA = TensorDataset(*QUERIES)
