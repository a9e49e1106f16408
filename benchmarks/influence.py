"""Whether influence scores say what happens when pretrain samples are taken out.

Digits, upright and then turned, with a tanh network of 8 hidden units trained to the end in float64. Two
questions: do scores predict how the loss on the new task changes when a sample is taken out and both stages
are trained again; and do they find pretrain samples whose labels were flipped, by a clean validation set of
the new task? A third one is asked of a network as `mixcd-train strategy=none` trains it, which is far from
any optimum: what does the tenth of the pretrain samples do that supports, or opposes, most?

    python benchmarks/influence.py removed
    python benchmarks/influence.py flipped
    python benchmarks/influence.py run
"""

import argparse
import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import bootstrap, spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixcd.influence import (
    ConjugateGradients,
    Exact,
    KroneckerFactored,
    Solver,
    Stage,
    TwoStages,
    influence,
    score_pool,
)
from lightning_mixcd.tasks import Digits, mlp

N_PRIOR, N_NEW, N_QUERIES, FLIPPED, DECAY = 300, 200, 100, 0.1, 0.01
Scores = npt.NDArray[np.float64]


def rows(module: nn.Module, batch: list[Tensor]) -> Tensor:
    """Loss of each row."""
    return cross_entropy(module(batch[0].flatten(1)), batch[1], reduction="none")


def drawn(module: nn.Module, batch: list[Tensor]) -> Tensor:
    """Loss of each row for a label that the model draws."""
    logits = module(batch[0].flatten(1))
    return cross_entropy(logits, logits.softmax(1).multinomial(1)[:, 0], reduction="none")


def network(seed: int) -> nn.Sequential:
    """An embedding and a head."""
    torch.manual_seed(seed)
    embedding = nn.Sequential(nn.Linear(64, 8), nn.Tanh())
    return nn.Sequential(embedding, nn.Linear(8, 10)).double()


def train(stage: Stage, anchor: Tensor | None = None, alpha: float = 0.0) -> Stage:
    """Train a stage's module to the end, its embedding held at the anchor by alpha."""
    parameters = [p for p in stage.module.parameters() if p.requires_grad]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=2000, tolerance_grad=1e-7, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )
    data = stage.pool.dataset[:]

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = rows(stage.module, data).mean() + DECAY / 2 * sum(p.square().sum() for p in parameters)
        if anchor is not None:
            loss = (
                loss
                + alpha
                * (nn.utils.parameters_to_vector(stage.module[0].parameters()) - anchor).square().sum()
            )
        loss.backward()
        return loss

    optimizer.step(objective)
    return stage


def without(data: TensorDataset, index: npt.NDArray[np.int64] | list[int]) -> TensorDataset:
    """Leave samples out."""
    kept = np.setdiff1d(np.arange(len(data)), index)
    return TensorDataset(*data[kept])


@dataclass
class Task:
    """Both stages, and queries of the new task."""

    prior: TensorDataset
    new: TensorDataset
    queries: TensorDataset
    alpha: float | None
    seed: int

    def stages(self, prior: TensorDataset, start: tuple[Stage, Stage] | None = None) -> tuple[Stage, Stage]:
        """Train both stages, from given ones or from scratch."""
        modules = (
            [copy.deepcopy(stage.module) for stage in start] if start else [network(self.seed) for _ in "ab"]
        )
        base = train(Stage(modules[0], prior, rows, weight_decay=DECAY))
        finetuned = Stage(modules[1], self.new, rows, weight_decay=DECAY)
        if start is None or self.alpha is None:
            modules[1][0].load_state_dict(modules[0][0].state_dict())
        if self.alpha is None:
            modules[1][0].requires_grad_(False)
            return base, train(finetuned)
        anchor = nn.utils.parameters_to_vector(modules[0][0].parameters()).detach()
        return base, train(finetuned, anchor, self.alpha)

    def scores(self, stages: tuple[Stage, Stage], solver: Solver) -> Scores:
        """Score the pretrain samples."""
        return influence(*stages, self.queries, embedding="0", alpha=self.alpha, solver=solver)

    def loss(self, finetuned: Stage) -> float:
        """Return the loss on the queries."""
        return float(replace(finetuned, data=self.queries).mean_loss())


def task(seed: int, alpha: float | None) -> Task:
    """Deal digits out."""
    digits = Digits.load(seed=seed)

    def part(data: TensorDataset, n: int) -> TensorDataset:
        x, y = data[:n]
        return TensorDataset(x.double(), y)

    return Task(
        part(digits.prior_train, N_PRIOR),
        part(digits.new_train, N_NEW),
        part(digits.new_test, N_QUERIES),
        alpha,
        seed,
    )


SOLVERS: dict[str, Solver] = {
    "exact": Exact(),
    "conjugate gradients": ConjugateGradients(progress=False),
    "EK-FAC": KroneckerFactored(sampled=drawn, progress=False),
}


def removed(n: int, alpha: float | None) -> None:
    """Leave one sample out at a time; print how well its score said what would happen."""
    setting = task(0, alpha)
    stages = setting.stages(setting.prior)
    before = setting.loss(stages[1])
    chosen = np.random.default_rng(0).choice(N_PRIOR, n, replace=False)
    start = time.perf_counter()
    truth = np.array([
        setting.loss(setting.stages(without(setting.prior, [i]), stages)[1]) - before for i in chosen
    ])
    print(
        f"alpha {alpha}: {n} samples taken out, {time.perf_counter() - start:.0f} s; query loss {before:.3f}"
    )
    for name, solver in SOLVERS.items():
        start = time.perf_counter()
        guess = -setting.scores(stages, solver)[chosen] / N_PRIOR
        seconds = time.perf_counter() - start
        rank = spearmanr(guess, truth).statistic
        low, high = bootstrap(
            (guess, truth), lambda a, b: spearmanr(a, b).statistic, paired=True, vectorized=False,
            n_resamples=2000, method="percentile", rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        slope = float(guess @ truth / (guess @ guess))
        print(f"| {name} | {rank:.2f} [{low:.2f}, {high:.2f}] | {slope:.2f} | {seconds:.1f} s |", flush=True)


def flipped(seeds: int, alpha: float | None) -> None:
    """Flip labels; print how many of the samples that oppose clean validation data most were flipped."""
    hits: dict[str, list[float]] = {}
    changes: dict[str, list[float]] = {}
    for seed in range(seeds):
        setting = task(seed, alpha)
        x, y = setting.prior.tensors
        rng = np.random.default_rng(seed)
        wrong = rng.choice(N_PRIOR, int(FLIPPED * N_PRIOR), replace=False)
        y = y.clone()
        y[wrong] = (y[wrong] + torch.from_numpy(rng.integers(1, 10, len(wrong)))) % 10
        setting.prior = TensorDataset(x, y)
        stages = setting.stages(setting.prior)
        test = test_part(seed)
        before = accuracy(stages[1], test)
        ranking = {name: setting.scores(stages, solver) for name, solver in SOLVERS.items()}
        ranking["loss of the base model"] = rows(stages[0].module, [x, y]).detach().numpy()
        ranking["random"] = rng.random(N_PRIOR)
        for name, scores in ranking.items():
            top = np.argsort(-scores)[: len(wrong)]
            hits.setdefault(name, []).append(float(np.isin(top, wrong).mean()))
            after = accuracy(setting.stages(without(setting.prior, top))[1], test)
            changes.setdefault(name, []).append(after - before)
    for name, found in hits.items():
        print(f"| {name} | {spread(found)} | {spread(changes[name])} |", flush=True)


def run(seeds: int) -> None:
    """Leave out the samples that support or oppose most; print what that does to the query loss."""
    changes: dict[tuple[str, str], list[float]] = {}
    for seed in range(seeds):
        digits = Digits.load(seed=seed)
        n = len(digits.prior_train)
        base, finetuned = stopped(digits, range(n), seed)
        (x, y), rng = digits.prior_test.tensors, np.random.default_rng(seed)
        with torch.no_grad():
            damaged = (base(x).argmax(1) == y) & (finetuned(x).argmax(1) != y)
        queries = {
            "prior, damaged": TensorDataset(x[damaged], y[damaged]),
            "prior": digits.prior_test,
            "new": digits.new_test,
        }
        pretraining = Stage(base, digits.prior_train)
        finetuning = Stage(finetuned, digits.new_train)
        stages = TwoStages(
            pretraining, finetuning, alpha=0.01, solver=ConjugateGradients(1e-3, progress=False)
        )
        leave = {name: rng.choice(n, n // 10, replace=False) for name in queries}
        chance = query_losses(digits, leave["prior"], queries, seed)
        for name, asked in queries.items():
            order = np.argsort(score_pool(pretraining, stages.direction(asked), progress=False))
            for side, index in {"supporting": order[: n // 10], "opposing": order[-(n // 10) :]}.items():
                after = query_losses(digits, index, {name: asked}, seed)
                changes.setdefault((name, side), []).append(after[name] - chance[name])
    for (name, side), found in changes.items():
        error = np.std(found, ddof=1) / len(found) ** 0.5
        print(f"| {name} | {side} | {np.mean(found):+.2f} ± {error:.2f} nats |", flush=True)


def stopped(digits: Digits, index: Sequence[int], seed: int, order: int = 0) -> list[nn.Module]:
    """Train both stages on some of the pretrain samples, as `mixcd-train strategy=none` does."""
    torch.manual_seed(seed)
    module, made = mlp(n_inputs=64, n_classes=10), []
    for data, epochs in ((TensorDataset(*digits.prior_train[list(index)]), 12), (digits.new_train, 20)):
        generator = torch.Generator().manual_seed(order)
        loader = DataLoader(data, batch_size=32, shuffle=True, generator=generator)
        optimizer = module.configure_optimizers()
        for _ in range(epochs):
            for batch in loader:
                optimizer.zero_grad()
                module.training_step(batch, 0)["loss"].backward()
                optimizer.step()
        made.append(copy.deepcopy(module))
    return made


def query_losses(
    digits: Digits, left_out: Scores, queries: dict[str, TensorDataset], seed: int
) -> dict[str, float]:
    """Return the loss on queries after training without some samples, mean over four orders of batches."""
    index = np.setdiff1d(np.arange(len(digits.prior_train)), left_out)
    tuned = [stopped(digits, index, seed, order)[1] for order in range(4)]
    return {
        name: float(np.mean([Stage(module, data).mean_loss() for module in tuned]))
        for name, data in queries.items()
    }


def test_part(seed: int) -> TensorDataset:
    """Return the new task's test samples that are no queries."""
    x, y = Digits.load(seed=seed).new_test[N_QUERIES:]
    return TensorDataset(x.double(), y)


def accuracy(stage: Stage, data: TensorDataset) -> float:
    """Return the share of right answers."""
    x, y = data.tensors
    return float((stage.module(x.flatten(1)).argmax(1) == y).double().mean())


def spread(values: list[float]) -> str:
    """Format mean and standard error in points."""
    return f"{100 * np.mean(values):+.1f} ± {100 * np.std(values, ddof=1) / len(values) ** 0.5:.1f}"


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=["removed", "flipped", "run"])
    parser.add_argument("--samples", type=int, default=60, help="samples taken out")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.question == "run":
        run(arguments.seeds)
        return
    for alpha in (None, 0.01):
        if arguments.question == "removed":
            removed(arguments.samples, alpha)
        else:
            print(f"alpha {alpha}")
            flipped(arguments.seeds, alpha)


if __name__ == "__main__":
    main()
