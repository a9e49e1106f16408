"""Pure functions: every formula of the library lives here once, without state and without Lightning.

* `calibration`: damage rates of two partitions at once.
* `collateral`: damaged samples, counts per bin, rates, the probabilities that mix-cd draws bins with.
* `drift`: how features drift, by ridge regression on sums that fade.
* `sampling`: a draw's quota per bin, a bin's endless shuffled order in constant memory, weighted choice.
* `flips`: retention, forgetting and flip rates from two columns of correctness.
* `flow`: weights of finetune samples by the base model's loss.
* `projection`: gradients turned until they point against no reference.
* `joining`: rows of a pool batch appended to a finetune batch of any structure.
* `knn_shapley`: what each sample is worth to a k-nearest-neighbour classifier.
* `task_matrix`: scores of a model that learns one task after another.
* `tolerance`: rows that count as right because their loss has hardly risen.
* `matching_pursuit`: few vectors that together stand for a target.
"""

from lightning_mixcd.functional.collateral import beta_mean, bin_counts, bin_probabilities
from lightning_mixcd.functional.joining import join, n_rows, take_rows
from lightning_mixcd.functional.knn_shapley import knn_shapley
from lightning_mixcd.functional.matching_pursuit import matching_pursuit
from lightning_mixcd.functional.projection import project, project_to_cone
from lightning_mixcd.functional.sampling import choose_bins, permute

__all__ = [
    "beta_mean",
    "bin_counts",
    "bin_probabilities",
    "choose_bins",
    "join",
    "knn_shapley",
    "matching_pursuit",
    "n_rows",
    "permute",
    "project",
    "project_to_cone",
    "take_rows",
]
