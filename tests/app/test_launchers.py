"""Sweeps through Slurm and Ray, as far as one machine shows them: local modes, and a stand-in for Slurm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from lightning_mixcd.app.conf import conf_dir

PRESETS = {
    "slurm": ("submitit", "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"),
    "ray_cluster": ("ray", "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"),
}
SHORT = [
    "trainer=cpu",
    "trainer.max_epochs=1",
    "base.max_epochs=1",
    "trainer.enable_progress_bar=false",
    "hydra.sweep.dir=runs",
    "strategy=uniform,mixcd",
]
# A Slurm of one machine: `sbatch` returns at once and runs the tasks of the array one by one.
SLURM = {
    "sbatch": r"""#!/bin/bash
script="${@: -1}"
cp "$script" "$0.asked"
last=$(sed -n 's/.*--array=0-\([0-9]*\).*/\1/p' "$script")
export SLURM_ARRAY_JOB_ID=7 SLURM_JOB_NAME=train SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
export SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=here SLURM_NODELIST=here
for task in $(seq 0 "$last"); do
    SLURM_JOB_ID=10$task SLURM_ARRAY_TASK_ID=$task bash "$script"
done > /dev/null 2>&1 &
echo "Submitted batch job 7"
""",
    "srun": """#!/bin/bash
until [ -x "$1" ]; do shift; done
exec "$@"
""",
    "sacct": """#!/bin/bash
echo "JobID|State|NodeList"
""",
}


def sweep(folder, *chosen, **environment):
    """Run a sweep of two strategies, and return their records by name."""
    command = [str(Path(sys.executable).with_name("mixcd-train")), "-m", *chosen, *SHORT]
    env = {**os.environ, **environment}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(path.read_text()) for path in folder.rglob("runs/**/result.json")]
    return {record["name"]: record for record in found}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The records of a sweep through submitit, without Slurm."""
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    return sweep(tmp_path_factory.mktemp("local"), "hydra/launcher=submitit_local")


def same(records, others):
    """Whether two sweeps measured the same, up to the time they took."""
    timed = {name: record | {"seconds": records[name]["seconds"]} for name, record in others.items()}
    return records == timed


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_composes_on_top_of_the_launcher(preset):
    library, launcher = PRESETS[preset]
    pytest.importorskip(library, reason=f"{library} is not installed")
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", [f"hydra/launcher={preset}"], return_hydra_config=True)
    assert config.hydra.launcher._target_ == launcher


def test_ray_preset_joins_the_cluster_that_is_named(monkeypatch):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", ["hydra/launcher=ray_cluster"], return_hydra_config=True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert config.hydra.launcher.ray.init.address == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert config.hydra.launcher.ray.init.address == "10.0.0.1:6379"


@pytest.mark.slow
def test_submitit_without_slurm(local):
    assert {*local} == {"uniform", "mixcd"}


@pytest.mark.slow
def test_slurm_preset_submits_one_job_array(tmp_path, local):
    (tmp_path / "bin").mkdir()
    for name, script in SLURM.items():
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    assert same(sweep(tmp_path, "hydra/launcher=slurm", "hydra.launcher.partition=gpu", PATH=path), local)
    asked = (tmp_path / "bin/sbatch.asked").read_text()
    assert all(line in asked for line in ("--array=0-1%2", "--partition=gpu", "--time=240"))


@pytest.mark.slow
def test_ray_preset_on_a_cluster_of_one(tmp_path, local):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    chosen = ["hydra/launcher=ray_cluster", "+hydra.launcher.ray.init.include_dashboard=false"]
    # Ray leaves a token of its own in the home folder.
    assert same(sweep(tmp_path, *chosen, RAY_ADDRESS="local", HOME=str(tmp_path)), local)
