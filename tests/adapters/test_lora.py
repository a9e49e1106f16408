"""Low-rank blocks of `peft` in any module: put in, trained, taken out, saved."""

import argparse
import copy
import importlib.util
from collections import OrderedDict

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import PeftModel
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader
from transformers.pytorch_utils import Conv1D

from lightning_mixcd import (
    ExactResume,
    HeadProbe,
    Ledger,
    LedgerError,
    MixCD,
    Pool,
    Readout,
    RehearsalCallback,
    RehearsalDataModule,
    Uniform,
    record_ledger,
)
from lightning_mixcd.adapters import LoRA
from lightning_mixcd.adapters._lora import blocks_of
from lightning_mixcd.strategies._head import Head
from tests.adapters.low_rank import CLASSES, Deep, fit, injected, inputs, same
from tests.tasks.tiny import network
from tests.toys import Finetune, Toy, finetune, ledger, pool, trainer

BLOCKS = [f"net.{k}" for k in (0, 2, 4, 6, 8)]


class Around(LightningModule):
    """A module around any network, which nobody trains."""

    def __init__(self, net):
        super().__init__()
        self.net = net


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        nn.Flatten(2),
        nn.Conv1d(4, 4, 5, stride=2),
        nn.Flatten(),
        nn.Linear(120, 3),
    )


def spread(module):
    """Give every block weights that do something."""
    with torch.no_grad():
        for number, block in enumerate(blocks_of(module).values()):
            for name, parameter in block.lora_B.named_parameters():
                generator = torch.Generator().manual_seed(number)
                assert "mixcd" in name
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("adapter", CLASSES)
@pytest.mark.parametrize(
    ("net", "x", "blocks"),
    [
        (convolutions(), torch.rand(2, 1, 8, 8), {"net.0", "net.2", "net.4"}),
        (network("sentences"), torch.arange(12).view(2, 6), 13),
        (network("causal"), torch.arange(12).view(2, 6), 8),
        (network("seq2seq"), None, None),
    ],
    ids=["convolutions", "bert", "gpt2", "t5"],
)
def test_module_is_exactly_as_it_was_until_a_block_learns(adapter, net, x, blocks):
    def outputs(module):
        ids = torch.arange(12).view(2, 6)
        with torch.no_grad():
            found = module.net(x) if x is not None else module.net(input_ids=ids, labels=ids)
        return found if isinstance(found, torch.Tensor) else found.logits

    callback = adapter(rank=2)
    module, base = injected(callback, Around(copy.deepcopy(net)).eval())
    found = blocks_of(module)
    assert torch.equal(outputs(module), outputs(base))
    if blocks is not None:
        assert {*found} == blocks or len(found) == blocks
    spread(module)
    changed = outputs(module)
    assert not torch.allclose(changed, outputs(base), atol=1e-2)
    callback.merge(module)
    torch.testing.assert_close(outputs(module), changed, rtol=1e-3, atol=1e-3)
    assert module.state_dict().keys() == base.state_dict().keys()


def test_layer_gets_what_the_paper_says():
    adapter = LoRA(rank=3, alpha=6)
    module, base = injected(adapter)
    spread(module)
    block = blocks_of(module)["net.2"]
    a, b = block.lora_A["mixcd"].weight, block.lora_B["mixcd"].weight
    assert (a.shape, b.shape) == ((3, 8), (8, 3))
    x = torch.rand(5, 8)
    expected = x @ (base.net[2].weight + 6 / 3 * b @ a).T + base.net[2].bias
    torch.testing.assert_close(module.net[2](x), expected)


def test_blocks_follow_from_the_seed_alone():
    def state(seed):
        module, before = Deep(), torch.random.get_rng_state()
        injected(LoRA(seed=seed), module)
        assert torch.equal(before, torch.random.get_rng_state())
        return module.state_dict()

    assert same(state(0), state(0))
    assert not same(state(0), state(1))


@pytest.mark.parametrize("adapter", CLASSES)
def test_blocks_and_head_are_all_that_learns(adapter):
    module = Deep()
    module.net.insert(2, nn.BatchNorm1d(8))
    module.net[2].running_mean.fill_(0.3)
    before = copy.deepcopy(module.state_dict())
    callback = adapter(at_end="merge", rank=2)
    # An own blank copy, because a module is plain again when it is merged.
    kept = adapter(rank=2)
    twin = copy.deepcopy(module)
    fit(twin, kept)
    fit(module, callback)
    after = module.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"net.{k}.weight" for k in (0, 3, 5, 7, 9, 11)} | {"net.11.bias"}
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(part.training for part in module.modules())
    frozen = {name.replace("base_layer.", ""): value for name, value in twin.state_dict().items()}
    assert {name for name in before if not torch.equal(before[name], frozen[name])} == {
        "net.11.weight",
        "net.11.bias",
    }


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalisation_is_left_in_the_mode_that_it_was_in(training):
    module = Deep()
    module.net.insert(2, nn.BatchNorm1d(8).train(training))
    fit(module, LoRA(rank=2))
    assert module.net[2].training is training


def test_parameters_are_counted():
    adapter = LoRA(rank=2)
    fit(Deep(), adapter)
    # A and B of five layers, and the head.
    assert adapter.trainable_parameters == 2 * (4 + 8) + 4 * 2 * (8 + 8) + 8 * 3 + 3
    assert adapter.active_parameters == adapter.trainable_parameters


def test_fit_goes_on_with_the_blocks_that_are_there():
    module = Deep()
    fit(module, LoRA())
    names, bottom = [*module.state_dict()], blocks_of(module)["net.0"].lora_B["mixcd"].weight
    before = bottom.detach().clone()
    fit(module, LoRA())
    assert [*module.state_dict()] == names
    assert not torch.equal(before, bottom)


@pytest.mark.parametrize("second", CLASSES)
def test_two_adapters_are_refused(second):
    with pytest.raises(ValueError, match=rf"`callbacks` must hold one .*'LoRA', '{second.__name__}'\]"):
        fit(Deep(), LoRA(), second())


@pytest.mark.parametrize("settings", [{"rank": 4}, {"alpha": 3}])
def test_fit_with_other_settings_than_those_of_the_blocks_is_refused(settings):
    module, _ = injected(LoRA(rank=2, alpha=2))
    with pytest.raises(
        ValueError, match=r"`rank` and `alpha` must be those .*\(2, 2\.0\).* `merge` the blocks"
    ):
        injected(LoRA(**{"rank": 2, **settings}), module)


@pytest.mark.parametrize("adapter", CLASSES)
def test_peft_loads_what_was_saved(adapter, tmp_path):
    callback, module = adapter(rank=2, alpha=3), Deep()
    base = copy.deepcopy(module.net)
    fit(module, callback)
    spread(module)
    # Rank and alpha are those of the blocks, whoever saves them.
    adapter().save(module, tmp_path, part="net")
    found = PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(found(inputs()), module.net(inputs()))
    # It is merged there too.
    torch.testing.assert_close(found.merge_and_unload()(inputs()), module.net(inputs()))


def test_peft_tells_the_head_from_layers_whose_names_end_like_it(tmp_path):
    net = nn.Sequential(OrderedDict(pre_head=nn.Linear(4, 4), head=nn.Linear(4, 3)))
    adapter = LoRA(rank=2)
    module, base = injected(adapter, Around(net))
    spread(module)
    adapter.save(module, tmp_path, part="net")
    found = PeftModel.from_pretrained(base.net, tmp_path)
    torch.testing.assert_close(found(inputs()), module.net(inputs()))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("at_end", ["keep", "prune", "merge"])
@pytest.mark.parametrize("adapter", CLASSES)
def test_checkpoints_resume_and_load(adapter, at_end, tmp_path):
    def run(module, *callbacks, ckpt_path=None, **settings):
        few = {} if adapter is LoRA else {"sparsity": 0.6, "warmup_steps": 3, "most_active": 0.5}
        callbacks = [adapter(at_end=at_end, **few), RehearsalCallback(Uniform()), ExactResume(), *callbacks]
        data = RehearsalDataModule(Finetune(), Pool(pool(), lag=2), mix_ratio=0.5, order_seed=3)
        made = trainer(*callbacks, max_epochs=2, **settings)
        made.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return made

    whole, keep = Deep(), ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    made = run(whole, keep, enable_checkpointing=True)
    for step in (2, 7):
        resumed = Deep()
        run(resumed, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert same(whole.state_dict(), resumed.state_dict())
    expected = whole.net(inputs())
    # The last one, into the trained module, and into one that was never trained.
    for module in (whole, Deep()):
        made.validate(module, DataLoader(finetune(), 8), ckpt_path=tmp_path / "step=10.ckpt", verbose=False)
        torch.testing.assert_close(module.net(inputs()), expected)
        assert bool(blocks_of(module)) is (at_end != "merge")
        assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("first", ["adapter", "rehearsal"])
@pytest.mark.parametrize("adapter", CLASSES)
@pytest.mark.parametrize("recorded", [True, False])
def test_ledger_of_the_base_model_stays_valid(adapter, first, recorded, tmp_path):
    if recorded:
        record_ledger(Toy(), pool(), tmp_path)
    rehearsal = RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path)
    callbacks = [adapter(), rehearsal]
    fit(Toy(), *callbacks[:: 1 if first == "adapter" else -1])
    # What is recorded at the start of `fit` is of the base model.
    Ledger.open(tmp_path).verify_model(Toy())


def test_ledger_is_not_of_a_module_whose_blocks_have_learnt(tmp_path):
    record_ledger(Toy(), pool(), tmp_path)
    module = Toy()
    fit(module, LoRA(heads=()))
    with pytest.raises(LedgerError, match="architecture"):
        fit(module, LoRA(heads=()), RehearsalCallback(Uniform(), pool=pool(), ledger=tmp_path))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"rank": 0}, r"`rank` must be at least 1 .* got 0"),
        ({"alpha": 0.0}, r"`alpha` positive, got .* 0\.0"),
        ({"at_end": "drop"}, r"`at_end` must be one of .*'merge'.* got 'drop'"),
    ],
)
def test_bad_arguments_are_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        LoRA(**settings)


def odd():
    tied, inner, twice = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    inner.weight = tied.weight
    return Around(
        nn.ModuleDict({
            "norm": nn.LayerNorm(4),
            "attention": nn.MultiheadAttention(4, 2),
            "grouped": nn.Conv2d(4, 4, 3, groups=2),
            "tied": tied,
            "tied_too": nn.ModuleDict({"inner": inner}),
            "twice": twice,
            "again": nn.ModuleDict({"inner": twice}),
            "normed": parametrizations.weight_norm(nn.Linear(4, 4)),
            "pruned": prune.identity(nn.Linear(4, 4), "weight"),
            "good": nn.Linear(4, 4),
            "head": nn.Linear(4, 2),
        })
    )


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"heads": ["head", "net.good"]}, r"`heads` must name submodules, got \['head'\].*'net.head'"),
        ({"targets": ["norm", "good"]}, r"`targets` must .*got `net.norm` \(LayerNorm\)\."),
        ({"targets": ["attention"]}, r"`net.attention` \(MultiheadAttention\)"),
        ({"targets": ["out_proj"]}, r"`net.attention.out_proj` \(part of nn.MultiheadAttention\)"),
        ({"targets": ["grouped"]}, r"`net.grouped` \(with groups"),
        ({"targets": ["tied"]}, r"`net.tied` \(weight shared with another layer\)"),
        ({"targets": ["twice"]}, r"`net.twice` \(put into the module twice\)"),
        ({"targets": ["normed"]}, r"`net.normed` \(with a weight that is computed\)"),
        ({"targets": ["pruned"]}, r"`net.pruned` \(with a weight that is computed\)"),
        ({"targets": ["od"]}, r"`targets` must match .*\['od'\] and none of \['net.good'\]"),
        ({"targets": ["head"]}, r"outside of the heads"),
    ],
)
def test_layers_that_cannot_be_adapted_are_named(settings, rule):
    with pytest.raises(ValueError, match=rule):
        LoRA(**settings).setup(None, odd(), "fit")


def test_one_name_needs_no_list():
    module, _ = injected(LoRA(targets="net.2", heads="net.10"))
    assert [*blocks_of(module)] == ["net.2"]


def test_module_without_layers_yet_is_told_why():
    with pytest.raises(ValueError, match="Make layers in `__init__`"):
        LoRA().setup(None, Around(nn.ReLU()), "fit")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_blocks_of_others_are_refused():
    module = Around(network("sentences", lora={"r": 2, "target_modules": ["query"]}))
    with pytest.raises(ValueError, match=r"must not have low-rank blocks yet, got those .*layer\.0.*query'"):
        LoRA().setup(None, module, "fit")


@pytest.mark.parametrize("config", [None, {"lr": 0.1}, argparse.Namespace(lr=0.1)])
def test_configurations_of_the_users_do_not_matter(config):
    module = Deep()
    module.config = config
    injected(LoRA(), module)
    assert [*blocks_of(module)] == BLOCKS


def test_a_missing_library_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-mixcd\[lora\]'"):
        injected(LoRA())


def test_a_head_that_shares_its_weight_is_not_trained():
    module = Around(network("causal"))
    adapter = LoRA()
    adapter.setup(None, module, "fit")
    assert {name for name, parameter in module.named_parameters() if parameter.requires_grad} == {
        name for name, _ in module.named_parameters() if ".lora_" in name
    }


def trained_in(module, adapter):
    injected(adapter, module)
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("part", ["net", "net.10"])
def test_another_name_for_a_part_changes_nothing(part):
    module = Deep()
    module.other = module.get_submodule(part)
    assert trained_in(module, LoRA()) == trained_in(Deep(), LoRA())


def test_head_may_be_named_by_any_of_its_names():
    module = Deep()
    module.other = module.net[10]
    assert trained_in(module, LoRA(heads=["other"])) == trained_in(Deep(), LoRA())


def test_head_is_the_same_once_blocks_are_in():
    # Those of the second layer have linear layers of their own, behind the head.
    module = Around(nn.ModuleDict({"head": nn.Linear(4, 2), "body": Conv1D(4, 4)}))
    first = trained_in(module, LoRA())
    assert first >= {"net.head.weight", "net.head.bias"}
    assert trained_in(module, LoRA()) == first


@pytest.mark.parametrize("adapter", CLASSES)
def test_blocks_in_an_encoder_of_torch_act_in_eval_mode(adapter):
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    module, _ = injected(adapter(heads=()), Around(encoder))
    spread(module)
    x, padded = inputs().view(4, 5, 4), torch.arange(5).expand(4, 5) > 3
    expected = module.net(x, src_key_padding_mask=padded)[:, :4]
    module.eval()
    with torch.no_grad():
        found = module.net(x, src_key_padding_mask=padded)[:, :4]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("adapter", CLASSES)
def test_head_with_a_block_is_a_head_as_a_whole(adapter):
    module, _ = injected(adapter(heads=()))
    spread(module)
    head = Head(Readout().head(module))
    logits = head(module.net[:-1](inputs()), head.parameters())
    torch.testing.assert_close(logits, module.net(inputs()))


def test_everything_is_let_go_after_an_exception():
    class Breaks(Toy):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("on purpose")

    module = Breaks()
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(module, LoRA())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_rehearsal_with_separate_readout_finds_the_head():
    held = Ledger.from_arrays(
        ledger().correct, ledger().loss, label=pool().tensors[1], features=torch.rand(60, 8).numpy()
    )
    callback = RehearsalCallback(
        HeadProbe(), pool=Pool(pool(), lag=1), ledger=held, readout=Readout(module="net.3"), mix_ratio=0.5
    )
    module = Toy()
    trainer(callback, LoRA()).fit(module, DataLoader(finetune(), 8))
    assert callback.compute_units > 0


@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalisation_of_a_head_learns(affine):
    module = Deep()
    module.net[10] = nn.Sequential(nn.BatchNorm1d(8, affine=affine), nn.Linear(8, 3))
    fit(module, LoRA(heads=["net.10"]))
    assert module.net[10][0].running_mean.any()
    assert module.net[10][0].num_batches_tracked == 5
