"""What a pool of N samples costs: time per draw, set-up, memory, disk; and whether it can be cut into shards.

For each N a ledger is made on disk, and each way to partition it gets a process of its own, so that memory is
that of this set-up alone. Memory is anonymous memory: pages of the ledger are the system's to drop. Times are
CPU time, but for recording, which waits for the disk.

    python benchmarks/pool_scale.py                            # N = 10^4 .. 10^8; needs 1.4 GB of disk
    python benchmarks/pool_scale.py --sizes 10_000 1_000_000
    python benchmarks/pool_scale.py --shards                   # the simulation of docs/design/011
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2_contingency

from lightning_mixcd import Ledger, MixCD
from lightning_mixcd.functional.sampling import stream_key
from lightning_mixcd.ledger import LedgerWriter
from lightning_mixcd.partitions import ByLabel, ByLossQuantile, Partition, Product
from lightning_mixcd.strategies._binned import Shuffles

SIZES = [10**4, 10**5, 10**6, 10**7, 10**8]
DRAW, POSITIONS, WARM_UP, TIMED = 32, 10, 50, 400
WRITTEN_ROWS = 1 << 18
PARTITIONS: dict[str, Callable[[], Partition]] = {
    "loss quantile": ByLossQuantile,
    "label": ByLabel,
    "label x loss quantile": lambda: Product([ByLabel(), ByLossQuantile()]),
}


def make_ledger(path: Path, n: int) -> float:
    """Record a ledger of made-up values, chunk by chunk; return seconds."""
    rng, start = np.random.default_rng(0), time.perf_counter()
    writer = LedgerWriter(path, n, columns={"label": "int64"}, pool=None, model=None)
    for first in range(0, n, WRITTEN_ROWS):
        rows = np.arange(first, min(first + WRITTEN_ROWS, n))
        loss = rng.exponential(0.3, len(rows)).astype(np.float32)
        # Half of the losses are equal, as those of a confident model are.
        loss[rng.random(len(rows)) < 0.5] = 0.0
        label = rng.integers(10, size=len(rows))
        writer.write(rows, correct=rng.random(len(rows)) < 0.9, loss=loss, label=label)
    writer.finish(forwards=n)
    return time.perf_counter() - start


def anonymous_bytes(process: int | str = "self") -> int:
    """Return the anonymous resident memory of a process, 0 once it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if "RssAnon" in line), 0)


def measure(path: str, partition: str) -> dict[str, float]:
    """Open, set up and draw; the whole life of a child process."""
    torch.set_num_threads(1)
    set_up(Ledger.from_arrays([True] * 100, [0.1] * 100, label=[0, 1] * 50), partition)
    found: dict[str, float] = {"before": anonymous_bytes()}
    start = time.process_time()
    ledger = Ledger.open(path)
    found["open"] = time.process_time() - start
    start = time.process_time()
    strategy = set_up(ledger, partition)
    found["set-up"] = time.process_time() - start
    found["after"] = anonymous_bytes()
    seconds = draw_times(strategy)
    return found | {"median": statistics.median(seconds), "mean": statistics.mean(seconds)}


def set_up(ledger: Ledger, partition: str) -> MixCD:
    """Return mix-cd, ready to draw."""
    strategy = MixCD(partition=PARTITIONS[partition]())
    strategy.setup(ledger.size, ledger, seed=0)
    return strategy


def draw_times(strategy: MixCD) -> list[float]:
    """Time draws, with the look-up of their bins, at places all over the pool."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    seconds = []
    for _ in range(POSITIONS):
        strategy.load_draw_state(torch.from_numpy(rng.integers(3 * strategy.sizes.numpy())))
        for turn in range(WARM_UP + TIMED):
            start = time.process_time()
            strategy.context(strategy.draw(DRAW, signal=strategy.signal(), generator=generator))
            if turn >= WARM_UP:
                seconds.append(time.process_time() - start)
    return seconds


def measure_apart(path: Path, partition: str) -> dict[str, float]:
    """Run `measure` in a fresh process and watch its memory from outside."""
    command = [sys.executable, __file__, "--measure", str(path), partition]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while child.poll() is None:
        peak = max(peak, anonymous_bytes(child.pid))
        time.sleep(0.002)
    said, _ = child.communicate()
    if child.returncode:
        sys.exit(child.returncode)
    return {**json.loads(said), "peak": peak}


def scale(sizes: Iterable[int], folder: str | None) -> None:
    """Print a row per size and partition."""
    print(
        "| N | partition | record, s | open, s | set-up, s | draw, us: median (mean) | set-up peak, MB "
        "| resident, MB | disk, bytes per sample |\n|---|---|---|---|---|---|---|---|---|"
    )
    for n in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / "base.ledger"
            recording = make_ledger(path, n)
            disk = sum(file.stat().st_size for file in path.iterdir()) / n
            for partition in PARTITIONS:
                found = measure_apart(path, partition)
                memory = (megabytes(found[when] - found["before"], n) for when in ("peak", "after"))
                print(
                    f"| {n:,} | {partition} | {recording:.2g} | {found['open']:.2g} | {found['set-up']:.2g} "
                    f"| {found['median'] * 1e6:.0f} ({found['mean'] * 1e6:.0f}) | {' | '.join(memory)} "
                    f"| {disk:.1f} |",
                    flush=True,
                )


def megabytes(n_bytes: float, n: int) -> str:
    """Return megabytes and, where constants do not drown them, bytes per sample."""
    return f"{n_bytes / 1e6:.1f}" + (f" = {n_bytes / n:.2f} per sample" if n >= 10**7 else "")


class Shards:
    """A pool in S parts, each with shuffles of its own: the state is a count per shard and bin.

    The next sample of a bin comes from a shard drawn in proportion to what each has left of the bin in this
    pass; with `remaining=False`, in proportion to what it has in all.
    """

    def __init__(self, bins: list[Any], n_bins: int, *, seed: int, remaining: bool = True) -> None:
        self.parts = [Shuffles(part, n_bins, seed=stream_key(seed, s)) for s, part in enumerate(bins)]
        self.first = np.cumsum([0, *map(len, bins)]).tolist()
        self.sizes = np.array([part.sizes for part in self.parts])
        self.read = np.zeros_like(self.sizes)
        self.remaining = remaining
        self.rng = np.random.default_rng(seed)

    def take(self, bin_: int, n: int) -> list[int]:
        """Return the next `n` distinct samples of a bin."""
        taken: dict[int, None] = {}
        while len(taken) < n:
            left = self.sizes[:, bin_] - self.read[:, bin_] * self.remaining
            if not left.any():
                self.read[:, bin_] = 0
                continue
            edges = left.cumsum()
            shard = int(edges.searchsorted(self.rng.integers(edges[-1]), side="right"))
            self.read[shard, bin_] += 1
            taken[self.first[shard] + self.parts[shard].take(bin_, 1)[0]] = None
        return list(taken)


def schemes(parts: list[Any], n_bins: int, seed: int) -> dict[str, Shuffles | Shards]:
    """Return one pool, and the same in shards by either rule."""
    return {
        "one pool": Shuffles(np.concatenate(parts), n_bins, seed=seed),
        "shards, by what is left": Shards(parts, n_bins, seed=seed),
        "shards, by size": Shards(parts, n_bins, seed=seed, remaining=False),
    }


def simulate(n_seeds: int = 6000) -> None:
    """Compare shards with one pool: the law of whole histories, and how evenly samples come."""
    histories: dict[str, Counter[Any]] = {}
    for seed in range(n_seeds):
        # Five samples in shards of two and three, three draws of two: the third crosses into the next pass.
        tiny = schemes([np.zeros(2, dtype=np.int8), np.zeros(3, dtype=np.int8)], 1, seed)
        for name, scheme in tiny.items():
            history = tuple(frozenset(scheme.take(0, 2)) for _ in range(3))
            histories.setdefault(name, Counter())[history] += 1
    rng = np.random.default_rng(0)
    parts = [rng.choice(10, size=rng.integers(50, 600), p=rng.dirichlet(np.ones(10))) for _ in range(64)]
    bins = np.concatenate(parts)
    print(f"{len(parts)} shards, {len(bins):,} samples, 10 bins, 3,000 draws of {DRAW}\n")
    print("| scheme | same histories as one pool, p | visits, most - fewest in a bin | draw, us |")
    print("|---|---|---|---|")
    for name, scheme in schemes(parts, 10, seed=0).items():
        p_value = f"{same_law(histories['one pool'], histories[name]):.2g}" if name != "one pool" else ""
        spread, seconds = visits(scheme, bins)
        print(f"| {name} | {p_value} | {spread} | {seconds * 1e6:.0f} |")


def same_law(one: Counter[Any], other: Counter[Any]) -> float:
    """Return the p-value of two samples of histories coming from one law."""
    seen = sorted({*one, *other}, key=str)
    return float(chi2_contingency([[counts[history] for history in seen] for counts in (one, other)]).pvalue)


def visits(scheme: Shuffles | Shards, bins: Any) -> tuple[int, float]:
    """Return the largest spread of visits among the samples of a bin, and seconds per draw."""
    rng, q = np.random.default_rng(0), np.bincount(bins) * np.arange(1, 11)
    visited, start = np.zeros(len(bins), dtype=np.int64), time.process_time()
    for quotas in rng.multinomial(DRAW, q / q.sum(), size=3000):
        for bin_, quota in enumerate(quotas.tolist()):
            visited[scheme.take(bin_, quota)] += 1
    seconds = (time.process_time() - start) / 3000
    return max(int(np.ptp(visited[bins == bin_])) for bin_ in range(10)), seconds


def main() -> None:
    """Print the table asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument(
        "--folder", help="where the ledgers are made; the system's temporary folder if left out"
    )
    parser.add_argument("--shards", action="store_true")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
    elif arguments.shards:
        simulate()
    else:
        scale(arguments.sizes, arguments.folder)


if __name__ == "__main__":
    main()
