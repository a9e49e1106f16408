"""Sweeps on disk, as `mixcd-train` leaves them, without training."""

from lightning_mixcd.report import Record
from lightning_mixcd.report.records import METRICS

PRIOR = {"none": 0.55, "uniform": 0.8, "mixcd": 0.84, "oracle": 0.88}
SEEDS = 3
STEPS = (9, 19, 29)
BINS = {
    "rates": (0.1, 0.25, 0.42),
    "true": (0.15, 0.2, 0.4),
    "rows": ((20, 25, 30), (20, 40, 55), (20, 60, 110)),
}


def record(name="uniform", seed=0, prior=0.8, new=0.9, ratio=0.25, **kwargs):
    return Record(name, ratio, seed, "digits", prior, new, 1000, **{"seconds": 1.0, "steps": 30, **kwargs})


def write_run(folder, of, *, rates=(), true=(), rows=(), strategy=None):
    """A record, its log with rates that do not move and rows per bin and step, and its configuration."""
    of.write(folder)
    values = {"rehearsal/damaged_share": 0.1}
    values |= {f"rehearsal/rate/{k:02d}": rate for k, rate in enumerate(rates)}
    values |= {f"rehearsal/true_rate/{k:02d}": rate for k, rate in enumerate(true)}
    names = ["step", *values, "val/new/accuracy", "val/prior/accuracy"]
    names += [f"rehearsal/rows/{k:02d}" for k in range(len(rows))]
    lines = [",".join(names)]
    for place, step in enumerate(STEPS):
        so_far = [str(of_bin[place]) for of_bin in rows]
        lines.append(",".join([str(step), *map(str, values.values()), "", "", *so_far]))
        accuracies = f"{of.new_accuracy * step / 29},{of.prior_accuracy}"
        lines.append(f"{step},{',' * len(values)}{accuracies}{',' * len(rows)}")
    (folder / METRICS).parent.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).write_text("\n".join(lines) + "\n")
    (folder / ".hydra").mkdir(exist_ok=True)
    (folder / ".hydra" / "config.yaml").write_text(
        f"data:\n  shift: rot90\n  seed: ${{seed}}\nmix_ratio: 0.25\nseed: {of.seed}\n"
        f"strategy:\n  _target_: {strategy or of.name.split('<')[0]}\n"
    )


def write_sweep(folder, names=tuple(PRIOR), *, seeds=SEEDS):
    """One run per method and seed; the one called mixcd has bins, and true rates beside the estimates."""
    for place, name in enumerate(names):
        for seed in range(seeds):
            of = record(name, seed, PRIOR.get(name, 0.8) + 0.01 * seed + 0.001 * place, 0.9 - 0.01 * place)
            write_run(folder / f"run{place}-{seed}", of, **(BINS if name == "mixcd" else {}))
    return folder
