"""Metrics of what finetuning did to the base model, and of what it cost.

Each compares, sample by sample, whether the base model was right (as the ledger tells) with whether the
model is right now. All are `torchmetrics` metrics: they sum over batches and processes, and can be
handed to `self.log` or put in a `MetricCollection`. Each rate has a twin in
`lightning_mixcd.functional.flips`.

| metric | is | better |
|---|---|---|
| `CollateralDamageRate` | base right and now wrong, of base right | low |
| `Retention` | base right and now right, of base right | high |
| `NegativeFlipRate` | base right and now wrong, of all | low |
| `PositiveFlipRate` | base wrong and now right, of all | high |
| `Forgetting` | base accuracy minus accuracy now | low |
| `ComputeUnits` | sample-forwards + 2 x sample-backwards | low |

To write your own rate, subclass `FlipMetric`.

These follow a model through several tasks, by its accuracy on task j after stage i; their twins are in
`lightning_mixcd.functional.task_matrix`. Own ones subclass `TaskMatrixMetric`.

| metric | is | better |
|---|---|---|
| `FinalAccuracy` | mean over tasks after the last stage | high |
| `MeanAccuracy` | mean over tasks and stages | high |
| `TransferAccuracy` | mean over tasks before they are learnt | high |
| `StageForgetting` | best after an earlier stage, minus at the end | low |
| `BackwardTransfer` | at the end, minus when the task was learnt | high |
| `ForwardTransfer` | just before the task is learnt, minus before the first stage | high |

Example:
    >>> import torch
    >>> from torchmetrics import MetricCollection
    >>> metrics = MetricCollection([CollateralDamageRate(), Forgetting()], prefix="pool/")
    >>> metrics.update(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, True]))
    >>> {name: value.item() for name, value in metrics.compute().items()}
    {'pool/CollateralDamageRate': 0.5, 'pool/Forgetting': -0.25}
"""

from lightning_mixcd.metrics.compute_units import ComputeUnits
from lightning_mixcd.metrics.flips import (
    CollateralDamageRate,
    FlipMetric,
    Forgetting,
    NegativeFlipRate,
    PositiveFlipRate,
    Retention,
)
from lightning_mixcd.metrics.task_matrix import (
    BackwardTransfer,
    FinalAccuracy,
    ForwardTransfer,
    MeanAccuracy,
    StageForgetting,
    TaskMatrixMetric,
    TransferAccuracy,
)

__all__ = [
    "BackwardTransfer",
    "CollateralDamageRate",
    "ComputeUnits",
    "FinalAccuracy",
    "FlipMetric",
    "Forgetting",
    "ForwardTransfer",
    "MeanAccuracy",
    "NegativeFlipRate",
    "PositiveFlipRate",
    "Retention",
    "StageForgetting",
    "TaskMatrixMetric",
    "TransferAccuracy",
]
