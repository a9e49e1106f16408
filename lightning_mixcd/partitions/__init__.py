"""Partitions: which bin each pool sample is in.

mix-cd learns one damage rate per bin, so bins should gather samples that are forgotten together: by class, by
genre or source, by how hard the base model found them, by clusters of features, or by products of these. To
write your own, subclass `Partition` and put it through `lightning_mixcd.testing.check_partition`.
"""

from lightning_mixcd.partitions.base import Partition
from lightning_mixcd.partitions.by_cluster import ByCluster
from lightning_mixcd.partitions.by_column import ByColumn, ByLabel
from lightning_mixcd.partitions.by_loss_quantile import ByLossQuantile
from lightning_mixcd.partitions.product import Product
from lightning_mixcd.partitions.shuffled import Shuffled
from lightning_mixcd.partitions.single import Single

__all__ = [
    "ByCluster",
    "ByColumn",
    "ByLabel",
    "ByLossQuantile",
    "Partition",
    "Product",
    "Shuffled",
    "Single",
]
