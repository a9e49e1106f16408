"""`mixcd-influence` on a small run of its own, against the formula written out."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from torch.func import functional_call, grad, hessian, vmap
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_mixcd.app import finished_run
from lightning_mixcd.app.conf import conf_dir
from lightning_mixcd.app.finetune import train
from lightning_mixcd.app.finished_run import load_run
from lightning_mixcd.app.influence import explain, main
from lightning_mixcd.errors import CaptureError, LedgerError
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.report.explained import table
from lightning_mixcd.tasks import Pairing, TensorDataModule
from tests.app.composing import composed
from tests.toys import QUIET

ALPHA, DAMPING = 0.02, 1e-2
SMALL = ["+model.width=4", "base.max_epochs=3", "trainer.max_epochs=4"]


def trained(folder, name, *overrides):
    """Run `mixcd-train` in this process; return its record."""
    config = composed(folder / name, *SMALL, *overrides)
    (folder / name / ".hydra").mkdir(parents=True)
    # Paths are resolved, as they do not depend on Hydra's run.
    config.logger.save_dir = f"{folder}/{name}"
    OmegaConf.save(config, folder / name / ".hydra" / "config.yaml")
    return train(config)


def explained(run, *overrides):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("influence", [f"run={run}", f"alpha={ALPHA}", *overrides])
    output = run / "influence"
    return output, explain(config, output)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose budget ended it in the middle of an epoch."""
    folder = tmp_path_factory.mktemp("runs")
    record = trained(folder, "one", "strategy=uniform", "max_compute_units=3500")
    assert record.exhausted
    assert record.steps % 11
    return folder / "one"


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "one")


def test_loaded_models_measure_what_the_run_recorded(run):
    found = load_run(run)
    new = found.val["new"].dataset
    data = TensorDataModule(new, new)
    loaders = [data.val_dataloader(), TensorDataModule(new, found.val["prior"].dataset).val_dataloader()]
    [measured, _] = Trainer(**QUIET).validate(found.finetuned, loaders, verbose=False)
    assert measured["val/new/accuracy"] == pytest.approx(found.record.new_accuracy)


def formula(run, x, y, damping=DAMPING):
    """Scores of the pool for some rows, with whole Hessians in float64."""

    def losses(module):
        parameters = dict(module.network.named_parameters())

        def of(flat, x, y):
            parts = flat.split([p.numel() for p in parameters.values()])
            named = {n: part.view_as(p) for (n, p), part in zip(parameters.items(), parts, strict=True)}
            return cross_entropy(functional_call(module.network, named, (x,)), y)

        return of

    def solve(matrix, vector):
        return torch.linalg.solve(matrix @ matrix + damping * torch.eye(len(matrix)), matrix @ vector)

    found = load_run(run)
    base, new = found.base.double(), found.finetuned.double()
    before, after = (
        torch.cat([p.detach().flatten() for p in module.network.parameters()]) for module in (base, new)
    )
    pool, finetune = (
        [t.double() if t.is_floating_point() else t for t in found.train[task].dataset.tensors]
        for task in ("prior", "new")
    )
    held = hessian(losses(new))(after, *finetune) + 2 * ALPHA * torch.eye(len(after))
    pull = 2 * ALPHA * solve(held, grad(losses(new))(after, x.double(), y))
    direction = solve(hessian(losses(base))(before, *pool), pull)
    rows = (pool[0][:, None], pool[1][:, None])
    return (-vmap(grad(losses(base)), (None, 0, 0))(before, *rows) @ direction).numpy()


@pytest.fixture(scope="module")
def damaged(run):
    """Positions of the prior validation samples that the run damaged, found by hand."""
    found = load_run(run)
    x, y = found.val["prior"].dataset.tensors
    with torch.no_grad():
        right = [module(x).argmax(1) == y for module in (found.base, found.finetuned)]
    return (right[0] & ~right[1]).nonzero()[:, 0], x, y


def test_scores_are_those_of_the_formula(run, damaged):
    rows, x, y = damaged
    output, _ = explained(run, "solver=exact", f"solver.damping={DAMPING}", "each=0")
    np.testing.assert_allclose(
        np.load(output / "scores.npy"), formula(run, x[rows], y[rows]), rtol=0.02, atol=1e-3
    )


def test_everything_that_is_written_shows_these_scores(run, damaged):
    output, found = explained(run, "solver=exact", f"solver.damping={DAMPING}", "each=2", "top=4")
    scores = np.load(output / "scores.npy")
    assert Ledger.open(output / "base.ledger").column("influence").tolist() == scores.tolist()
    shown = [sample.index for sample in (*found[0].supporting, *found[0].opposing)]
    assert shown == [*np.argsort(scores)[:4], *np.argsort(-scores)[:4]]
    with (output / "influence.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["pool index"]) for row in rows[:8]] == shown
    assert [row["side"] for row in rows[:8]] == ["supports"] * 4 + ["opposes"] * 4
    assert [float(row["score"]) for row in rows[:8]] == scores[shown].tolist()
    assert len(rows) == 3 * 8
    html = (output / "influence.html").read_text(encoding="utf-8")
    assert html.count("<img") == 3 * 8 + sum(len(part.queries) for part in found)
    assert {*(query.index for query in found[0].queries)} <= {*damaged[0].tolist()}


def test_queries_are_the_worst_first_and_together_count_by_their_mean(run):
    output, found = explained(run, "queries=new", "index=[5,200,31]", "solver=exact")
    alone = [part.queries[0] for part in found[1:]]
    assert {query.index for query in alone} == {5, 31, 200}
    losses = [float(query.facts["finetuned"].rpartition(" ")[2]) for query in alone]
    assert losses == sorted(losses, reverse=True)
    each = [np.load(output / f"scores_{query.index}.npy") for query in alone]
    np.testing.assert_allclose(np.load(output / "scores.npy"), np.mean(each, axis=0), rtol=1e-3, atol=1e-4)


def test_columns_of_the_ledger_do_not_hide_ours(copied, monkeypatch):
    ledger = Ledger.open(load_run(copied).ledger)
    own = ledger.with_columns(score=np.full(600, 7.0), rank=np.full(600, 9))
    monkeypatch.setattr(Ledger, "open", lambda *_, **__: own)
    _, found = explained(copied, "queries=new", "index=0", "solver=exact", "top=1")
    scores = np.load(copied / "influence" / "scores.npy")
    rows = table(found)
    assert [row["score"] for row in rows] == [scores.min(), scores.max()]
    assert [(row["rank"], row["ledger's rank"], row["ledger's score"]) for row in rows] == [(1, 9, 7.0)] * 2


def test_one_position_needs_no_list(run):
    _, found = explained(run, "queries=new", "index=0", "solver=exact")
    assert [query.index for part in found for query in part.queries] == [0]


def test_interrupted_scoring_goes_on(run, monkeypatch):
    from lightning_mixcd.influence import stage

    chosen = ["queries=new", "solver=exact", "each=0"]
    inner = stage.Stage.batches

    def dying(self, index=None):
        for k, batch in enumerate(inner(self, index)):
            if index is not None and k == 1:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(stage.Stage, "batches", dying)
        with pytest.raises(KeyboardInterrupt):
            explained(run, *chosen)
    [part] = (run / "influence").glob("scores.npy.*.part")
    assert np.isfinite(np.load(part)).sum() == 256
    asked = []

    def counted(self, index=None):
        asked.append(index)
        return inner(self, index)

    monkeypatch.setattr(stage.Stage, "batches", counted)
    explained(run, *chosen)
    assert [len(index) for index in asked if index is not None] == [600 - 256]
    assert not part.exists()


def test_scored_ledger_steers_the_next_run(run):
    explained(run, "solver=exact", "each=0")
    ledger = f"ledger={run}/influence/base.ledger"
    trained(run.parent, "two", "strategy=most_supportive", ledger, "trainer.max_epochs=1")
    # It can be asked in turn, where its ledger already has scores.
    assert load_run(run.parent / "two").ledger == load_run(run).ledger
    trained(
        run.parent,
        "three",
        "+partition.column=influence",
        "+partition.n_bins=3",
        ledger,
        "trainer.max_epochs=1",
    )
    with pytest.raises(LedgerError, match="`pool` must be the one the ledger was made from"):
        trained(run.parent, "four", "strategy=most_supportive", ledger, "seed=1", "base.max_epochs=1")


def test_scores_of_an_earlier_call_do_not_stay_beside_those_of_this_one(run):
    output, _ = explained(run, "queries=new", "index=[0,1,2]", "each=3", "solver=exact")
    assert {path.name for path in output.glob("scores_*")} == {f"scores_{i}.npy" for i in range(3)}
    explained(run, "queries=new", "index=[1,4]", "each=2", "solver=exact")
    assert {path.name for path in output.glob("scores_*")} == {"scores_1.npy", "scores_4.npy"}


@pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["one", "sweep"])
def test_command_without_a_run_asks_for_one(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mixcd-influence", *sweep])
    with pytest.raises(SystemExit, match=r"^`run` must be the folder of one run of `mixcd-train`, got none"):
        main()
    assert not [*tmp_path.iterdir()]


def test_command_prints_a_table_and_says_where_the_rest_is(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    arguments = [
        "run=one",
        "queries=new_errors",
        "each=0",
        "top=2",
        "solver=exact",
        "+solver.max_parameters=400",
    ]
    monkeypatch.setattr(sys, "argv", ["mixcd-influence", *arguments])
    main()
    printed = capsys.readouterr().out
    assert "Errors on the new task" in printed
    assert printed.count("supports") == printed.count("opposes") == 2
    assert "one/influence/new_errors/influence.html" in printed
    written = {path.name for path in (run / "influence" / "new_errors").iterdir()}
    assert written >= {"influence.html", "influence.csv", "scores.npy", "base.ledger"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["queries=mine"], r"`queries` must be one of \['prior_damaged', .* got 'mine'"),
        (["queries=new", "index=[3,247,-1]"], r"task's validation set, 0 to 246, got \[247, -1\]"),
        (["queries=new_errors", "index=[]"], "but none of the 247 .* is one of 'new_errors' and in `index`"),
        (["solver=exact", "+solver.max_parameters=99"], r"`Exact` takes at most 99 parameters .* got 310"),
        (["alpha=0"], r"`alpha` must be in \(0, inf\), got 0"),
        (["top=0"], "`top` must be at least 1, got 0"),
        (["each=-1"], "`each` must be at least 0, got -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, overrides, message):
    with pytest.raises(ValueError, match=message):
        explained(run, *overrides)


def test_kind_of_queries_is_refused_before_the_run_is_read(tmp_path):
    with pytest.raises(ValueError, match="`queries` must be one of"):
        explained(tmp_path / "no run", "queries=mine")


def without_weights(folder):
    shutil.rmtree(folder / "logs" / "checkpoints")


def with_weights_of_before(folder):
    [path] = folder.rglob("*.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    torch.save({**checkpoint, "global_step": 9}, path)


def without_result(folder):
    (folder / "result.json").unlink()


def without_config(folder):
    shutil.rmtree(folder / ".hydra")


def with_option(**options):
    def change(folder):
        path = folder / ".hydra" / "config.yaml"
        OmegaConf.save(OmegaConf.merge(OmegaConf.load(path), options), path)

    return change


@pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists")
def test_weights_of_an_earlier_run_in_the_folder_are_refused(copied):
    again = ["strategy=uniform", "max_compute_units=3500", "trainer.enable_checkpointing=false"]
    train(composed(copied, *SMALL, *again))
    assert [*copied.rglob("*.ckpt")]
    with pytest.raises(ValueError, match=r"must have left the finetuned weights itself, but .* earlier run"):
        explained(copied)


def test_weights_of_a_run_of_an_earlier_release_are_those_that_are_there(copied):
    path = copied / "result.json"
    record = json.loads(path.read_text())
    del record["checkpoints"]
    path.write_text(json.dumps(record))
    assert load_run(copied).record.checkpoints is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_weights, "must have left the finetuned weights in one checkpoint, got \\[\\]"),
        (with_weights_of_before, r"of its end, after \d+ steps, but .*\.ckpt is of step 9"),
        (without_result, r"There is no result\.json below"),
        (without_config, r"must be the folder of one run of `mixcd-train`, but .* has no \.hydra"),
        (with_option(stages={"first": {}}), "got a chain of tasks in"),
        (with_option(adapter={"lora": {}}), "got a run with an adapter in"),
    ],
)
def test_folders_that_are_no_finished_run_are_refused(copied, change, message):
    change(copied)
    with pytest.raises(ValueError, match=message):
        explained(copied)


def test_queries_whose_target_is_no_class_are_refused(run, monkeypatch):
    inner = finished_run.make

    def spoilt(config):
        made = inner(config)
        if isinstance(made, Pairing):
            x, y = made.new.val.tensors
            made.new.val = TensorDataset(x, y.clone().index_fill_(0, torch.tensor([7]), -100))
        return made

    monkeypatch.setattr(finished_run, "make", spoilt)
    with pytest.raises(CaptureError, match="sample 7 of the new task's validation set has none"):
        explained(run, "queries=new", "solver=exact")


def test_models_without_losses_are_refused(run, monkeypatch):
    def step(self, batch, batch_idx):
        return {"loss": self(batch[0]).sum(), "preds": self(batch[0]).argmax(1)}

    monkeypatch.setattr("lightning_mixcd.tasks.Classifier.training_step", step)
    with pytest.raises(CaptureError, match="Influence needs the loss of each query"):
        explained(run)
