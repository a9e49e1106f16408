"""The finetune order: every sample once per epoch, and a function of seed and place alone."""

import itertools
import random
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lightning_mixcd.data.order import OrderedFetch, ResumableOrder, resumable
from tests.toys import Toy, finetune, flat, trainer


class Ordered(pl.LightningDataModule):
    def __init__(self, *, seed=0, dataset=None, **settings):
        super().__init__()
        self.seed, self.dataset = seed, dataset or finetune()
        self.settings = {"batch_size": 7, "shuffle": True, **settings}

    def train_dataloader(self):
        return resumable(DataLoader(self.dataset, **self.settings), self.trainer, seed=self.seed)


def epochs(data, n_epochs=3, **settings):
    """The samples of each epoch in order."""
    module = Toy()
    trainer(max_epochs=n_epochs, **settings).fit(module, datamodule=data)
    steps = len(module.seen) // n_epochs
    return [flat(module.seen[e * steps : (e + 1) * steps]) for e in range(n_epochs)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_epoch_holds_every_sample_once_in_another_order(num_workers):
    orders = epochs(Ordered(num_workers=num_workers))
    assert all(sorted(order) == [*range(40)] for order in orders)
    assert all(a != b for a, b in itertools.combinations([*orders, [*range(40)]], 2))
    assert orders == epochs(Ordered())


def test_seed_decides():
    assert epochs(Ordered(seed=1)) == epochs(Ordered(seed=1))
    found = [epochs(Ordered(seed=seed)) for seed in range(3)]
    # No epoch of one seed is an epoch of another: seeds next to each other share nothing.
    flat = [order for orders in found for order in orders]
    assert all(a != b for a, b in itertools.combinations(flat, 2))


def test_global_random_state_does_not_decide():
    pl.seed_everything(1, verbose=False)
    one = epochs(Ordered())
    pl.seed_everything(2, verbose=False)
    assert epochs(Ordered()) == one


def test_sequence_stays_sequence():
    assert epochs(Ordered(shuffle=False)) == [[*range(40)]] * 3


def test_short_last_batch_is_kept_or_dropped():
    assert [len(order) for order in epochs(Ordered())] == [40] * 3
    assert [len(order) for order in epochs(Ordered(drop_last=True))] == [35] * 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_limited_epochs_hold_samples_once(num_workers):
    orders = epochs(Ordered(num_workers=num_workers), limit_train_batches=4)
    assert [len(set(order)) for order in orders] == [28] * 3
    assert len({tuple(order) for order in orders}) == 3


# Lightning says that it turns shuffling off, whatever the sampler.
@pytest.mark.filterwarnings(
    "ignore:You requested to overfit but enabled train dataloader shuffling:UserWarning"
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_overfitting_takes_the_same_batches_every_epoch(shuffle):
    assert epochs(Ordered(shuffle=shuffle), overfit_batches=2) == [[*range(14)]] * 3


@pytest.mark.parametrize("every", [1, 2])
def test_reloaded_loader_goes_on_with_the_next_epoch(every, tmp_path):
    whole = epochs(Ordered(), 5)
    assert epochs(Ordered(), 5, reload_dataloaders_every_n_epochs=every) == whole
    for n_steps in (8, 12):  # in an epoch, and at its end
        run = trainer(max_steps=n_steps, max_epochs=-1)
        run.fit(Toy(), datamodule=Ordered())
        run.save_checkpoint(tmp_path / "end.ckpt")
        module = Toy()
        run = trainer(max_steps=30, max_epochs=-1, reload_dataloaders_every_n_epochs=every)
        run.fit(module, datamodule=Ordered(), ckpt_path=tmp_path / "end.ckpt")
        assert flat(module.seen) == flat(whole)[n_steps // 6 * 40 + n_steps % 6 * 7 :]


def test_reloaded_loader_of_more_samples_gives_each_once_in_the_order_of_its_epoch():
    class Growing(Ordered):
        def train_dataloader(self):
            self.dataset = torch.utils.data.Subset(finetune(), range(10 + 10 * self.trainer.current_epoch))
            return super().train_dataloader()

    class Grown(Ordered):
        def train_dataloader(self):
            self.dataset = torch.utils.data.Subset(finetune(), range(30))
            return super().train_dataloader()

    def seen(data):
        module = Toy()
        trainer(max_epochs=3, reload_dataloaders_every_n_epochs=1).fit(module, datamodule=data)
        return module.seen

    growing = seen(Growing())
    assert [sorted(flat(steps)) for steps in (growing[:2], growing[2:5], growing[5:])] == [
        [*range(10)],
        [*range(20)],
        [*range(30)],
    ]
    assert growing[5:] == seen(Grown())[10:]


def test_epochs_that_the_module_cuts_short_share_out_the_samples():
    class Short(Toy):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 2 else None  # the third batch was fetched and is lost

    module = Short()
    trainer(max_epochs=4).fit(module, datamodule=Ordered())
    orders = [flat(module.seen[e * 4 : e * 4 + 4]) for e in range(2)]
    assert [len(step) for step in module.seen] == [7, 7, 7, 7] * 2
    assert all(len(set(order)) == 28 for order in orders)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    "settings", [{"max_steps": 4}, {"max_steps": 6}, {"max_steps": 9}, {"max_epochs": 2}]
)
def test_run_saved_after_its_end_goes_on_with_the_next_sample(settings, num_workers, tmp_path):
    whole = flat(epochs(Ordered(), 3))
    module = Toy()
    run = trainer(**{"max_epochs": -1, **settings})
    run.fit(module, datamodule=Ordered(num_workers=num_workers))
    run.save_checkpoint(tmp_path / "end.ckpt")
    trainer(max_steps=18, max_epochs=-1).fit(
        module, datamodule=Ordered(num_workers=num_workers), ckpt_path=tmp_path / "end.ckpt"
    )
    assert flat(module.seen) == whole


def test_second_fit_of_a_trainer_begins_an_epoch():
    for num_workers in (0, 2):
        module, run = Toy(), trainer(max_steps=4, max_epochs=-1)
        run.fit(module, datamodule=Ordered(num_workers=num_workers))
        run.fit_loop.epoch_loop.max_steps = 10
        run.fit(module, datamodule=Ordered(num_workers=num_workers))
        assert sorted(flat(module.seen[4:10])) == [*range(40)]


class Drawing(Dataset):
    """Adds noise from every global source."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        x, y = finetune()[index]
        noise = float(torch.rand(()) + random.random() + np.random.rand())  # noqa: NPY002
        return torch.cat([x[:-1] + noise, x[-1:]]), y


def noise(data, n_epochs=2):
    found = []

    class Keep(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            found.append((batch[0][:, 0] - finetune().tensors[0][batch[0][:, -1].long(), 0]).tolist())

    trainer(Keep(), max_epochs=n_epochs).fit(Toy(), datamodule=data)
    return flat(found)


def test_random_augmentation_depends_on_the_place_alone():
    pl.seed_everything(1, verbose=False)
    one = noise(Ordered(dataset=Drawing()))
    pl.seed_everything(2, verbose=False)
    assert noise(Ordered(dataset=Drawing(), num_workers=2)) == one
    assert len(set(one)) > 75  # of 80: another value for nearly every sample and epoch
    assert noise(Ordered(dataset=Drawing(), seed=1)) != one
    in_sequence = noise(Ordered(dataset=Drawing(), shuffle=False))
    assert not set(in_sequence[:40]) & set(in_sequence[40:])


def test_fetching_leaves_the_global_random_state_alone():
    states = random.getstate(), torch.get_rng_state()
    OrderedFetch(Drawing(), seed=0).__getitems__([1, 2])
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


def test_two_ranks_share_an_epoch():
    class Half:
        ckpt_path, train_dataloader, limit_train_batches = None, None, 1.0

        def __init__(self, rank, *, shared=True):
            self.distributed_sampler_kwargs = {"num_replicas": 2, "rank": rank}
            self._accelerator_connector = SimpleNamespace(use_distributed_sampler=shared)
            self.fit_loop = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu").fit_loop

    parts = [list(ResumableOrder(finetune(), Half(rank), batch_size=4)) for rank in range(2)]
    assert sorted(flat(parts)) == [*range(40)]
    # With `use_distributed_sampler=False` each rank has data of its own.
    alone = ResumableOrder(finetune(), Half(1, shared=False), batch_size=4)
    assert sorted(alone) == [*range(40)]


class OfItsOwn(DataLoader):
    def __iter__(self):
        return iter([next(super().__iter__())])


class Stream(IterableDataset):
    def __iter__(self):
        yield from finetune()


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(finetune(), batch_size=None),
        DataLoader(finetune(), batch_sampler=[[0, 1], [2]]),
        DataLoader(finetune(), 4, sampler=WeightedRandomSampler([1.0] * 40, 40)),
        DataLoader(finetune(), 4, sampler=RandomSampler(finetune(), replacement=True)),
        DataLoader(finetune(), 4, sampler=RandomSampler(finetune(), num_samples=20)),
        DataLoader(finetune(), 4, sampler=DistributedSampler(finetune(), 2, 0)),
        DataLoader(Stream(), 4),
        OfItsOwn(finetune(), 4),
        [DataLoader(finetune(), 4)],
        TensorDataset(torch.zeros(4)),
    ],
)
def test_loaders_of_another_kind_are_refused(loader):
    with pytest.raises(
        TypeError, match=r"`order_seed` needs one `DataLoader` with `batch_size`.*StatefulDataLoader"
    ):
        resumable(loader, trainer())


def test_settings_of_the_loader_are_kept():
    def collate(samples):
        return [torch.stack(part) for part in zip(*samples, strict=True)]

    def init(worker):
        """Kept."""

    loader = DataLoader(
        finetune(),
        4,
        num_workers=2,
        prefetch_factor=3,
        persistent_workers=True,
        collate_fn=collate,
        worker_init_fn=init,
        drop_last=True,
        timeout=9,
    )
    made = resumable(loader, trainer())
    for name in (
        "batch_size",
        "num_workers",
        "prefetch_factor",
        "persistent_workers",
        "worker_init_fn",
        "drop_last",
        "timeout",
    ):
        assert getattr(made, name) == getattr(loader, name)
    assert [part.tolist() for part in made.dataset.__getitems__([2, 5])] == [
        part.tolist() for part in collate([finetune()[2], finetune()[5]])
    ]
