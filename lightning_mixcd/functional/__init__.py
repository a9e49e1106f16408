"""Pure functions: every formula of the library lives here once, without state and without Lightning.

* `collateral`: damaged samples, counts per bin, rates, the probabilities that mix-cd draws bins with.
* `sampling`: a draw's quota per bin, and a bin's endless shuffled order in constant memory.
* `flips`: retention, forgetting and flip rates from two columns of correctness.
* `joining`: rows of a pool batch appended to a finetune batch of any structure.
"""

from lightning_mixcd.functional.collateral import beta_mean, bin_counts, bin_probabilities
from lightning_mixcd.functional.joining import join, n_rows, take_rows
from lightning_mixcd.functional.sampling import choose_bins, permute

__all__ = [
    "beta_mean",
    "bin_counts",
    "bin_probabilities",
    "choose_bins",
    "join",
    "n_rows",
    "permute",
    "take_rows",
]
