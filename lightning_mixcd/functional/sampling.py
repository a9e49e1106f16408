"""Draws whose cost depends on what is drawn, never on the size of the pool."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["choose_bins", "choose_weighted", "permute", "stream_key"]

UInt64Array = npt.NDArray[np.uint64]

# Fewer than 12 rounds leave tiny ranges visibly uneven: the halves are then one or two bits wide. With wide
# halves four are enough to look random (Luby and Rackoff 1988).
N_ROUNDS, N_ROUNDS_WIDE, WIDE = 12, 6, 11
MASK = 2**64 - 1
WEYL = 0x9E3779B97F4A7C15


def choose_bins(
    probabilities: Tensor, capacities: Tensor, n: int, *, n_draws: int = 1, generator: torch.Generator
) -> Tensor:
    """Decide from which bin each sample of one or more draws comes.

    Samples fall into bins independently with the given probabilities; what a bin cannot hold within one draw
    falls into the others again.

    Args:
        probabilities: Probability of each bin, not negative, `(K,)`.
        capacities: Most samples that each bin can give to one draw, int64, `(K,)`; their sum is at least `n`.
        n: Samples per draw, at least 1.
        n_draws: Number of draws, D.
        generator: Source of chance, on the CPU.

    Returns:
        Bins in an order without meaning, int64, `(D, n)`.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> choose_bins(torch.tensor([1.0, 0.0]), torch.tensor([3, 9]), 5, generator=g)[0].bincount()
        tensor([3, 2])
    """
    weights, most = probabilities.double().numpy(), capacities.numpy()
    bins = np.zeros((n_draws, n), dtype=np.int64)
    if not weights.any():
        weights = most.astype(np.float64)
    if len(most) > 1:
        bins = _fall(weights, n_draws * n, generator).reshape(n_draws, n)
    for row in bins if most.min() < n else ():
        _spread(row, weights, most, generator)
    return torch.from_numpy(bins)


def _fall(weights: npt.NDArray[np.float64], n: int, generator: torch.Generator) -> npt.NDArray[np.int64]:
    edges = weights.cumsum()
    places = torch.rand(n, generator=generator, dtype=torch.float64).numpy() * edges[-1]
    # The product may round up to the last edge, beyond which there is no bin.
    last = weights.nonzero()[0][-1]
    bins: npt.NDArray[np.int64] = np.minimum(edges.searchsorted(places, side="right"), last)
    return bins


# Moves what does not fit, in place.
def _spread(
    row: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    most: npt.NDArray[np.int64],
    generator: torch.Generator,
) -> None:
    held = np.bincount(row, minlength=len(most))
    if (held <= most).all():
        return
    while (missing := int((held - np.minimum(held, most)).sum())) > 0:
        held = np.minimum(held, most)
        open_ = weights * (held < most)
        if not open_.any():
            open_ = (most - held).astype(np.float64)
        held += np.bincount(_fall(open_, missing, generator), minlength=len(most))
    order = torch.randperm(len(row), generator=generator).numpy()
    row[order] = np.repeat(np.arange(len(most)), held)


def choose_weighted(weights: Tensor, n: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose places of each row without replacement, one after the other in proportion to their weights.

    Clocks run at the speeds of the weights, and the first to ring are chosen (Efraimidis and Spirakis 2006).
    Given the time t at which the next would have rung, a place of weight w was chosen with probability
    `1 - exp(-w t)`; with its inverse as weight, sums over all places are estimated without bias ("rank
    conditioning", Cohen and Kaplan 2007).

    Args:
        weights: Above 0, and infinite for a place that must be chosen, of which there are at most `n` in a
            row; float64, `(D, m)`.
        n: Places per row, at most m.
        generator: Source of chance, on the CPU.

    Returns:
        Distinct places, those of infinite weight first, int64, `(D, n)`, and the times at which their clocks
        rang and, last, that of the next, t, float64, `(D, n + 1)`; t is infinite where all places are chosen.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> weights = torch.tensor([[1.0, 1.0, torch.inf, 1e-9]], dtype=torch.float64)
        >>> chosen, _ = choose_weighted(weights, 3, generator=g)
        >>> chosen.sort().values
        tensor([[0, 1, 2]])
    """
    times = torch.empty_like(weights).exponential_(generator=generator) / weights
    rang, chosen = times.topk(n, dim=1, largest=False)
    if n == weights.shape[1]:
        return chosen, nn.functional.pad(rang, (0, 1), value=torch.inf)
    return chosen, torch.cat([rang, times.kthvalue(n + 1, dim=1, keepdim=True).values], dim=1)


def permute(positions: npt.ArrayLike, size: int, key: int) -> npt.NDArray[np.int64]:
    """Look up places of a shuffled `range(size)` without making the whole of it.

    A Feistel network over the next power of two, walked until it lands inside (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains"): a bijection for every key, expected O(1) time and no memory
    per sample. The shuffling is good enough for sampling and not meant for cryptography.

    Args:
        positions: Places asked for, each in `[0, size)`, `(n,)`.
        size: Length of the shuffled range, at least 1.
        key: Which shuffle, in `[0, 2**64)`.

    Returns:
        The values at these places, int64, `(n,)`; distinct for distinct positions.

    Example:
        >>> sorted(permute(range(5), 5, key=7).tolist())
        [0, 1, 2, 3, 4]
    """
    values = np.array(positions, dtype=np.uint64)
    bits = max(2, (size - 1).bit_length())
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], bits, key)
        outside = values >= size
    return values.astype(np.int64)


def stream_key(*parts: int) -> int:
    """Hash whole numbers, such as a seed, a bin and a pass, into one 64-bit key.

    Args:
        parts: The numbers, in order.

    Returns:
        The key, in `[0, 2**64)`.

    Example:
        >>> stream_key(1, 2) == stream_key(2, 1)
        False
    """
    key = 0
    for part in parts:
        # Of NumPy, it would overflow.
        key = _scramble_int((key + int(part) * WEYL + WEYL) & MASK)
    return key


def _feistel(values: UInt64Array, bits: int, key: int) -> UInt64Array:
    """Return the images under a keyed bijection of `range(2**bits)`; the halves may differ by one bit."""
    low_bits, high_bits = bits // 2, bits - bits // 2
    for number in range(N_ROUNDS if bits < WIDE else N_ROUNDS_WIDE):
        # The halves swap places each round; for odd `bits` their widths swap with them.
        low, high = values & np.uint64(2**low_bits - 1), values >> np.uint64(low_bits)
        noise = _scramble(low ^ np.uint64((key + (number + 1) * WEYL) & MASK))
        high ^= noise & np.uint64(2**high_bits - 1)
        values = (low << np.uint64(high_bits)) | high
        low_bits, high_bits = high_bits, low_bits
    return values


def _scramble(x: UInt64Array) -> UInt64Array:
    """Return each word with its bits mixed (the finaliser of splitmix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _scramble_int(x: int) -> int:
    """Return what `_scramble` makes of one word, without making an array of it."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)
