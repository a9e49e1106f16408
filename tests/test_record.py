"""Making a ledger: what is in it, what it costs, what becomes of it when it is interrupted."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from lightning_mixcd import Ledger, LedgerError, Pool, PoolError, Readout, record_ledger
from lightning_mixcd.probe import Probe
from lightning_mixcd.record import open_if_recorded, record_with
from tests.toys import N_POOL, Opening, Toy, base_state, network, plain_readings, pool


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network(dropout=0.5)
        self.net.load_state_dict(base_state())

    def forward(self, x):
        return self.net(x[:, :-1])


class Tokens(nn.Module):
    def forward(self, x, labels):
        return {"logits": x[..., None].expand(-1, -1, 3)}


@pytest.mark.parametrize("model", [Toy(dropout=0.5), Plain()])
@pytest.mark.parametrize("batch_size", [1, 7, 60, 256])
def test_ledger_holds_what_a_plain_loop_finds(model, batch_size, tmp_path):
    correct, loss = plain_readings(base_state(), pool())
    recorded = record_ledger(model, pool(), tmp_path / "l", batch_size=batch_size)
    assert recorded.columns == ("correct", "loss", "label")
    assert recorded.correct.tolist() == correct.tolist()
    assert recorded.loss.tolist() == pytest.approx(loss.tolist(), rel=1e-4, abs=1e-5)
    assert recorded.column("label").tolist() == pool().tensors[1].tolist()
    assert recorded.forwards == N_POOL
    recorded.verify_pool(pool())
    recorded.verify_model(model)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_only_workers_open_what_workers_read(num_workers, tmp_path):
    dataset = Opening()
    for _ in ("recorded", "opened again"):
        record_ledger(Toy(), Pool(dataset, num_workers=num_workers), tmp_path / "l")
    assert dataset.opened == (num_workers == 0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_ledger_of_another_pool_is_refused(num_workers, tmp_path):
    record_ledger(Toy(), pool(), tmp_path / "l")
    other = Subset(pool(), range(N_POOL)[::-1])
    with pytest.raises(LedgerError, match=r"^`pool` must be the one the ledger was made from, got another"):
        record_ledger(Toy(), Pool(other, num_workers=num_workers), tmp_path / "l")


@pytest.mark.parametrize("batch_size", [7, 256])
def test_one_forward_per_sample(batch_size, tmp_path):
    module = Toy()
    record_ledger(module, pool(), tmp_path / "l", batch_size=batch_size)
    assert module.rows_forwarded == N_POOL


def test_columns_are_kept(tmp_path):
    genres = np.array(["fiction", "travel"] * (N_POOL // 2))
    scores = torch.arange(2.0 * N_POOL).reshape(N_POOL, 2)
    columns = {"genre": genres, "scores": scores}
    recorded = record_ledger(Toy(), pool(), tmp_path / "l", columns=columns, batch_size=7)
    assert Ledger.open(tmp_path / "l").column("genre").tolist() == genres.tolist()
    assert recorded.column("scores").tolist() == scores.tolist()


@pytest.mark.parametrize("name", ["correct", "loss", "label", "logits"])
def test_columns_that_are_recorded_by_themselves_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=rf"`columns` must leave out .*, got \['{name}'\]"):
        record_ledger(Toy(), pool(), tmp_path / "l", columns={name: [0] * N_POOL}, keep=["logits"])
    assert not (tmp_path / "l").exists()


def test_missing_values_are_the_same_the_next_time(tmp_path):
    score = np.arange(1.0 * N_POOL)
    score[3] = np.nan
    first, again = (record_ledger(Toy(), pool(), tmp_path / "l", columns={"score": score}) for _ in range(2))
    assert np.array_equal(first.column("score"), again.column("score"), equal_nan=True)
    with pytest.raises(LedgerError, match="other values for 'score'"):
        record_ledger(Toy(), pool(), tmp_path / "l", columns={"score": np.nan_to_num(score)})


@pytest.mark.parametrize("values", [[1, 2, 3], 5.0])
def test_columns_of_another_length_are_refused(values, tmp_path):
    with pytest.raises(ValueError, match=r"one value per pool sample \(60\), 'genre' has shape"):
        record_ledger(Toy(), pool(), tmp_path / "l", columns={"genre": values})
    assert not (tmp_path / "l").exists()


def test_own_rule_with_losses_makes_a_ledger_without_labels(tmp_path):
    def rule(outputs, batch):
        return outputs["logits"][:, 0] > 0, outputs["logits"][:, 0].square()

    recorded = record_ledger(Toy(), pool(), tmp_path / "l", readout=Readout(correctness=rule))
    assert recorded.columns == ("correct", "loss")


def test_own_rule_without_losses_is_refused(tmp_path):
    readout = Readout(correctness=lambda outputs, batch: batch[1] == 0)
    with pytest.raises(LedgerError, match=r"needs the loss of each sample.*return \(correct, losses\)"):
        record_ledger(Toy(), pool(), tmp_path / "l", readout=readout)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_is_refused_by_its_index(bad, tmp_path):
    def rule(outputs, batch):
        return batch[1] == 0, torch.where(batch[0][:, -1] == 1037, bad, 1.0)

    with pytest.raises(ValueError, match=r"loss.*37"):
        record_ledger(Toy(), pool(), tmp_path / "l", batch_size=8, readout=Readout(correctness=rule))


class BareLogits(Toy):
    """Leaves the loss to us; the row of one sample is broken."""

    def __init__(self, broken=0.0):
        super().__init__()
        self.broken = broken

    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0][:, :-1])
        logits[batch[0][:, -1] == 1037] += self.broken
        return {"logits": logits}


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused_by_their_index(broken, tmp_path):
    with pytest.raises(
        ValueError, match=r"`loss` of pool index 37 is nan, but must be finite.* mend that sample"
    ):
        record_ledger(BareLogits(broken), pool(), tmp_path / "l", batch_size=8)


@pytest.mark.parametrize("label", [-100, -1, 3])
def test_label_that_is_no_class_is_refused_by_its_index(label, tmp_path):
    x, y = pool().tensors
    data = TensorDataset(x, y.where(x[:, -1] != 1037, label))
    with pytest.raises(ValueError, match=r"`loss` of pool index 37 is nan, .* or its label \(1 of 8"):
        record_ledger(BareLogits(), data, tmp_path / "l", batch_size=8)


class Holed(TensorDataset):
    """Some samples cannot be read, as long as that lasts."""

    holes = frozenset({37})

    def __getitem__(self, i):
        if i in self.holes:
            raise OSError(f"no file {i}")
        return super().__getitem__(i)


@pytest.mark.parametrize(("unreadable", "num_workers"), [("raise", 0), ("skip", 0), ("raise", 1)])
def test_sample_that_cannot_be_read_is_refused_by_its_index(unreadable, num_workers, tmp_path):
    holed = Holed(*pool().tensors)
    data = Pool(holed, unreadable=unreadable, num_workers=num_workers)
    with pytest.raises(PoolError, match=r"OSError\('no file 37'\) for pool index 37\. Mend"):
        record_ledger(Toy(), data, tmp_path / "l", batch_size=8)
    holed.holes = frozenset()
    made = record_ledger(Toy(), data, tmp_path / "l", batch_size=8)
    assert made.correct.tolist() == plain_readings(base_state(), pool())[0].tolist()
    # Once there is a ledger, a sample that gets lost is a matter of policy.
    holed.holes = frozenset({37})
    if unreadable == "skip":
        assert open_if_recorded(made, data) is made
    else:
        with pytest.raises(PoolError, match="for pool index 37"):
            open_if_recorded(made, data)


def test_finished_ledger_is_opened_at_no_cost(tmp_path):
    made = record_ledger(Toy(), pool(), tmp_path / "l", columns={"half": [0, 1] * 30})
    module = Toy()
    again = record_ledger(module, pool(), tmp_path / "l", columns={"half": [0, 1] * 30})
    assert again.correct.tolist() == made.correct.tolist()
    assert module.rows_forwarded == 0


def test_finished_ledger_of_something_else_is_refused(tmp_path):
    record_ledger(Toy(), pool(), tmp_path / "l", columns={"half": [0, 1] * 30})
    for module, data, columns, message in (
        (Toy(base=False), pool(), {}, "`module` must be the base model"),
        (Toy(), TensorDataset(*pool()[:50]), {}, "`pool` must be the one"),
        (Toy(), pool(), {"third": [0] * 60}, "`name` must be a column of the ledger"),
        (Toy(), pool(), {"half": [1, 0] * 30}, "`columns` must be those of the finished ledger"),
    ):
        with pytest.raises(LedgerError, match=message):
            record_ledger(module, data, tmp_path / "l", columns=columns)


def test_open_if_recorded(tmp_path):
    ours = Pool(pool())
    assert open_if_recorded(tmp_path / "none", ours) is None
    made = record_ledger(Toy(), ours, tmp_path / "l")
    assert open_if_recorded(str(tmp_path / "l"), ours).correct.tolist() == made.correct.tolist()
    assert open_if_recorded(made, ours) is made
    with pytest.raises(LedgerError, match="`pool` must be the one the ledger was made from"):
        open_if_recorded(made, Pool(TensorDataset(*pool()[:10])))


class Dying(Toy):
    """Fails in the middle of a recording; then counts what is left to do."""

    def __init__(self, dies_at_batch=None):
        super().__init__()
        self.dies_at_batch, self.n_batches, self.asked = dies_at_batch, 0, []

    def training_step(self, batch, batch_idx):
        self.n_batches += 1
        if self.n_batches == self.dies_at_batch:
            raise KeyboardInterrupt
        self.asked += (batch[0][:, -1] - 1000).int().tolist()
        return super().training_step(batch, batch_idx)


def test_interrupted_recording_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_mixcd.record.FLUSH_EVERY_N_BATCHES", 2)
    with pytest.raises(KeyboardInterrupt):
        record_ledger(Dying(dies_at_batch=7), pool(), tmp_path / "l", batch_size=6)
    with pytest.raises(LedgerError, match="is unfinished"):
        Ledger.open(tmp_path / "l")
    again = Dying()
    recorded = record_ledger(again, pool(), tmp_path / "l", batch_size=6)
    # Batches 0 to 5 were made, the first and the next four flushed; the first tells the columns again.
    assert again.asked == [*range(6), *range(30, 60)]
    assert recorded.correct.tolist() == plain_readings(base_state(), pool())[0].tolist()


def test_processes_are_told_that_the_first_one_cannot_record(tmp_path):
    record_ledger(Toy(), pool(), tmp_path / "l")
    told = []

    def first(tensors):
        told.append(tensors)
        return [tensors, tensors]

    def second(tensors):
        return [told.pop(0), tensors]

    def record(rank, gather_each):
        ranks = SimpleNamespace(size=2, rank=rank, gather_each=gather_each)
        record_with(Probe(Toy(), Pool(pool()), Readout(), ranks=ranks), tmp_path / "l")

    with pytest.raises(LedgerError, match="must not hold a finished ledger"):
        record(0, first)
    record(1, second)
    assert told == []


def test_logits_of_texts_of_several_lengths_are_refused(tmp_path):
    texts = [{"x": torch.ones(4 + i // 2), "labels": torch.zeros((), dtype=torch.int64)} for i in range(4)]
    token = Readout(correctness=lambda outputs, batch: (batch["labels"] == 0, outputs["logits"].mean((1, 2))))
    with pytest.raises(ValueError, match=r"`logits` must have shape \(2, 4, 3\), got \(2, 5, 3\).* one leng"):
        record_ledger(Tokens(), texts, tmp_path / "l", readout=token, keep=["logits"], batch_size=2)


def test_recording_of_something_else_is_not_continued(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        record_ledger(Dying(dies_at_batch=4), pool(), tmp_path / "l", batch_size=6)
    other = Toy()
    nn.init.zeros_(other.net[0].bias)
    with pytest.raises(LedgerError, match=r"interrupted recording .* is of something else"):
        record_ledger(other, pool(), tmp_path / "l", batch_size=6)


def plain_features(x):
    net = network()
    net.load_state_dict(base_state())
    with torch.no_grad():
        return net[:3](x[:, :-1]), net(x[:, :-1])


@pytest.mark.parametrize(("keep", "dtype"), [(("features", "logits"), "float16"), ("wide", "float32")])
def test_features_and_logits_are_kept(keep, dtype, tmp_path, capsys):
    keep = {"features": dtype, "logits": dtype} if keep == "wide" else keep
    recorded = record_ledger(Toy(dropout=0.5), pool(), tmp_path / "l", keep=keep, batch_size=7)
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == "float16" else {"rtol": 1e-5, "atol": 1e-6}
    for name, expected in zip(("features", "logits"), plain_features(pool().tensors[0]), strict=True):
        assert recorded.column(name).dtype == dtype
        np.testing.assert_allclose(recorded.column(name), expected.numpy(), **tolerance)
    size = sum(recorded.column(name).nbytes for name in recorded.columns)
    assert f"({size / 1e6:,.1f} MB)" in capsys.readouterr().err
    again = record_ledger(Toy(dropout=0.5), pool(), tmp_path / "l", keep=keep)
    assert np.array_equal(again.column("features"), recorded.column("features"))


def test_finished_ledger_without_what_is_to_be_kept_is_refused(tmp_path):
    record_ledger(Toy(), pool(), tmp_path / "l", keep=["logits"])
    with pytest.raises(LedgerError, match=r"`keep` must be in the finished ledger.*\['features'\]"):
        record_ledger(Toy(), pool(), tmp_path / "l", keep=["features", "logits"])


def test_other_things_cannot_be_kept(tmp_path):
    with pytest.raises(ValueError, match=r"`keep` may hold .features. and .logits., got \['weights'\]"):
        record_ledger(Toy(), pool(), tmp_path / "l", keep=["weights"])
    assert not (tmp_path / "l").exists()


def test_logits_cannot_be_kept_where_there_are_none(tmp_path):
    class Ruled(Toy):
        def outputs(self, loss, logits):
            return {"loss": loss, "correct": logits[:, 0] > 0, "losses": logits[:, 0].square()}

    with pytest.raises(LedgerError, match="`logits` are to be kept, and the outputs have none"):
        record_ledger(Ruled(), pool(), tmp_path / "l", keep=["logits"])
    assert record_ledger(Ruled(), pool(), tmp_path / "f", keep=["features"]).column("features").shape[1] == 8


def test_feature_that_does_not_fit_is_refused_by_its_index(tmp_path):
    class Loud(Toy):
        def training_step(self, batch, batch_idx):
            hidden = self.net[:3](batch[0][:, :-1])
            hidden = hidden + 1e5 * (batch[0][:, -1:] == 1037)
            return {"logits": self.net[3](hidden)}

    with pytest.raises(ValueError, match=r"`features` of pool index 37 is .* record a wider type"):
        record_ledger(Loud(), pool(), tmp_path / "l", keep=["features"])


def plain_projection(k):
    """Of features, onto the directions that a singular value decomposition finds."""
    features = plain_features(pool().tensors[0])[0].double()
    v = torch.linalg.svd(features).Vh[:k]
    return features, features @ v.T @ v


def project(path, k, **settings):
    return record_ledger(Toy(), pool(), path, keep={"features": ("float32", k)}, batch_size=7, **settings)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_features_may_be_kept_as_coordinates_of_their_main_directions(k, tmp_path, capsys):
    made = project(tmp_path / "l", k)
    shown = capsys.readouterr().err
    ledger = Ledger.open(tmp_path / "l")
    features, projected = plain_projection(k)
    basis = ledger.basis("features")
    assert ledger.column("features").shape == (N_POOL, k)
    np.testing.assert_allclose(basis @ basis.T, np.eye(k), atol=1e-5)
    np.testing.assert_allclose(ledger.column("features") @ basis, projected, atol=1e-4)
    if k == 8:
        np.testing.assert_allclose(ledger.column("features") @ basis, features, atol=1e-4)
    assert made.basis("label") is None
    n_bytes = sum(np.load(file).nbytes for file in (tmp_path / "l").glob("*.npy"))
    assert f"({n_bytes / 1e6:,.1f} MB)" in shown


def test_directions_are_those_of_a_sample_that_is_spread_over_the_pool(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_mixcd.record.BASIS_SAMPLES", 20)
    module = Toy()
    keep = {"features": ("float32", 2)}
    basis = record_ledger(module, pool(), tmp_path / "l", keep=keep, batch_size=7).basis("features")
    sample = plain_features(pool().tensors[0])[0][::3]
    v = torch.linalg.svd(sample).Vh[:2]
    np.testing.assert_allclose(basis.T @ basis, v.T @ v, atol=1e-4)
    assert module.rows_forwarded == N_POOL


def test_interrupted_projection_goes_on_with_the_directions_it_was_begun_with(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_mixcd.record.FLUSH_EVERY_N_BATCHES", 1)
    monkeypatch.setattr("lightning_mixcd.record.BASIS_SAMPLES", 12)
    keep = {"features": ("float32", 3)}
    with pytest.raises(KeyboardInterrupt):
        record_ledger(Dying(dies_at_batch=7), pool(), tmp_path / "l", batch_size=6, keep=keep)
    begun = np.load(tmp_path / "l" / "features.basis.npy")
    # As another machine might, find others the second time.
    monkeypatch.setattr("lightning_mixcd.record.BASIS_SAMPLES", 6)
    made = record_ledger(Toy(), pool(), tmp_path / "l", batch_size=6, keep=keep)
    assert np.array_equal(made.basis("features"), begun)
    features = plain_features(pool().tensors[0])[0].numpy()
    np.testing.assert_allclose(made.column("features"), features @ begun.T, atol=1e-5)
    with pytest.raises(LedgerError, match=r"features as 3 coordinates, got None"):
        record_ledger(Toy(), pool(), tmp_path / "l", keep=["features"])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"features": ("float16", 9)}, "must ask for 1 to 8 coordinates of so many features, got 9"),
        ({"features": ("float16", 0)}, "must ask for 1 to 8 coordinates of so many features, got 0"),
        ({"logits": ("float16", 2)}, "features as coordinates, and logits only as they are"),
    ],
)
def test_other_coordinates_are_refused(keep, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        record_ledger(Toy(), pool(), tmp_path / "l", keep=keep)
    assert not (tmp_path / "l").exists()
