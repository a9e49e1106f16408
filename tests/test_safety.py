"""Nothing that is read from disk can run: in the code by rule, and on forged files."""

import ast
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.ledger.documents import read_document, write_document
from tests.ledger.cases import make_writer, record

ROOT = Path(__file__).parents[1]
CODE = ["lightning_mixcd", "hydra_plugins", "examples", "benchmarks"]

MODULES = {"cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve"}
FUNCTIONS = {"__import__", "compile", "eval", "exec"}
# Calls that are safe with one setting only: name of the function, of the setting, its value.
LOADERS = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
SAFE_BY_DEFAULT = {"numpy.load"}
CALLS = {"numpy.lib.format.read_array", "os.system", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load"}
# The one place that turns a text into a call; see docs/safety.md.
INSTANTIATES = {"lightning_mixcd/app/conf.py", "examples/03_hydra_app/app.py"}


def full_names(tree):
    """What each name that a file imports stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def called(node, names):
    """Dotted name of a call's function; empty if it is not that simple."""
    parts, function = [], node.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return (
        ".".join([names.get(function.id, function.id), *reversed(parts)])
        if isinstance(function, ast.Name)
        else ""
    )


def complaint(name, node):
    """What is wrong with a call."""
    if name in LOADERS:
        setting, value = LOADERS[name]
        given = [k.value for k in node.keywords if k.arg == setting]
        if not given:
            return None if name in SAFE_BY_DEFAULT else f"`{name}` without {setting}={value}"
        safe = isinstance(given[0], ast.Constant) and given[0].value is value
        return None if safe else f"`{name}` with another {setting} than {value}"
    return f"`{name}`" if name in FUNCTIONS | CALLS else None


def violations(source):
    tree = ast.parse(source)
    names = full_names(tree)
    found = [f"`{name}`" for name in names.values() if name.partition(".")[0] in MODULES]
    calls = [(called(node, names), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found + [problem for name, node in calls if (problem := complaint(name, node))]


@pytest.mark.parametrize("folder", CODE)
def test_no_code_runs_what_it_reads(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = {file.relative_to(ROOT): violations(file.read_text(encoding="utf-8")) for file in files}
    assert not {file: problems for file, problems in found.items() if problems}


def test_configs_are_instantiated_in_one_place():
    files = [file for folder in CODE for file in (ROOT / folder).rglob("*.py")]
    using = {
        file.relative_to(ROOT).as_posix()
        for file in files
        if "instantiate(" in file.read_text(encoding="utf-8")
    }
    assert using == INSTANTIATES


def test_shipped_configs_name_only_us_and_lightning():
    files = sorted((ROOT / "conf").rglob("*.yaml"))
    targets = [t for file in files for t in re.findall(r"_target_: *(\S+)", file.read_text(encoding="utf-8"))]
    assert len(targets) > 20
    assert not [
        t
        for t in targets
        if not t.startswith(("lightning_mixcd.", "lightning.pytorch.", "hydra.utils.get_method"))
    ]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib as j",
        "eval('1')",
        "import torch\ntorch.load('a')",
        "import torch as t\nt.load('a', weights_only=False)",
        "from torch import load as read\nread('a', weights_only=safe)",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "import numpy as np\nnp.lib.format.read_array(file)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import os\nos.system('ls')",
    ],
)
def test_checker_catches(source):
    assert len(violations(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('a', weights_only=True)",
        "import numpy as np\nnp.load('a')\nnp.load('a', allow_pickle=False)",
        "module.eval()",
        "import yaml\nyaml.safe_load(text)",
        "import re\nre.compile('a')",
    ],
)
def test_checker_admits(source):
    assert violations(source) == []


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def path(tmp_path):
    """A ledger, and beside it a column of someone else."""
    record(tmp_path / "a")
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "loss.npy", tmp_path / "b" / "secret.npy")
    return tmp_path / "a"


def forge(file, change):
    """Change a document and sign it anew, as anyone can."""
    document = dict(read_document(file))
    change(document)
    write_document(file, document)


def set_in(*keys, value):
    def change(document):
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


FORGERIES = {
    "a column elsewhere": lambda d: d["columns"].update({"../b/secret": d["columns"]["loss"]}),
    "an absolute column": lambda d: d["columns"].update({"/etc/passwd": d["columns"]["loss"]}),
    "objects": set_in("columns", "loss", "dtype", value="O"),
    "fields": set_in("columns", "loss", "dtype", value=[["a", "i4"]]),
    "nonsense for a type": set_in("columns", "loss", "dtype", value="import os"),
    "no number for a size": set_in("size", value="7"),
    "half a sample": set_in("size", value=7.5),
    "no samples": set_in("size", value=0),
    "a pool larger than the disk": set_in("size", value=10**15),
    "a size beyond all integers": set_in("size", value=10**40),
    "rows larger than the disk": set_in("columns", "features", "shape", value=[7, 10**15]),
    "rows of no length": set_in("columns", "features", "shape", value=[7, -2]),
    "a shape that is none": set_in("columns", "features", "shape", value=7),
    "no columns": set_in("columns", value={}),
    "a list of columns": set_in("columns", value=["loss"]),
    "no header at all": lambda d: d.clear(),
    "a fingerprint that is none": set_in("pool", value=[1, 2]),
    "forwards in words": set_in("forwards", value="many"),
    "endless forwards": set_in("forwards", value=[]),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", FORGERIES)
def test_forged_header_is_refused(path, name, verify):
    forge(path / "header.json", FORGERIES[name])
    with pytest.raises(LedgerError, match="is damaged"):
        Ledger.open(path, verify=verify)


@pytest.mark.parametrize("name", [name for name in FORGERIES if "forwards" not in name])
def test_forged_recording_is_refused(tmp_path, name):
    make_writer(tmp_path / "a")
    forge(tmp_path / "a" / "partial.json", FORGERIES[name])
    with pytest.raises(LedgerError, match=r"is damaged|of something else"):
        make_writer(tmp_path / "a")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("verify", [True, False])
def test_pickles_in_the_place_of_columns_are_not_opened(path, tmp_path, verify):
    bomb = Bomb(tmp_path / "gone off")
    for content in (pickle.dumps(bomb), None):
        if content is None:
            np.save(path / "loss.npy", np.array([bomb] * 7, dtype=object), allow_pickle=True)
        else:
            (path / "loss.npy").write_bytes(content)
        with pytest.raises(LedgerError, match=r"loss\.npy` is damaged"):
            Ledger.open(path, verify=verify)
    (path / "header.json").write_bytes(pickle.dumps(bomb))
    with pytest.raises(LedgerError, match="it is not the JSON that was written"):
        Ledger.open(path, verify=verify)
    assert not (tmp_path / "gone off").exists()


def test_json_that_nests_without_end_is_refused(path):
    (path / "header.json").write_text("[" * 100_000)
    with pytest.raises(LedgerError, match="it is not the JSON that was written"):
        Ledger.open(path)
