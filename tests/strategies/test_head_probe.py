"""Predictions that are right find the damage, useless ones do no harm."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader

from lightning_mixcd import (
    Ledger,
    LedgerError,
    Pool,
    Readout,
    RehearsalCallback,
    UniformCorrect,
    record_ledger,
)
from lightning_mixcd.ledger import LedgerWriter
from lightning_mixcd.partitions import ByColumn, ByLabel, Shuffled
from lightning_mixcd.strategies import HeadProbe, MixCD, ProbeMatching, _probing
from lightning_mixcd.strategies._calibration import N_BINS, margin_bins
from lightning_mixcd.types import Outcome
from tests.oracles.chance import fits
from tests.strategies.probing import D, N, World, generator, noise_probe, plain_bins, plain_margins
from tests.toys import N_CLASSES, Toy, base_state, finetune, flat, network, pool, rehearsed, trainer, weights


def test_margins_of_features_that_do_not_drift_are_those_of_the_model():
    world = World()
    assert torch.allclose(world.margins(), plain_margins(world), atol=1e-4)
    world.finetune(drift=False)
    assert torch.allclose(world.margins(), plain_margins(world), atol=1e-4)
    assert torch.equal((world.margins() < 0) & world.correct, world.damaged)


def test_bins_are_shares_of_the_candidates_whatever_the_size_of_margins():
    margins = torch.randn(3, 128, generator=generator())
    for scale in (1e-3, 1.0, 1e3):
        found = margin_bins(scale * margins + scale)
        assert found.tolist() == [plain_bins(draw) for draw in margins.tolist()]
        assert found[0].bincount().tolist() == [2, 2, 4, 8, 16, 16, 16, 32, 32]


def test_linear_drift_is_corrected_until_the_damaged_set_is_exact():
    world = World(halflife_steps=1e6)
    world.finetune()
    before = (((world.margins() < 0) & world.correct) ^ world.damaged).sum()
    for step in range(60):
        world.lesson(seed=step)
    wrong = ((world.margins() < 0) & world.correct) ^ world.damaged
    assert before > 20
    assert wrong.sum() <= 2
    assert plain_margins(world)[wrong].abs().amax() < 0.1 if wrong.any() else True


def test_draws_aim_at_damage_once_predictions_have_been_right():
    world = World(uniform_share=0.0, sharpness=4.0)
    world.finetune()
    shares = [float(world.damaged[world.lesson(seed=step)].float().mean()) for step in range(120)]
    rate = float(world.damaged.sum() / world.correct.sum())
    assert rate < 0.4
    assert np.mean(shares[-50:]) > 0.9


def test_useless_predictions_leave_draws_as_they_would_be_without():
    world = noise_probe(halflife_steps=1e4)
    world.finetune()
    rate = float(world.damaged.sum() / world.correct.sum())
    drawn = torch.cat([world.lesson(seed=step) for step in range(300)])[-1600:]
    found = float(world.damaged[drawn].float().mean())
    assert found == pytest.approx(rate, abs=0.05)
    # In the long run every sample comes about as often as any other.
    counts = np.bincount(drawn, minlength=N)[world.correct]
    assert (counts > 0).mean() > 0.9
    assert counts.max() < 5 * counts.mean()


def test_useless_predictions_with_a_partition_leave_the_draws_of_mixcd():
    by_genre = ByColumn("genre")
    world = noise_probe(partition=by_genre, sharpness=1.0, uniform_share=0.05, halflife_steps=1e4)
    world.finetune()
    for step in range(300):
        world.lesson(seed=step)
    mixcd = MixCD(partition=by_genre, floor=0.05)
    mixcd.setup(N, world.ledger, seed=0)
    seen = 1e6 * torch.ones(3)
    damaged = torch.stack([
        world.damaged[(world.genre == k) & world.correct].float().mean() for k in range(3)
    ])
    mixcd.estimator.update(damaged * seen, seen, steps=1)
    found, expected = (
        np.bincount(
            world.genre[
                torch.cat([s.draw(16, signal=s.signal(), generator=generator(k)) for k in range(200)])
            ],
            minlength=3,
        )
        / 3200
        for s in (world.probe, mixcd)
    )
    uniform = np.bincount(world.genre[world.correct], minlength=3) / int(world.correct.sum())
    assert np.abs(expected - uniform).max() > 0.2
    assert np.abs(found - expected).max() < 0.05


def test_useless_partition_leaves_draws_as_they_are_without():
    shares = []
    for partition in (None, Shuffled(ByColumn("genre"))):
        world = World(partition=partition, halflife_steps=1e4)
        world.finetune()
        hits = [float(world.damaged[world.lesson(seed=step)].float().mean()) for step in range(200)]
        shares.append(np.mean(hits[-100:]))
    assert shares[1] == pytest.approx(shares[0], abs=0.04)
    assert shares[0] > 2 * float(world.damaged.sum() / world.correct.sum())


def test_partition_must_be_one():
    with pytest.raises(TypeError, match="`partition` must be a `Partition`, got 'genre'"):
        HeadProbe(partition="genre")


def test_what_was_predicted_is_logged_beside_what_came():
    world, twin = (World(halflife_steps=float("inf")) for _ in range(2))
    world.finetune()
    predicted, seen = np.ones(N_BINS), np.full(N_BINS, 2.0)
    for step in range(30):
        margins = world.margins()
        for i, k in world.lesson_in_bins(twin, seed=step):
            predicted[k] += 1 / (1 + math.exp(margins[i]))
            seen[k] += 1
    metrics = world.probe.metrics()
    found = [float(metrics[f"predicted/{k:02d}"]) for k in range(N_BINS)]
    assert found == pytest.approx(list(predicted / seen), abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (HeadProbe, {"sharpness": 0.0}),
        *((kind, {"uniform_share": 1.0}) for kind in (HeadProbe, ProbeMatching)),
        *((kind, {"candidates_per_row": 1}) for kind in (HeadProbe, ProbeMatching)),
    ],
)
def test_uniform_where_asked_for(kind, settings):
    world = World(kind=kind, **settings)
    world.finetune()
    for step in range(20):
        world.lesson(seed=step)
    drawn = torch.cat([world.draw(seed=step) for step in range(400)])
    assert fits(np.bincount(drawn, minlength=N)[world.correct], np.ones(int(world.correct.sum())))


@pytest.mark.parametrize(
    ("kind", "settings", "aimed"), [(HeadProbe, {"sharpness": 4.0}, 0.15), (ProbeMatching, {}, 0.05)]
)
def test_rate_of_damage_is_counted_on_uniform_draws_only(kind, settings, aimed):
    world = World(kind=kind, uniform_share=0.5, halflife_steps=1e6, **settings)
    world.finetune()
    drawn = torch.cat([world.lesson(seed=step) for step in range(150)])
    rate = float(world.damaged.sum() / world.correct.sum())
    assert float(world.probe.metrics()["damage_rate"]) == pytest.approx(rate, abs=0.06)
    assert float(world.damaged[drawn].float().mean()) > rate + aimed
    assert world.correct[drawn].all()
    assert "damage_rate" not in World(kind=kind, uniform_share=0.0).probe.metrics()


def test_rates_are_the_share_damaged_of_what_was_drawn_from_each_bin():
    world, twin = (World(halflife_steps=float("inf")) for _ in range(2))
    world.finetune()
    damaged, seen = np.ones(N_BINS), np.full(N_BINS, 2.0)
    for step in range(30):
        for i, k in world.lesson_in_bins(twin, seed=step):
            damaged[k] += bool(world.damaged[i])
            seen[k] += 1
    metrics = world.probe.metrics()
    found = [float(metrics[f"rate/{k:02d}"]) for k in range(N_BINS)]
    assert found == pytest.approx(list(damaged / seen))
    assert world.probe.signal()[:N_BINS].tolist() == pytest.approx(found)


@pytest.mark.parametrize("kind", [HeadProbe, ProbeMatching])
def test_rows_are_counted_by_predicted_margin_from_the_start(kind):
    world, twin, resumed = (World(kind=kind, halflife_steps=2) for _ in range(3))
    world.finetune()
    expected = [0] * N_BINS
    for step in range(12):
        for _, k in world.lesson_in_bins(twin, seed=step):
            expected[k] += 1
    resumed.probe.load_state_dict(world.probe.state_dict())
    for probe in (world.probe, resumed.probe):
        metrics = probe.metrics()
        assert [int(metrics[f"rows/{k:02d}"]) for k in range(N_BINS)] == expected


@pytest.mark.parametrize("kind", [HeadProbe, ProbeMatching])
def test_all_that_was_learnt_fades_by_steps(kind):
    world = World(kind=kind, halflife_steps=10)
    world.finetune()
    for step in range(5):
        world.lesson(seed=step)
    before = world.probe.state_dict()
    nothing = Outcome(
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.bool),
        context=world.probe.context(torch.zeros(0, dtype=torch.int64)),
    )
    world.probe.update(world.probe.tally(nothing), steps=10)
    after = world.probe.state_dict()
    for name in ("damaged", "seen", "predicted_damaged", "predicted_seen", "own_sums", "sums"):
        assert before[name].any()
        assert torch.allclose(after[name], before[name] / 2)
    assert torch.allclose(after["errors"], before["errors"] / 16)
    assert torch.equal(after["rows"], before["rows"])


def aimed(**settings):
    """A world in which some bins have been seen to be damaged far more than others."""
    world = World(**settings)
    seen = torch.full((2, 1, N_BINS), 100.0)
    rates = torch.tensor([0.95, 0.9, 0.8, 0.3, 0.05, 0.03, 0.03, 0.02, 0.02])
    world.probe._calibration._observed.update((seen * rates).flatten(), seen.flatten(), steps=1)
    return world


# From few candidates some are nearly sure to be drawn, from many none is.
@pytest.mark.parametrize("importance", [0.5, 1.0])
@pytest.mark.parametrize("uniform_share", [0.1, 0.4])
@pytest.mark.parametrize(("n", "candidates_per_row"), [(3, 16), (32, 4), (64, 2)])
def test_importance_weights_undo_the_aim(importance, uniform_share, n, candidates_per_row):
    world = aimed(importance=importance, uniform_share=uniform_share, candidates_per_row=candidates_per_row)
    bins = torch.full((N,), N_BINS)
    bins[world.correct] = torch.tensor(plain_bins(world.margins()[world.correct].tolist()))
    share = bins[world.correct].bincount(minlength=N_BINS) / int(world.correct.sum())
    drawn, weighed = torch.zeros(2, 500, N_BINS)
    for step in range(len(drawn)):
        index = world.draw(n, step)
        drawn[step] = bins[index].bincount(minlength=N_BINS) / n
        weighed[step].index_add_(0, bins[index], world.probe.context(index)["weight"] / n)
    aim = drawn.mean(0) / share
    assert aim[0] > 1.4 > 0.8 > aim[-1]
    expected = share * aim ** (1 - importance)
    found, wanted = (
        torch.cat([of_bins, of_bins.sum(-1, keepdim=True)], -1) for of_bins in (weighed, expected)
    )
    error = found.std(0) / len(drawn) ** 0.5
    # Those of half importance go by chances that differ from draw to draw.
    assert ((found.mean(0) - wanted / expected.sum()).abs() < 4 * error + 0.2 * (1 - importance)).all()
    assert "weight" not in World().probe.context(index)


@pytest.mark.parametrize("importance", [0.5, 1.0])
def test_uniform_draws_are_not_weighed(importance):
    for draw in (
        {"candidates_per_row": 1},
        {"candidates_per_row": 1, "uniform_share": 0.5},
        {"uniform_share": 1.0},
    ):
        world = aimed(importance=importance, **draw)
        assert world.probe.context(world.draw(16))["weight"].tolist() == pytest.approx([1.0] * 16)


def test_whole_importance_keeps_the_mean_over_the_pool():
    world = World(importance=1.0, uniform_share=0.2)
    world.finetune()
    for step in range(100):
        world.lesson(seed=step)
    found = np.zeros((100, 2))
    for step in range(100):
        index = world.draw(n=16, seed=step)
        damaged = world.damaged[index]
        found[step] = (world.probe.context(index)["weight"] * damaged).mean(), damaged.float().mean()
    weighed, plain = found.mean(axis=0)
    rate = float(world.damaged.sum() / world.correct.sum())
    assert abs(weighed - rate) < 0.2 * abs(plain - rate)


def test_each_draw_of_a_round_is_weighed_by_itself():
    world = aimed(importance=1.0, candidates_per_row=4, uniform_share=0.0)
    draws = world.probe.draw_round(4, 8, signal=world.probe.signal(), generator=generator())
    assert draws.unique().numel() == draws.numel()
    sums = [float(world.probe.context(index)["weight"].sum()) for index in draws]
    assert all(4 < found < 16 for found in sums)
    assert len({*sums}) == 4


def test_rates_too_small_for_a_high_power_leave_the_highest_to_be_drawn():
    world = aimed(importance=1.0, uniform_share=0.0, sharpness=3000.0)
    index = world.draw(n=4)
    assert {*plain_bins(world.margins()[world.correct].tolist())} == {*range(N_BINS)}
    least = world.margins()[world.correct].sort().values[len(world.correct) // 32]
    assert (world.margins()[index] <= least).all()
    assert world.probe.context(index)["weight"].isfinite().all()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", [HeadProbe, ProbeMatching])
def test_features_that_overflowed_do_not_spoil_what_is_learnt_of_others(kind, broken):
    world = World(kind=kind, halflife_steps=1e6)
    world.base[np.flatnonzero(world.correct)[0]] = broken
    world.ledger = Ledger.from_arrays(
        world.correct, torch.ones(N), label=world.label, features=world.base.half(), genre=world.genre
    )
    world.probe.setup(N, world.ledger, seed=0)
    world.finetune()
    for step in range(60):
        world.lesson(seed=step)
    assert world.probe.metrics()["drift_error"] < 0.5
    assert all(value.isfinite().all() for value in world.probe.state_dict().values())


def test_number_of_uniform_samples_is_drawn_for_each_draw_by_itself():
    found = HeadProbe.n_uniform(4000, 5, 0.3, generator()).flatten().long()
    assert found.unique().tolist() == [1, 2]
    assert fits(found.bincount()[1:].numpy())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"candidates_per_row": 0}, "`candidates_per_row` must be at least 1, got 0"),
        ({"rank": 0}, "`rank` must be at least 1, got 0"),
        ({"uniform_share": 1.5}, r"`uniform_share` must be in \[0, 1\], got 1.5"),
        ({"importance": -0.1}, r"`importance` must be in \[0, 1\], got -0.1"),
        ({"sharpness": -1.0}, r"`sharpness` must be in \[0, inf\), got -1.0"),
        ({"sharpness": float("nan")}, r"`sharpness` must be in \[0, inf\), got nan"),
        ({"halflife_steps": 0.0}, r"`halflife_steps` must be in \(0, inf\], got 0.0"),
    ],
)
def test_arguments_out_of_range_are_refused(settings, expected):
    with pytest.raises(ValueError, match=expected):
        HeadProbe(**settings)


def test_what_is_missing_is_named():
    world = World()
    with pytest.raises(ValueError, match="`attach` must be called with the head"):
        HeadProbe().setup(N, world.ledger, seed=0)
    for columns, name in (({"label": world.label}, "features"), ({"features": world.base}, "label")):
        with pytest.raises(LedgerError, match=f"`ledger` must have a column `{name}`"):
            world.probe.setup(N, Ledger.from_arrays(world.correct, torch.ones(N), **columns), seed=0)
    narrow = Ledger.from_arrays(world.correct, torch.ones(N), label=world.label, features=world.base[:, 1:])
    with pytest.raises(
        ValueError, match=r"`features` of the ledger must be what the head takes.*of 5 numbers"
    ):
        world.probe.setup(N, narrow, seed=0)


def test_a_head_that_takes_more_than_features_is_refused():
    class Margin(nn.Linear):
        def forward(self, features, label):
            return super().forward(features) - one_hot(label, self.out_features)

    world = World()
    probe = HeadProbe()
    probe.attach(Margin(D, N_CLASSES))
    with pytest.raises(ValueError, match=r"all of it, .* argument: 'label'.* a function of them alone"):
        probe.setup(N, world.ledger, seed=0)


def test_samples_of_very_many_parts_are_counted_in_their_own():
    world, part = World(), torch.arange(N) % 40
    probe = HeadProbe(partition=ByColumn("part"), uniform_share=0.5)
    probe.attach(world.head)
    probe.setup(N, world.ledger.with_columns(part=part), seed=0)
    index = probe.draw(64, signal=probe.signal(), generator=generator())
    place = probe.context(index)["place"]
    assert torch.equal(place // N_BINS % 40, part[index])
    assert place.max() > 40 * N_BINS


def test_directions_are_found_all_over_a_large_pool(monkeypatch):
    monkeypatch.setattr(_probing, "BASIS_SAMPLES", 40)
    world = World()
    order = world.base[:, 0].argsort()
    columns = {"label": world.label[order], "features": world.base[order]}
    world.probe.setup(N, Ledger.from_arrays(world.correct[order], torch.ones(N), **columns), seed=0)
    mean = world.base[world.correct].mean(dim=0)
    assert float(world.probe.state_dict()["mean"][0]) == pytest.approx(float(mean[0]), abs=0.3)


def projected(world, k, folder):
    """A ledger of the world with features as k coordinates, and one with what these stand for."""
    basis = torch.linalg.svd(world.base).Vh[:k]
    coordinates, label = world.base @ basis.T, world.label
    columns = {"label": np.int64, "features": ("float32", (k,))}
    writer = LedgerWriter(
        folder, N, columns=columns, pool=None, model=None, bases={"features": basis.numpy()}
    )
    loss = torch.ones(N)
    writer.write(np.arange(N), correct=world.correct, loss=loss, label=label, features=coordinates)
    lifted = Ledger.from_arrays(world.correct, loss, label=label, features=coordinates @ basis)
    return writer.finish(forwards=N), lifted


@pytest.mark.parametrize("kind", [HeadProbe, ProbeMatching])
@pytest.mark.parametrize("k", [2, D])
def test_coordinates_of_features_are_as_good_as_what_they_stand_for(kind, k, tmp_path):
    ours, other = World(kind=kind, rank=2), World(kind=kind, rank=2)
    for world, ledger in zip((ours, other), projected(ours, k, tmp_path / "l"), strict=True):
        world.probe.setup(N, ledger, seed=0)
        world.finetune()
    for step in range(40):
        assert torch.equal(ours.lesson(seed=step), other.lesson(seed=step))
    assert torch.allclose(ours.margins(), other.margins(), atol=1e-4)
    assert torch.allclose(ours.probe.signal(), other.probe.signal(), atol=1e-4)


def test_all_coordinates_are_the_features_themselves(tmp_path):
    ours, plain = World(), World()
    ours.probe.setup(N, projected(ours, D, tmp_path / "l")[0], seed=0)
    for world in (ours, plain):
        world.finetune()
    for step in range(40):
        assert torch.equal(ours.lesson(seed=step), plain.lesson(seed=step))
    assert torch.allclose(ours.margins(), plain.margins(), atol=1e-3)


def test_head_on_few_coordinates_still_follows_drift(tmp_path):
    world = World(halflife_steps=1e6)
    world.probe.setup(N, projected(world, D - 1, tmp_path / "l")[0], seed=0)
    world.finetune()
    before = np.corrcoef(world.margins(), plain_margins(world))[0, 1]
    for step in range(60):
        world.lesson(seed=step)
    assert np.corrcoef(world.margins(), plain_margins(world))[0, 1] > max(before, 0.85)


def fit(strategy, folder, *, features="net.3", ckpt_path=None, callbacks=(), keep=None, **settings):
    if keep is not None:
        record_ledger(Toy(), pool(), folder / "l", keep=keep, readout=Readout(features=features))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Toy(lr=0.02)
        readout = Readout(features=features)
        callback = RehearsalCallback(
            strategy, pool=Pool(pool(), lag=2), ledger=folder / "l", mix_ratio=0.5, readout=readout
        )
        loader = DataLoader(finetune(), batch_size=8)
        trainer(callback, *callbacks, max_epochs=4, **settings).fit(module, loader, ckpt_path=ckpt_path)
    return module, callback


@pytest.mark.parametrize("kind", [HeadProbe, ProbeMatching])
def test_no_forward_of_the_model_is_spent(kind, tmp_path):
    runs = [fit(strategy, tmp_path / str(k)) for k, strategy in enumerate((kind(), UniformCorrect()))]
    assert runs[0][0].rows_forwarded == runs[1][0].rows_forwarded
    assert runs[0][1].compute_units == runs[1][1].compute_units


def test_callback_records_the_features_and_lets_the_probe_see_the_model(tmp_path):
    strategy = HeadProbe()
    module, _ = fit(strategy, tmp_path)
    ledger = Ledger.open(tmp_path / "l")
    with torch.random.fork_rng():
        net = network()
    net.load_state_dict(base_state())
    x, y = pool().tensors
    with torch.no_grad():
        assert np.allclose(ledger.column("features"), net[:3](x[:, :-1]), atol=1e-3)
        logits = module.net(x[:, :-1])
    signal = strategy.signal()
    predicted = strategy.margins(np.arange(len(y)), signal)
    true = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    assert np.corrcoef(predicted, true)[0, 1] > 0.7
    assert set(flat(rehearsed(module))) <= set(np.flatnonzero(ledger.correct).tolist())


# The checkpoint is named beside those of the whole run.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.parametrize(
    ("make", "keep"),
    [
        (partial(HeadProbe, importance=0.5, partition=ByLabel()), None),
        (ProbeMatching, None),
        (HeadProbe, {"features": ("float16", 3)}),
    ],
)
def test_resumed_run_goes_on_as_the_whole(make, keep, tmp_path):
    saved = ModelCheckpoint(tmp_path / "c", filename="{epoch}", save_top_k=-1)
    settings = {"callbacks": [saved], "enable_checkpointing": True, "keep": keep}
    whole, expected = fit(make(), tmp_path, **settings)
    resumed, got = fit(make(), tmp_path, ckpt_path=tmp_path / "c" / "epoch=0.ckpt", **settings)
    n = len(resumed.seen)
    assert 0 < n < len(whole.seen)
    assert resumed.seen == whole.seen[-n:]
    assert torch.equal(weights(resumed), weights(whole))
    assert torch.equal(got.strategy.signal(), expected.strategy.signal())


@pytest.mark.parametrize("kind", [HeadProbe, ProbeMatching])
def test_lessons_in_bfloat16_are_summed_in_float32(kind, tmp_path):
    strategy = kind()
    module, _ = fit(strategy, tmp_path, precision="bf16-mixed")
    state = strategy.state_dict()
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    assert 0 < float(strategy.metrics()["drift_error"]) < 1
    x, y = pool().tensors
    logits = module.net(x[:, :-1]).detach()
    true = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    assert np.corrcoef(strategy.margins(np.arange(len(y)), strategy.signal()), true)[0, 1] > 0.7


def test_rounded_features_teach_what_they_say():
    world = World()
    index = world.draw()
    now = (world.features[index] + 0.5).bfloat16()
    outcomes = [
        Outcome(index, torch.ones(8, dtype=torch.bool), context=world.probe.context(index), features=features)
        for features in (now, now.float())
    ]
    tallies = [world.probe.tally(outcome) for outcome in outcomes]
    assert tallies[0].dtype == torch.float32
    assert torch.equal(*tallies)


def test_whole_network_as_head_sees_all_there_is_to_see(tmp_path):
    module, callback = fit(HeadProbe(), tmp_path, features="net")
    x, y = pool().tensors
    logits = module.net(x[:, :-1].half().float()).detach()
    true = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    strategy = callback.strategy
    assert torch.allclose(strategy.margins(np.arange(len(y)), strategy.signal()), true, atol=1e-3)


def test_two_ranks_learn_what_one_would():
    one, two = World(), World()
    for step in range(10):
        outcomes = []
        for world in (one, two):
            index = world.draw(seed=step)
            right = world.head(world.features[index]).argmax(1) == world.label[index]
            features = world.features[index] + 0.5
            outcomes.append([
                Outcome(part, hit, context=world.probe.context(part), features=moved)
                for part, hit, moved in zip(index.split(3), right.split(3), features.split(3), strict=True)
            ])
        whole = Outcome(index, right, context=one.probe.context(index), features=features)
        one.probe.update(one.probe.tally(whole), steps=1)
        two.probe.update(sum(two.probe.tally(part) for part in outcomes[1]), steps=1)
        assert torch.allclose(one.probe.signal(), two.probe.signal(), atol=1e-4)
        assert torch.equal(one.draw(seed=99), two.draw(seed=99))
