"""Blocks with scores: what acts, what is learnt, what is left at the end."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_mixcd import MixCD, Pool, RehearsalCallback
from lightning_mixcd.adapters import LoRA, SelectiveLoRA
from lightning_mixcd.adapters._lora import blocks_of
from lightning_mixcd.adapters._lora_scores import Scores
from tests.adapters.low_rank import Deep, fit, injected, inputs, same
from tests.tasks.tiny import network
from tests.toys import Listed, OnBatchEnd, Toy, ledger, pool, rehearsed

N = 5  # blocks of `Deep`
BLOCKS = [f"net.{k}" for k in (0, 2, 4, 6, 8)]


def learnt(**settings):
    """A module whose blocks all do something, its base, and the adapter."""
    adapter = SelectiveLoRA(**{"sparsity": 0.0, "rank": 2, **settings})
    module, base = injected(adapter)
    fit(module, adapter, max_epochs=2)
    assert all(block.lora_B["mixcd"].weight.abs().min() > 0 for block in blocks_of(module).values())
    return module, base, adapter


def set_scores(module, *scores):
    with torch.no_grad():
        module.mixcd_scores.scores.copy_(torch.tensor(scores))


def plain_outputs(module, x, factors):
    """Outputs where each block's part is multiplied by a number, the obvious way, with a graph."""
    blocks = blocks_of(module)
    for number, name in enumerate(BLOCKS):
        layer, block = blocks[name].base_layer, blocks[name]
        a, b = block.lora_A["mixcd"].weight, block.lora_B["mixcd"].layer.weight
        x = torch.tanh(layer(x) + factors[number] * (x @ a.T) @ b.T)
    return module.net[-1](x)


def test_without_acting_blocks_it_is_the_base_model_bit_for_bit():
    module, base, _ = learnt(heads=())
    assert not torch.equal(module.net(inputs()), base.net(inputs()))
    set_scores(module, *[0.0999] * 6)
    assert torch.equal(module.net(inputs()), base.net(inputs()))


@pytest.mark.parametrize("scores", [[0.15] * N, [0.15, 0.05, 0.1, 0.0999, -1.0]])
def test_acting_blocks_act_in_full_and_others_not_at_all(scores):
    module, _, _ = learnt()
    set_scores(module, *scores)
    factors = [float(score >= 0.1) for score in scores]
    torch.testing.assert_close(module.net(inputs()), plain_outputs(module, inputs(), factors))


@pytest.mark.parametrize("scores", [[0.15] * N, [0.15, 0.05, 0.1, 0.0999, -1.0], [0.0] * N])
def test_gradient_goes_straight_through_the_indicator(scores):
    module, _, _ = learnt()
    set_scores(module, *scores)
    target = torch.arange(20) % 3
    module.zero_grad()
    cross_entropy(module.net(inputs()), target).backward()
    factors = torch.tensor([float(score >= 0.1) for score in scores], requires_grad=True)
    expected = torch.autograd.grad(cross_entropy(plain_outputs(module, inputs(), factors), target), factors)
    torch.testing.assert_close(module.mixcd_scores.scores.grad, expected[0])
    assert expected[0].abs().min() > 0
    # A block that is out learns nothing; one that is in does.
    grads = [b.lora_B["mixcd"].layer.weight.grad for b in blocks_of(module).values()]
    assert [bool(grad.any()) for grad in grads] == [bool(factor) for factor in factors]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.01])
def test_term_pulls_scores_as_its_gradient_does(accumulate, clip):
    """One optimizer step with and without it, against the term in the loss."""

    class WithTerm(Deep):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)["loss"]
            return loss + 0.14 * self.mixcd_scores.scores.relu().sum()

    states = []
    for kind, sparsity in ((Deep, 0.14), (WithTerm, 0.0)):
        module = kind()
        adapter = SelectiveLoRA(sparsity=sparsity, warmup_steps=0, start=0.2, most_active=1)
        settings = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
        injected(adapter, module)
        set_scores(module, 0.3, -0.2, 0.1, 0.0, 0.5)
        fit(module, adapter, max_steps=2, **settings)
        states.append(module.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], msg=lambda told, name=name: f"{name}: {told}")


def test_nothing_pulls_scores_before_the_warm_up_is_over():
    followed = []

    def note(trainer, module, outputs, batch):
        followed.append(module.mixcd_scores.scores.detach().clone())

    adapter = SelectiveLoRA(sparsity=20.0, warmup_steps=3)
    fit(Deep(), adapter, OnBatchEnd(note))
    free = SelectiveLoRA(sparsity=0.0)
    assert len(followed) == 5
    pulled, followed = followed, []
    fit(Deep(), free, OnBatchEnd(lambda trainer, module, *_: note(trainer, module, None, None)))
    for step in range(3):
        torch.testing.assert_close(pulled[step], followed[step])
    # lr x sparsity a step.
    torch.testing.assert_close(pulled[3] - pulled[2], torch.full((N,), -2.0), rtol=0.05, atol=0)


def test_a_block_that_is_out_comes_back():
    module, _, adapter = learnt(sparsity=0.0)
    set_scores(module, 0.15, 0.15, 0.0999, 0.15, 0.15)
    third, active = module.mixcd_scores, []
    fit(module, adapter, OnBatchEnd(lambda *_: active.append(third.active().tolist())), max_epochs=6)
    assert active[-1][2]
    assert all(active[-1])


def test_more_sparsity_leaves_fewer_blocks():
    shares = []
    for sparsity in (0.0, 0.02, 0.04, 1.0):
        adapter = SelectiveLoRA(sparsity=sparsity, warmup_steps=5, rank=2)
        fit(Deep(lr=0.3), adapter, max_epochs=8)
        shares.append(len(adapter.active_blocks))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == N
    assert shares[-1] == 0
    assert len({*shares}) > 2


@pytest.mark.parametrize("share", [0.05, 0.5, 0.8])
def test_no_more_blocks_act_than_asked_for(share):
    counts, module = [], Deep()
    adapter = SelectiveLoRA(sparsity=0.0, warmup_steps=3, most_active=share)

    def note(trainer, module, outputs, batch):
        scores = module.mixcd_scores
        counts.append(int(scores.active().sum()))
        best = scores.scores.argsort(descending=True)[: counts[-1]]
        assert {*best.tolist()} == {*scores.active().nonzero().flatten().tolist()}

    fit(module, adapter, OnBatchEnd(note), max_epochs=3)
    most = max(1, int(share * N))
    # Callbacks act in their order: from the step that ends the warm-up on, the bar is raised.
    assert counts[:2] == [N, N]
    assert counts[2:] == [most] * 13
    assert len(adapter.active_blocks) == most
    # What is below the bar is out for good measure: weights are those of the base model there.
    expected, kept = module.net(inputs()), copy.deepcopy(module)
    adapter.merge(kept)
    base = Deep().state_dict()
    changed = {name for name, value in kept.state_dict().items() if not torch.equal(value, base[name])}
    assert changed == {*(f"{name}.weight" for name in adapter.active_blocks), "net.10.weight", "net.10.bias"}
    torch.testing.assert_close(kept.net(inputs()), expected)


def test_no_block_is_lost_to_rounding():
    n, share = 50, 0.58
    assert share * n < 29
    module, adapter = Deep(), SelectiveLoRA(most_active=share, warmup_steps=0)
    module.net = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(n)), torch.nn.Linear(4, 3))
    injected(adapter, module)
    set_scores(module, *(0.2 + k / 100 for k in range(n)))
    adapter.on_train_batch_end(SimpleNamespace(global_step=0), module, None, None, 0)
    assert len(adapter.acting(module)) == 29


def test_of_equal_scores_none_acts_where_not_all_may():
    scores = Scores(4, start=0.15, threshold=0.1)
    scores.raise_bar(4)
    assert scores.active().all()
    scores.raise_bar(3)
    assert not scores.active().any()
    scores.scores.data += torch.tensor([0.0, 1e-7, 0.0, 1e-3])
    scores.raise_bar(2)
    assert scores.active().tolist() == [False, True, False, True]
    scores.scores.data -= 0.1
    scores.raise_bar(2)
    assert not scores.active().any()


@pytest.mark.parametrize("scores", [[0.15] * N, [0.15, 0.05, 0.2, 0.0, -1.0], [0.0] * N])
def test_pruned_and_merged_modules_do_what_the_gated_one_did(scores, tmp_path):
    module, base, adapter = learnt()
    set_scores(module, *scores)
    gated = module.net(inputs())
    acting = [name for name, score in zip(BLOCKS, scores, strict=True) if score >= 0.1]
    assert adapter.acting(module) == acting
    merged = copy.deepcopy(module)
    adapter.prune(module)
    assert torch.equal(module.net(inputs()), gated)
    assert [*blocks_of(module)] == acting
    assert not any(".layer." in name or "scores" in name for name in module.state_dict())
    adapter.merge(merged)
    torch.testing.assert_close(merged.net(inputs()), gated)
    assert merged.state_dict().keys() == base.state_dict().keys()
    adapter.merge(module)
    assert same(module.state_dict(), merged.state_dict())


def test_blocks_that_are_out_are_not_saved(tmp_path):
    from safetensors.torch import load_file

    module, _, adapter = learnt()
    set_scores(module, 0.15, 0.05, 0.2, 0.0, -1.0)
    adapter.save(module, tmp_path)
    found = {name.partition(".lora_")[0] for name in load_file(tmp_path / "adapter_model.safetensors")}
    head = {f"base_model.model.net.10.{name}" for name in ("weight", "bias")}
    assert found == {"base_model.model.net.0", "base_model.model.net.4", *head}


def test_a_conv_and_a_transformer_train():
    from tests.adapters.test_lora import Around, convolutions

    class Trained(Around):
        def training_step(self, batch, batch_idx):
            x, y = batch
            if isinstance(self.net, torch.nn.Sequential):
                return cross_entropy(self.net(x[:, :1, None, None].expand(-1, 1, 8, 8)), y)
            return self.net(input_ids=x[:, :4].abs().long(), labels=y).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 0.01)

    for net in (convolutions(), network("sentences")):
        adapter, module = SelectiveLoRA(warmup_steps=1, sparsity=0.1, rank=2, at_end="merge"), Trained(net)
        names = module.state_dict().keys()
        fit(module, adapter)
        assert module.state_dict().keys() == names
        assert adapter.active_parameters < adapter.trainable_parameters


@pytest.mark.parametrize("scores", [[0.15] * N, [0.15, 0.05, 0.2, 0.0, -1.0]])
def test_what_acts_is_counted_and_named(scores, caplog):
    module = Deep(lr=0.0)
    adapter = SelectiveLoRA(sparsity=0.0, rank=2)
    injected(adapter, module)
    set_scores(module, *scores)
    with caplog.at_level("INFO"):
        fit(module, adapter)
    sizes = dict(zip(BLOCKS, [2 * (4 + 8), *[2 * (8 + 8)] * 4], strict=True))
    acting = [name for name, score in zip(BLOCKS, scores, strict=True) if score >= 0.1]
    assert adapter.active_blocks == tuple(acting)
    assert adapter.trainable_parameters == sum(sizes.values()) + 27 + N
    assert adapter.active_parameters == sum(sizes[name] for name in acting) + 27
    assert f"{len(acting)} of 5 blocks act: {', '.join(acting)}" in caplog.text


def optimizers(*parts):
    made = [torch.optim.SGD(part.parameters()) for part in parts]
    return SimpleNamespace(optimizers=made, callbacks=[])


def test_scores_that_no_optimizer_has_are_refused():
    adapter = SelectiveLoRA()
    module, base = injected(adapter)
    with pytest.raises(
        ValueError, match=r"all that SelectiveLoRA has added .* without \['mixcd_scores.scores'\]"
    ):
        adapter.on_train_start(optimizers(module.net), module)
    # One optimizer for each, none, or one with copies.
    for fine in ((module,), (module.net, module.mixcd_scores), (), (base,)):
        adapter.on_train_start(optimizers(*fine), module)


def test_what_another_adapter_has_added_may_be_left_out():
    module, _ = injected(SelectiveLoRA())
    adapter = LoRA()
    injected(adapter, module)
    adapter.on_train_start(optimizers(module.net), module)


def test_active_share_is_logged():
    log = Listed()
    adapter = SelectiveLoRA(sparsity=0.0, warmup_steps=2, most_active=0.4)
    fit(Deep(), adapter, logger=log, log_every_n_steps=1)
    assert log.values("adapter/active_share") == pytest.approx([1.0, 0.4, 0.4, 0.4, 0.4])


def test_rehearsal_aims_as_before_and_costs_no_forward_more():
    def run(*callbacks):
        module = Toy()
        rehearsal = RehearsalCallback(
            MixCD(), pool=Pool(pool(), lag=1), ledger=ledger(), mix_ratio=0.5, seed=1
        )
        fit(module, *callbacks, rehearsal, max_epochs=3)
        return module, rehearsal

    plain, alone = run()
    module, rehearsal = run(SelectiveLoRA(heads=(), warmup_steps=2))
    assert module.rows_forwarded == plain.rows_forwarded
    assert rehearsal.compute_units == alone.compute_units
    assert len(rehearsed(module)) == len(rehearsed(plain))
    # Where nothing is learnt, nothing is damaged, and draws are those of the base model all the same.
    assert rehearsed(module)[0] == rehearsed(plain)[0]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"sparsity": -1.0}, r"`sparsity` .* 0 or more, got -1\.0"),
        ({"warmup_steps": -1}, r"`warmup_steps` must be 0 or more, got .* -1"),
        ({"most_active": 0.0}, r"`most_active` must be in \(0, 1\], got 0\.0"),
        ({"most_active": 1.5}, r"got 1\.5"),
        ({"threshold": 0.2}, r"`threshold` must be positive and at most `start`, got 0\.2 and 0\.15"),
        ({"threshold": 0.0}, r"`threshold` must be positive"),
        ({"rank": 0}, "`rank` must be"),
    ],
)
def test_bad_arguments_are_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        SelectiveLoRA(**settings)
