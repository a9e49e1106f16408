"""Adapters: a few parameters that are trained in place of the module's own.

* `LoRA` — a low-rank block beside each layer.
* `SelectiveLoRA` — the same, where the data decide which layers keep theirs.
* `DIKI` — an attention branch per task, open where a sample looks like the task.
"""

from lightning_mixcd.adapters.base import Adapter
from lightning_mixcd.adapters.diki import DIKI
from lightning_mixcd.adapters.lora import LoRA
from lightning_mixcd.adapters.selective_lora import SelectiveLoRA

__all__ = ["DIKI", "Adapter", "LoRA", "SelectiveLoRA"]
