"""What each module imports, what its import loads, and what it offers."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest

import sparkwright

ROOT = Path(sparkwright.__file__).parent

# Each part imports itself and the levels before its own.
LEVELS = [
    {"errors"},
    {"events", "session", "storage"},
    {"data", "locks", "networks"},
    {"models"},
    {"scoring", "evaluation", "monitoring"},
    {"runs"},
    {"training", "report_photos"},
    {"labelled", "shell_command"},
    {"transfer", "tuning"},
    {"tabular"},
    {"cli"},
]
UPWARD = {
    # A folder of a model is a network to `load_network` too; it reads one only then.
    ("sparkwright.networks.catalogue", "sparkwright.models"),
    # The script that made a packaged network; nothing imports it.
    ("sparkwright.networks.data.make_digits", "sparkwright.data.digits"),
}
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}


def part_of(module: str) -> str:
    """``sparkwright.data.images`` → ``data``."""
    return module.split(".")[1]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.endswith("__main__"):
            found[name] = path
    return found


def imports_of(path: Path) -> set[str]:
    """The modules of this library that the file imports, anywhere in it, ``from sparkwright import x`` included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            if node.module == "sparkwright":
                found |= {f"sparkwright.{alias.name}" for alias in node.names}
            elif node.module:
                found.add(node.module)
    return {name for name in found if name.startswith("sparkwright.") and name != "sparkwright.__version__"}


@pytest.mark.parametrize("module", sorted(modules().keys() - {"sparkwright"}))
def test_module_imports_only_lower_levels_and_its_own_part(module: str) -> None:
    part = part_of(module)
    assert part in LEVEL_OF, f"{part} has no level: add it to LEVELS, and to the docs on the design"
    for imported in imports_of(modules()[module]):
        other = part_of(imported)
        allowed = other == part or (module, imported) in UPWARD or LEVEL_OF.get(other, len(LEVELS)) < LEVEL_OF[part]
        assert allowed, f"{module} imports {imported}, which is not of a lower level"


def loaded_by(module: str) -> set[str]:
    """The top-level packages that a fresh Python has loaded after importing `module`."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("sparkwright", {"torch", "pyspark", "pyarrow", "numpy", "pandas"}),
        ("sparkwright.cli", {"torch", "pyspark", "pyarrow", "pandas"}),
        ("sparkwright.networks.preprocessing", {"torch", "pyspark", "pyarrow"}),
        ("sparkwright.models", {"torch", "pyspark", "pyarrow"}),
        ("sparkwright.scoring.predictor", {"torch", "pyspark", "pyarrow"}),
        ("sparkwright.scoring.process.engine", {"torch"}),
    ],
)
def test_import_does_not_load_heavy_packages(module: str, unwanted: set[str]) -> None:
    assert not loaded_by(module) & unwanted


def exported(module: str) -> dict[str, object]:
    loaded = import_module(module)
    return {name: getattr(loaded, name) for name in getattr(loaded, "__all__", [])}


@pytest.mark.parametrize("module", modules())
def test_every_exported_name_exists_once(module: str) -> None:
    names = getattr(import_module(module), "__all__", [])  # ruff keeps it sorted
    assert len(names) == len(exported(module))


def methods(thing: type) -> set[str]:
    kinds = (FunctionType, staticmethod, classmethod, property)
    return {name for name, member in vars(thing).items() if isinstance(member, kinds) and not name.startswith("_")}


@pytest.mark.parametrize("module", modules())
def test_public_classes_functions_and_methods_have_docstrings(module: str) -> None:
    things = {
        name: thing for name, thing in exported(module).items() if inspect.isroutine(thing) or inspect.isclass(thing)
    }
    missing = [name for name, thing in things.items() if not inspect.getdoc(thing)]
    # What implements a method of a base (getdoc finds that) or of a protocol beside it needs no docstring of its own.
    local = [thing for thing in vars(import_module(module)).values() if inspect.isclass(thing)]
    described = {name for thing in local for name in methods(thing) if inspect.getdoc(vars(thing)[name])}
    for name, thing in things.items():
        if inspect.isclass(thing):
            candidates = methods(thing) - described
            missing += [f"{name}.{method}" for method in candidates if not inspect.getdoc(getattr(thing, method))]
    assert not missing


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sparkwright' has no attribute 'nothing'"):
        sparkwright.nothing  # noqa: B018


def test_dir_lists_the_public_names() -> None:
    assert dir(sparkwright) == sparkwright.__all__
