"""One of the processes of `test_screening_ddp.py`; writes down what it saw."""

import json
import os
import warnings

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from lightning_mixcd import MIR, LastLayerInfluence, Pool, RehearsalCallback, ScreenDamaged
from tests.integration.launching import joined
from tests.integration.test_screening import Trained
from tests.toys import finetune, ledger, pool, trainer, weights

SCREENS = {"mir": MIR, "last layer": LastLayerInfluence, "damaged": ScreenDamaged}


def fit(name):
    pl.seed_everything(1, verbose=False)
    module, counted = Trained(dropout=0.3), []
    module.net[0].register_forward_hook(lambda _layer, _inputs, output: counted.append(len(output)))
    module.net[-1].register_full_backward_hook(lambda _layer, _, output: counted.append(2 * len(output[0])))
    callback = RehearsalCallback(SCREENS[name](), pool=Pool(pool(), lag=2), ledger=ledger(), mix_ratio=0.5)
    trainer(callback, strategy="ddp", devices=2, max_epochs=2).fit(module, DataLoader(finetune(), 8))
    return {
        "seen": module.seen,
        "weights": weights(module).tolist(),
        "units": callback.compute_units,
        "counted": sum(counted),
    }


def main(folder):
    warnings.simplefilter("ignore")  # this is no test; the tests read what it writes
    with joined(2, folder / "store"):
        found = {name: fit(name) for name in SCREENS}
    (folder / f"rank{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(found))
