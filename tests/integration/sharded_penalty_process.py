"""One of the processes of `test_sharded_penalty.py`; writes down where its weights went."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard

from lightning_mixcd.errors import CaptureError
from lightning_mixcd.penalties import EWC, L2SP
from tests.integration.launching import joined
from tests.penalties.starting import fit
from tests.toys import Toy


class Sharded(Toy):
    def configure_model(self) -> None:
        for layer in (self.net[0], self.net[3]):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def run(penalty: Any, **settings: Any) -> tuple[Any, Any]:
    module = Sharded()
    strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)
    # The same rows on both: weights as of one process.
    fit(module, penalty, devices=2, strategy=strategy, use_distributed_sampler=False, **settings)
    state = {name: value.tolist() for name, value in penalty.state_dict().items()}
    return [p.full_tensor().tolist() for p in module.parameters()], state


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # this is no test; the tests read what it writes
    with joined(2, folder / "store"):
        found: dict[str, Any] = {}
        fitted = L2SP(0.5)
        run(fitted, save=folder / "first.ckpt")
        found["loss"] = fitted.metrics()["loss"].item()
        found["whole"] = run(L2SP(0.5), max_epochs=2)
        found["resumed"] = run(L2SP(0.5), max_epochs=2, ckpt_path=folder / "first.ckpt")
        try:
            run(EWC(n_samples=5))
        except CaptureError as error:
            found["refused"] = str(error)
    (folder / f"rank{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(found))
