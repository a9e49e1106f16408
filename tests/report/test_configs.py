import pytest

from lightning_mixcd.report.configs import read_configs
from lightning_mixcd.report.sweep import read_sweep
from tests.report.runs import write_sweep


def change(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def test_methods_have_what_differs_and_share_the_rest(tmp_path):
    configs = read_configs(read_sweep(write_sweep(tmp_path, ["uniform", "mixcd"])))
    assert {name: text for (name, _), text in configs.own.items()} == {
        "uniform": "strategy._target_: uniform\n",
        "mixcd": "strategy._target_: mixcd\n",
    }
    assert configs.shared == "data.shift: rot90\ndata.seed: ${seed}\nmix_ratio: 0.25\n"
    assert configs.notes == []


def test_seeds_that_are_configured_differently_are_noted(tmp_path):
    write_sweep(tmp_path, ["uniform", "mixcd"])
    change(tmp_path / "run1-2" / ".hydra" / "config.yaml", "mix_ratio: 0.25", "mix_ratio: 0.25\nfloor: 1")
    assert read_configs(read_sweep(tmp_path)).notes == ["Runs of mixcd differ in floor."]


def test_other_tasks_under_one_name_are_refused(tmp_path):
    write_sweep(tmp_path, ["uniform", "mixcd"])
    for seed in range(3):
        change(tmp_path / f"run1-{seed}" / ".hydra" / "config.yaml", "rot90", "invert")
    with pytest.raises(ValueError, match=r"different tasks cannot be compared.*data\.shift"):
        read_configs(read_sweep(tmp_path))


def test_other_tasks_within_a_method_are_refused(tmp_path):
    write_sweep(tmp_path, ["uniform", "mixcd"])
    change(tmp_path / "run1-2" / ".hydra" / "config.yaml", "rot90", "invert")
    with pytest.raises(ValueError, match=r"different tasks cannot be compared.*data\.shift"):
        read_configs(read_sweep(tmp_path))


def test_data_that_is_written_alike_but_came_from_elsewhere_is_refused(tmp_path):
    write_sweep(tmp_path, ["uniform", "mixcd"])
    for path in tmp_path.rglob("result.json"):
        change(path, '"data_hash": null', '"data_hash": "0a"')
    read_configs(read_sweep(tmp_path))
    change(tmp_path / "run1-2" / "result.json", '"0a"', "null")  # of an earlier release
    read_configs(read_sweep(tmp_path))
    change(tmp_path / "run1-0" / "result.json", '"0a"', '"0b"')
    with pytest.raises(ValueError, match=r"different tasks cannot be compared: .* came to different values"):
        read_configs(read_sweep(tmp_path))


def test_other_base_models_are_noted(tmp_path):
    write_sweep(tmp_path, ["uniform", "mixcd"])
    for path in tmp_path.rglob("config.yaml"):
        size = 64 if "run1" in str(path) else 32
        change(path, "mix_ratio", f"model:\n  n_hidden: {size}\nmix_ratio")
    (note,) = read_configs(read_sweep(tmp_path)).notes
    assert "different base models, so that seeds are no pairs: model.n_hidden" in note


@pytest.mark.parametrize("text", [None, "", "- a", "a: [", "!!python/object:os.system {}"])
def test_configuration_that_cannot_be_read_is_passed_over(tmp_path, text):
    write_sweep(tmp_path, ["uniform"], seeds=1)
    path = tmp_path / "run0-0" / ".hydra" / "config.yaml"
    path.unlink() if text is None else path.write_text(text)
    assert read_configs(read_sweep(tmp_path)) == ("", {}, [])
