"""How many tokens padding costs, by the way rehearsed rows meet finetune rows.

    python benchmarks/padding.py nli_text spans translation mathword --data-dir /path/to/data

prints a row per pairing and way. Nothing is trained: batches are drawn from the lengths of the texts.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hydra import compose, initialize_config_dir

from lightning_mixcd.app.conf import conf_dir, make

Lengths = npt.NDArray[np.int64]  # of texts, or of batches of them, `(steps, rows)`


def lengths(data: str, folder: Path) -> dict[str, tuple[Lengths, Lengths]]:
    """Lengths of the finetune and of the pool texts of a pairing, by key."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        pairing = make(compose("train", [f"data={data}", f"data_dir={folder}"]).data)
    new, pool = pairing.new.train, pairing.pool.dataset
    # Models with a decoder read texts of both kinds.
    keys = ["input_ids", "labels"] if data == "translation" else ["input_ids"]
    return {key: (_lengths(new, key), _lengths(pool, key)) for key in keys}


def _lengths(rows: Sequence[Mapping[str, Any]], key: str) -> Lengths:
    return np.array([len(row[key]) for row in rows])


def shuffled(values: Lengths, steps: int, rows: int, rng: np.random.Generator) -> Lengths:
    """Batches in epochs of another order each; what is left of one is dropped."""
    per_epoch = len(values) // rows
    epochs = [rng.permutation(values)[: per_epoch * rows] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(epochs).reshape(-1, rows)[:steps]


def grouped(batches: Lengths, n: int) -> Lengths:
    """The rows of each `n` batches, sorted by length and dealt to these batches."""
    steps, rows = batches.shape
    return np.sort(batches.reshape(-1, n * rows), axis=1).reshape(steps, rows)


def ways(new: Lengths, pool: Lengths, group: int, rng: np.random.Generator) -> Iterator[tuple[str, int]]:
    """Tokens that are computed, padding included, by the name of a way."""

    def joined(new: Lengths, pool: Lengths) -> int:
        longest = np.maximum(new.max(1), pool.max(1))
        return int((longest * (new.shape[1] + pool.shape[1])).sum())

    def apart(new: Lengths, pool: Lengths) -> int:
        return int((new.max(1) * new.shape[1] + pool.max(1) * pool.shape[1]).sum())

    yield "no padding", int(new.sum() + pool.sum())
    yield "two batches", apart(new, pool)
    yield "joined", joined(new, pool)
    for n in (4, 32):
        yield f"joined, pool rows of {n} draws by length", joined(new, grouped(pool, n))
    mixed = grouped(new, group)[rng.permutation(len(new))]
    yield "joined, finetune rows by length", joined(mixed, pool)
    yield "joined, finetune rows and pool rows of 4 draws by length", joined(mixed, grouped(pool, 4))
    yield "two batches, finetune rows by length", apart(mixed, pool)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="+", help="names of pairings, as in `data=`")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--mix-ratio", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=3200)
    arguments = parser.parse_args()
    for data in arguments.data:
        for key, (new, pool) in lengths(data, arguments.data_dir).items():
            rng = np.random.default_rng(0)
            batches = shuffled(new, arguments.steps, arguments.batch_size, rng)
            rehearsed = shuffled(
                pool, arguments.steps, round(arguments.mix_ratio * arguments.batch_size), rng
            )
            found = dict(ways(batches, rehearsed, 32, rng))
            print(f"{data}, {key}: {new.mean():.0f} tokens per finetune row, {pool.mean():.0f} per pool row")
            for way, tokens in found.items():
                share, ratio = 1 - found["no padding"] / tokens, tokens / found["two batches"]
                print(f"  {way:58s} padding {share:5.1%}  {ratio:.2f} times the tokens of two batches")


if __name__ == "__main__":
    main()
