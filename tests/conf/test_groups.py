"""Every option of every group makes the object it promises."""

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException
from hydra.utils import get_class, get_method, instantiate
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

from lightning_mixcd.adapters import Adapter
from lightning_mixcd.app.conf import conf_dir, make
from lightning_mixcd.estimators import Estimator
from lightning_mixcd.partitions import Partition
from lightning_mixcd.penalties import Penalty
from lightning_mixcd.strategies import Strategy
from lightning_mixcd.tasks import Pairing, embedded_text

CONF = Path(conf_dir())
KINDS = {
    "strategy": Strategy,
    "schedule": Callable,
    "partition": Partition,
    "estimator": Estimator,
    "data": Pairing,
    "model": LightningModule,
    "trainer": Trainer,
    "logger": Logger,
}
# Values that an option leaves to the user.
NEEDED = {
    "partition=column": ["partition.column=genre"],
    "estimator=static": ["estimator.rates=[0.1,0.2]"],
    **{f"strategy={name}_memory": ["strategy.memory_size=10"] for name in ("gdumb", "gss", "herding")},
    "model=two_heads": ["model.n_new=2", "model.n_prior=3"],
    "strategy=function": ["strategy.function.path=torch.randperm"],
}
OPTIONS = [(group, path.stem) for group in KINDS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.fixture(autouse=True)
def embeddings_without_an_encoder(monkeypatch):
    """The real ones take minutes; what the data groups promise is the same."""
    monkeypatch.setattr(embedded_text, "embed", lambda texts, *_, **__: np.zeros((len(texts), 2)))


@pytest.fixture
def composed(tmp_path):
    def compose_with(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            overrides = [*overrides, f"hydra.runtime.output_dir={tmp_path}"]
            return compose("train", overrides=overrides, return_hydra_config=True)

    return compose_with


def test_each_group_has_options():
    assert {group for group, _ in OPTIONS} == set(KINDS)
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {
        *KINDS,
        "adapter",
        "callbacks",
        "experiment",
        "hydra",
        "penalty",
        "solver",
        "stages",
        "weights",
    }


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_makes_its_kind(composed, group, option):
    if option == "gpu":
        pytest.skip("Lightning refuses to make a GPU trainer where there is no GPU")
    config = composed(f"{group}={option}", *NEEDED.get(f"{group}={option}", []))
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(config)
    if group == "data" and option != "digits" and not Path(config.data_dir).is_dir():
        pytest.skip(f"there is no folder of data sets at {config.data_dir}; set MIXCD_DATA")
    assert isinstance(make(config[group]), KINDS[group])


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "penalty").glob("*.yaml")))
def test_penalty_is_made_under_its_name(composed, option):
    made = make(composed(f"penalty={option}").penalty)
    assert [*made] == ([] if option == "none" else [option])
    assert all(isinstance(penalty, Penalty) for penalty in made.values())


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "adapter").glob("*.yaml")))
def test_adapter_is_made_under_its_name(composed, option):
    made = make(composed(f"adapter={option}").adapter)
    assert [*made] == ([] if option == "none" else [option])
    assert all(isinstance(adapter, Adapter) for adapter in made.values())


def test_penalties_are_combined(composed):
    assert {*make(composed("penalty=[lwf,agem]").penalty)} == {"lwf", "agem"}


def test_mixcd_is_composed_of_the_groups_beside_it(composed):
    config = composed("strategy=mixcd", "partition=label", "estimator=last_batch", "+strategy.floor=0.2")
    strategy = make(config.strategy)
    assert type(strategy.partition).__name__ == "ByLabel"
    assert type(strategy.estimator).__name__ == "LastBatch"
    assert strategy.floor == 0.2


def test_shuffled_control_deals_out_the_same_partition(composed):
    strategy = make(composed("strategy=mixcd_shuffled", "partition=label").strategy)
    assert type(strategy.partition).__name__ == "Shuffled"
    assert type(strategy.partition.partition).__name__ == "ByLabel"


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_experiment_composes(composed, experiment):
    config = composed(f"experiment={experiment}")
    assert {"strategy", "method"} & {*config.hydra.sweeper.params}
    # Those that need files are run by `test_experiments.py`.
    if config.hydra.runtime.choices.data == "digits":
        assert isinstance(make(config.data), Pairing)


def test_unknown_strategy_lists_those_that_exist(composed):
    with pytest.raises(MissingConfigException, match=r"uniform_correct"):
        composed("strategy=nonsense")


@pytest.mark.parametrize(
    ("group", "option"),
    [(g, o) for g, o in OPTIONS if g in {"strategy", "schedule", "partition", "estimator", "model"}],
)
def test_no_value_repeats_a_default(group, option):
    node = OmegaConf.load(CONF / group / f"{option}.yaml")
    target = node["_target_"]
    try:
        parameters = inspect.signature(get_class(target)).parameters
    except ValueError:
        parameters = inspect.signature(get_method(target)).parameters
    given = OmegaConf.to_container(node, resolve=False)
    for name, value in given.items():
        if name != "_target_":
            assert name in parameters
            assert parameters[name].default != value, f"{group}/{option}: {name} is the default already"


def test_schedule_and_penalties_are_shared_too(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "defaults:\n"
        "  - mixcd/partition: label\n"
        "  - mixcd/strategy: uniform\n"
        "  - mixcd/schedule: expanding_intervals\n"
        "  - mixcd/penalty: [gem, l2sp]\n"
        "  - callbacks: mixcd_rehearsal\n"
        "  - _self_\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config")
    callback = instantiate(config.callbacks.mixcd_rehearsal, _convert_="all")
    assert type(callback.schedule).__name__ == "ExpandingIntervals"
    assert [type(penalty).__name__ for penalty in callback.penalties] == ["GEM", "L2SP"]


def test_shared_groups_compose_in_an_app_of_the_users(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "defaults:\n"
        "  - mixcd/partition: label\n"
        "  - mixcd/estimator: decayed_beta\n"
        "  - mixcd/strategy: mixcd\n"
        "  - callbacks: mixcd_rehearsal\n"
        "  - _self_\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config")
    callback = instantiate(config.callbacks.mixcd_rehearsal, _convert_="all")
    assert type(callback.strategy.partition).__name__ == "ByLabel"
    assert callback.penalties == ()


@pytest.mark.parametrize("group", ["data", "model", "trainer", "logger", "experiment"])
def test_groups_of_our_own_app_stay_out_of_the_users(tmp_path, group):
    (tmp_path / "config.yaml").write_text(f"defaults:\n  - {group}: digits\n")
    with (
        initialize_config_dir(str(tmp_path), version_base="1.3"),
        pytest.raises(MissingConfigException, match=f"{group}/digits"),
    ):
        compose("config")
