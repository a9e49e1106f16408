"""Conformance suite: a part of your own, put through what every shipped part passes.

Each check drives the part over small pools as a training run would and raises an `AssertionError` that says
which rule was broken and how to keep it. Nothing here needs a test framework:

```python
def test_my_strategy():
    check_strategy(HardestFirst)
```
"""

from lightning_mixcd.testing.estimator import check_estimator
from lightning_mixcd.testing.partition import check_partition
from lightning_mixcd.testing.strategy import check_strategy
from lightning_mixcd.testing.toys import toy_ledgers

__all__ = ["check_estimator", "check_partition", "check_strategy", "toy_ledgers"]
