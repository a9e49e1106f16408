"""Damage counted, estimated and turned into probabilities one sample or bin at a time, in plain Python."""

__all__ = ["bin_counts", "bin_probabilities", "decayed_rates"]


def bin_counts(bins: list[int], damaged: list[float], n_bins: int) -> list[list[float]]:
    counts = [[0.0] * n_bins, [0.0] * n_bins]
    for bin_, hurt in zip(bins, damaged, strict=True):
        counts[0][bin_] += hurt
        counts[1][bin_] += 1
    return counts


def bin_probabilities(rates: list[float], sizes: list[int], rule: str, floor: float) -> list[float]:
    """By what each single sample weighs: under the rate rule a bin's members share its rate."""
    samples = [bin_ for bin_, size in enumerate(sizes) for _ in range(size)]
    weight = [rates[bin_] / (1 if rule == "density" else sizes[bin_]) for bin_ in samples]
    total = sum(weight)
    probabilities = [0.0] * len(sizes)
    for bin_, w in zip(samples, weight, strict=True):
        aimed = w / total if total else 1 / len(samples)
        probabilities[bin_] += (1 - floor) * aimed + floor / len(samples)
    return probabilities


def decayed_rates(
    observations: list[tuple[float, int, bool]], now: float, n_bins: int, halflife: float, a: float, b: float
) -> list[float]:
    """Rates from (step, bin, damaged) of each sample, each of which has faded since its own step."""
    rates = []
    for k in range(n_bins):
        damaged = seen = 0.0
        for step, bin_, hurt in observations:
            if bin_ == k:
                weight = 2.0 ** (-(now - step) / halflife)
                seen += weight
                damaged += weight * hurt
        rates.append((damaged + a) / (seen + a + b))
    return rates
