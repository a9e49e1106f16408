"""`mixcd-influence`: the pretrain samples that a run's predictions come from."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import numpy.typing as npt
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from typing_extensions import override

from lightning_mixcd.app.conf import conf_dir, hush, make, refuse_hidden
from lightning_mixcd.app.finished_run import FinishedRun, load_run
from lightning_mixcd.app.queries import Answer, Query, choose_queries, kind_of_queries
from lightning_mixcd.app.shown import shown
from lightning_mixcd.app.tables import print_table, wide_console
from lightning_mixcd.app.two_stages import RunStages
from lightning_mixcd.data import Pool
from lightning_mixcd.influence import score_pool
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.report.explained import Explanation, Sample, explained_page, table
from lightning_mixcd.report.files import write_text
from lightning_mixcd.report.picture import Value
from lightning_mixcd.report.saving import save_rows
from lightning_mixcd.report.style import short

__all__ = ["NeedsRun", "explain", "main"]

COLUMN = "influence"
OURS = ("queries", "side", "rank", "score")  # columns of the table
NOTES = (
    "A supporting pretrain sample lowered the loss of the finetuned model on what was asked, an opposing one "
    "raised it. Taking a sample out of N in pretraining changes the mean loss by about -score / N.",
    "Scores are derivatives, through both stages of training. They say what came through pretraining, not "
    "what rehearsal did. Trust ranks more than sizes.",
    "Of many predictions that were asked about together, those with the highest loss are shown.",
)


class NeedsRun(Callback):
    """Ends the command where `run` is missing, before Hydra fails to name a folder after it."""

    @override
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if OmegaConf.is_missing(config, "run"):
            # Hydra would make a warning of an error.
            raise SystemExit(
                "`run` must be the folder of one run of `mixcd-train`, got none. Give for example "
                "run=outputs/2026-01-31/12-00-00."
            )

    on_multirun_start = on_run_start


def explain(config: DictConfig, output: Path) -> list[Explanation]:
    """Explain predictions of a run, and write what was found.

    Args:
        config: The command's configuration; see `conf/influence.yaml`.
        output: Folder for scores, ledger, table and page. A scoring that was interrupted goes on there.

    Returns:
        The explanations: of all queries together, then of some one by one.

    Raises:
        ValueError: If an option does not fit; see also `load_run`, `choose_queries`, `TwoStages`.
    """
    for name, least, default in (("top", 1, 10), ("each", 0, 3)):
        if config[name] < least:
            raise ValueError(
                f"`{name}` must be at least {least}, got {config[name]}. The default is {default}."
            )
    task, words, _ = kind_of_queries(config.queries)
    solver = make(config.solver) if config.get("solver") else None
    run = load_run(Path(config.run))
    for module in (run.base, run.finetuned):
        module.to(config.device)
    index = [config.index] if isinstance(config.index, int) else config.index
    samples = choose_queries(run, config.queries, index, batch_size=config.batch_size)
    stages = RunStages(run, alpha=config.alpha, solver=solver, batch_size=config.batch_size)
    ledger = Ledger.open(run.ledger)

    def explained(title: str, asked: list[Query], path: Path) -> tuple[Explanation, npt.NDArray[np.float64]]:
        direction = stages.direction(task, [query.index for query in asked])
        scores = score_pool(stages.base, direction, path=path)
        best = np.argsort(scores, kind="stable")
        supporting, opposing = (
            [_pool_sample(run, ledger, int(i), float(scores[i])) for i in side[: config.top]]
            for side in (best, best[::-1])
        )
        worst = [_query_sample(run.val[task], query) for query in asked[: config.top]]
        return Explanation(title, supporting, opposing, worst), scores

    together, scores = explained(f"{words}: {len(samples)}", samples, output / "scores.npy")
    found, stale = [together], {*output.glob("scores_*.npy")}
    for query in samples[: config.each] if len(samples) > 1 else []:
        path = output / f"scores_{query.index}.npy"
        found.append(explained(f"Sample {query.index} alone", [query], path)[0])
        stale.discard(path)
    for path in stale:  # of an earlier call, about other samples
        path.unlink()
    _write(config, run, found, output)
    _write_ledger(ledger, scores, output / "base.ledger")
    return found


def _pool_sample(run: FinishedRun, ledger: Ledger, index: int, score: float) -> Sample:
    facts: dict[str, Value] = {"score": score}
    for name in ledger.columns:
        if name not in {"correct", "loss"} and ledger.column(name).ndim == 1:
            facts[f"ledger's {name}" if name in OURS else name] = ledger.column(name)[index].item()
    facts |= {"base model": _verdict(ledger.correct[index]), "base loss": ledger.loss[index].item()}
    return Sample(index, facts, shown(run.train["prior"], index))


def _query_sample(val: Pool, query: Query) -> Sample:
    label = query.after.label
    facts: dict[str, Value] = {} if label is None else {"label": label}
    facts |= {"base model": _said(query.before), "finetuned": _said(query.after)}
    return Sample(query.index, facts, shown(val, query.index))


def _said(answer: Answer) -> str:
    guess = "" if answer.guess is None else f"{answer.guess}, "
    return f"{guess}{_verdict(answer.correct)}, loss {answer.loss:.3g}"


def _verdict(correct: bool | np.bool_) -> str:
    return "right" if correct else "wrong"


def _write(config: DictConfig, run: FinishedRun, found: Sequence[Explanation], output: Path) -> None:
    title = f"{run.record.data}, {run.record.name}: which pretrain samples predictions come from"
    settings = {str(name): value for name, value in config.items() if value is not None}
    save_rows(table(found), output / "influence.csv")
    write_text(output / "influence.html", explained_page(title, found, settings, NOTES))


# The files of an earlier call give way: a finished ledger does not change.
def _write_ledger(ledger: Ledger, scores: npt.NDArray[np.float64], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    ledger.with_columns(**{COLUMN: scores}).save(folder)


def _print(found: Explanation, output: Path) -> None:
    console = wide_console()
    rows = table([found])
    texts = {name: [_cell(row.get(name)) for row in rows] for name in rows[0] if name != "queries"}
    print_table(console, found.title, texts)
    for name in ("influence.html", "influence.csv", "scores.npy", "base.ledger"):
        console.print(f"wrote {output / name}", soft_wrap=True, markup=False)


def _cell(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else short(str(value), 60)


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="influence")
def main(config: DictConfig) -> None:
    """Explain predictions of a run, print what supports and opposes all of them together.

    Args:
        config: The command's configuration.
    """
    refuse_hidden()
    hush()
    output = Path(HydraConfig.get().runtime.output_dir)
    _print(explain(config, output)[0], output)
