import pytest
import torch

from lightning_mixcd import Ledger, MixCD, RehearsalCallback, RehearsalDataModule
from lightning_mixcd.record import record_ledger
from lightning_mixcd.tasks import TensorDataModule, TwoHeads
from tests.toys import trainer


def task(n_classes, *, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, n_classes, (60,), generator=generator)
    x = 3 * torch.nn.functional.one_hot(y, 6) + torch.randn(60, 6, generator=generator)
    data = torch.utils.data.TensorDataset(x, y)
    return TensorDataModule(data, data, batch_size=12)


NEW, PRIOR = task(2, seed=1), task(5, seed=2)


def model(**options):
    torch.manual_seed(0)
    return TwoHeads(n_inputs=6, n_new=2, n_prior=5, width=8, **options)


def accuracy(module, head, data):
    x, y = data.tensors
    with torch.no_grad():
        logits = module.heads[head](module.trunk(x))
    return float((logits.argmax(1) == y).float().mean())


@pytest.mark.parametrize("n_hidden", [0, 1, 3])
def test_each_step_trains_its_own_head_and_the_trunk(n_hidden):
    for step, own, other in (("training_step", "new", "prior"), ("rehearsal_step", "prior", "new")):
        module = model(n_hidden=n_hidden)
        x, y = NEW.train[:4]
        outputs = module.training_step((x, y), 0) if own == "new" else getattr(module, step)((x, y))
        assert outputs["logits"].equal(module.heads[own](module.trunk(x)))
        outputs["loss"].backward()
        assert all(p.grad is not None for p in [*module.heads[own].parameters(), *module.trunk.parameters()])
        assert all(p.grad is None for p in module.heads[other].parameters())


def test_ledger_is_of_the_prior_head(tmp_path):
    module = model()
    ledger = record_ledger(module, PRIOR.train, tmp_path / "base.ledger")
    assert Ledger.open(tmp_path / "base.ledger").correct.mean() == pytest.approx(
        accuracy(module, "prior", PRIOR.train)
    )
    assert ledger.size == 60


def test_rehearsal_keeps_the_prior_head_and_validation_measures_both(tmp_path):
    found = {}
    for ratio in (0.01, 1.0):
        module = model()
        record_ledger(module, PRIOR.train, tmp_path / f"{ratio}.ledger")
        data = RehearsalDataModule(
            NEW,
            PRIOR.train,
            mix_ratio=ratio,
            ledger=tmp_path / f"{ratio}.ledger",
            prior_val=PRIOR.val_dataloader(),
        )
        run = trainer(RehearsalCallback(MixCD()), max_epochs=30)
        run.fit(module, datamodule=data)
        for name, samples in (("new", NEW.train), ("prior", PRIOR.train)):
            measured = float(run.callback_metrics[f"val/{name}/accuracy"])
            assert measured == pytest.approx(accuracy(module, name, samples))
            found[name, ratio] = measured
    assert found["new", 1.0] > 0.9
    assert found["prior", 1.0] > found["prior", 0.01] + 0.1
