"""The group `method`: all that a comparison compares, on one axis of a sweep."""

import copy
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from lightning_mixcd import NoRehearsal, RehearsalCallback
from lightning_mixcd.app.conf import conf_dir, make
from lightning_mixcd.app.methods import WITHOUT_REHEARSAL, methods
from lightning_mixcd.app.run import method_name
from lightning_mixcd.app.train import main  # noqa: F401 -- offers the methods
from tests.penalties.replay import full_ledger
from tests.toys import Toy, finetune, pool, trainer


def options(group):
    return {path.stem for path in Path(conf_dir(), group).glob("*.yaml")}


@pytest.fixture(scope="module")
def composed():
    def compose_with(*overrides):
        overrides = [*overrides, "hydra.runtime.output_dir=none"]
        config = compose("train", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return config

    with initialize_config_dir(conf_dir(), version_base="1.3"):
        yield compose_with


def test_every_strategy_penalty_and_weight_space_method_is_one():
    beside = (options("penalty") | options("weights")) - {"none"}
    with_uniform = {f"uniform+{name}" for name in beside}
    alone = {f"none+{name}" for name in (*WITHOUT_REHEARSAL, "wise_ft")}
    assert {*methods()} == options("strategy") | with_uniform | alone


@pytest.mark.slow
def test_method_is_what_the_report_calls_it_and_compare_all_has_what_it_needs(composed):
    left_out = composed("experiment=compare_all").hydra.sweeper.params.method
    assert left_out == "glob(*, exclude=[function,source_balanced,most_supportive,auto])"
    for name in methods():
        config = composed("experiment=compare_all", f"method={name}")
        assert method_name(config) == name
        missing = {key for key in OmegaConf.missing_keys(config) if not key.startswith("hydra")}
        assert missing == ({"strategy.function.path"} if name == "function" else set())


def test_methods_are_not_copied_with_the_store_and_stay_as_they_are():
    store = ConfigStore.instance()
    assert copy.deepcopy(store.repo)["method"] is store.repo["method"]
    store.load("method/uniform+kd.yaml").node.defaults.clear()
    assert store.load("method/uniform+kd.yaml").node == methods()["uniform+kd"]


def test_method_changes_nothing_else(composed):
    def plain(config):
        return {group: config[group] for group in config if group != "hydra"}

    assert plain(composed("method=uniform+kd")) == plain(composed("strategy=uniform", "penalty=kd"))
    assert plain(composed("method=uniform+ema")) == plain(composed("strategy=uniform", "weights=ema"))
    by_hand = composed("strategy=none", "wise_ft=[0,0.25,0.5,0.75]")
    assert plain(composed("method=none+wise_ft")) == plain(by_hand)


@pytest.mark.parametrize("name", sorted(options("penalty") - {"none"}))
def test_only_penalties_that_need_no_rehearsed_rows_are_offered_by_themselves(name, composed):
    made = make(composed(f"penalty={name}", "partition=single").penalty)
    if hasattr(made[name], "n_samples"):
        made[name].n_samples = len(pool())
    callback = RehearsalCallback(NoRehearsal(), pool=pool(), ledger=full_ledger(), penalties=made)
    fit = trainer(callback, limit_train_batches=1).fit
    if name in WITHOUT_REHEARSAL:
        fit(Toy(), DataLoader(finetune(), 8))
    else:
        with pytest.raises(ValueError, match="`strategy` must rehearse"):
            fit(Toy(), DataLoader(finetune(), 8))


@pytest.mark.parametrize(
    ("beside", "comes_to"),
    [
        (["strategy=none"], r"none\+kd"),
        (["penalty=none"], "uniform"),
        (["penalty=none", "weights=ema"], r"uniform\+ema"),
    ],
)
def test_method_with_another_in_its_place_is_refused(beside, comes_to, composed):
    with pytest.raises(ValueError, match=rf"`method` must .*got uniform\+kd .* make it {comes_to}\."):
        method_name(composed("method=uniform+kd", *beside))


def test_adapter_is_part_of_the_name_and_goes_with_every_method(composed):
    assert method_name(composed("strategy=mixcd", "adapter=lora")) == "mixcd+lora"
    assert method_name(composed("method=uniform+kd", "adapter=selective_lora")) == "uniform+kd+selective_lora"
    assert not any("lora" in name for name in methods())


def test_method_goes_with_more_of_the_same_and_with_a_name(composed):
    assert method_name(composed("method=uniform+kd", "weights=ema")) == "uniform+kd+ema"
    assert method_name(composed("method=uniform+kd", "strategy=mixcd", "name=mine")) == "mine"


@pytest.mark.parametrize(
    ("group", "one_of_them"), [("method", r"uniform\+kd"), ("experiment", "compare_all")]
)
def test_unknown_option_lists_those_that_exist(group, one_of_them, composed):
    with pytest.raises(MissingConfigException, match=one_of_them):
        composed(f"{group}=nonsense")
