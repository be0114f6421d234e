"""The docs: links lead somewhere, commands and code exist, promises name their tests, the reference is up to date."""

import ast
import importlib.util
import inspect
import re
import shlex
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
WRITTEN = [page for page in PAGES if page.parent.name != "reference"]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
written_pages = pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


def code_blocks(page: Path, language: str) -> list[str]:
    pattern = re.compile(rf"^( *)```{language}\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(match[2]) for match in pattern.finditer(page.read_text(encoding="utf-8"))]


def anchors(page: Path) -> set[str]:
    """The anchors that a code host makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.relative_to(ROOT)} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(file), f"{page.relative_to(ROOT)} links to {target}: no such heading"


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    from typer.main import get_command

    from sparkwright.cli import app

    group: Any = get_command(app)
    return dict(group.commands)


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after ``sparkwright`` of every command in the page's shell blocks."""
    for block in code_blocks(page, "shell"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for index, word in enumerate(words):
                if word == "sparkwright" or word.endswith("/sparkwright"):
                    yield words[index + 1 :]
                    break


@written_pages
def test_commands_in_the_docs_have_the_options_that_they_show(page: Path, commands: dict[str, Any]) -> None:
    for name, *words in command_lines(page):
        assert name in commands or name.startswith("-"), f"there is no `sparkwright {name}`"
        known = {option for param in commands[name].params for option in param.opts} if name in commands else set()
        shown = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert shown <= known | {"--help"}, f"`sparkwright {name}` has no {shown - known}"


def accepts(function: Any, keywords: set[str]) -> bool:
    parameters = inspect.signature(function).parameters
    return any(each.kind is each.VAR_KEYWORD for each in parameters.values()) or keywords <= parameters.keys()


@written_pages
def test_python_in_the_docs_uses_names_and_arguments_that_exist(page: Path) -> None:
    imported: dict[str, Any] = {}
    for block in code_blocks(page, "python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparkwright"):
                module = import_module(str(node.module))
                for alias in node.names:
                    thing = getattr(module, alias.name, None) or import_module(f"{node.module}.{alias.name}")
                    imported[alias.asname or alias.name] = thing
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                function = resolve(node.func, imported)
                keywords = {keyword.arg for keyword in node.keywords if keyword.arg}
                assert function is None or accepts(function, keywords), (
                    f"{ast.unparse(node.func)} has no such arguments"
                )


def resolve(node: ast.expr, names: dict[str, Any]) -> Any:
    """What ``name`` or ``name.attribute`` stands for, None if it is not of this library."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
        return getattr(names[node.value.id], node.attr)
    return None


def make_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_is_what_the_docstrings_say() -> None:
    built = make_reference().pages()
    committed = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")}
    stale = sorted(name for name in built.keys() | committed.keys() if built.get(name) != committed.get(name))
    assert not stale, "run: .venv/bin/python docs/make_reference.py"


def test_promises_page_names_every_test_of_a_promise() -> None:
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    assert page == make_reference().promises(page), "run: .venv/bin/python docs/make_reference.py"
    assert page.count("../tests/promises/test_p") == len(list((ROOT / "tests" / "promises").glob("test_p*.py")))
