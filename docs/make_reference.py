"""Write docs/reference/ from the docstrings: ``python docs/make_reference.py``. Names the promises' tests too.

A page for each part of the library and one for the command line. Signatures are taken from the source and read as they
were written; defaults of Params and options are taken from the running code, so that they are what they are.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import sparkwright

ROOT = Path(sparkwright.__file__).parent
OUT = Path(__file__).parent / "reference"
PROMISES = Path(__file__).parent / "promises.md"
SECTIONS = ("Args:", "Attributes:", "Returns:", "Yields:", "Raises:", "Example:", "Examples:")


def main() -> None:
    """Write the pages, remove those that no part has any more, and name the promises' tests."""
    OUT.mkdir(exist_ok=True)
    built = pages()
    for path in OUT.glob("*.md"):
        if path.name not in built:
            path.unlink()
    for name, text in built.items():
        (OUT / name).write_text(text, encoding="utf-8")
    PROMISES.write_text(promises(PROMISES.read_text(encoding="utf-8")), encoding="utf-8")


def promises(page: str) -> str:
    """Return the table of promises with the last cell of each row naming the tests of its number."""
    lines = []
    for line in page.splitlines():
        number = re.match(r"\| P(\d+) \|", line)
        if number:
            tests = sorted((PROMISES.parents[1] / "tests" / "promises").glob(f"test_p{int(number[1]):02}_*.py"))
            links = ", ".join(f"[`{test.stem}`](../tests/promises/{test.name})" for test in tests)
            promise = [cell.strip() for cell in line.strip("|").split("|")][:3]
            line = f"| {' | '.join([*promise, links])} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return file name → Markdown of all pages."""
    parts: dict[str, list[ModuleType]] = {}
    for name in public_modules():
        parts.setdefault(name.split(".")[1], []).append(import_module(name))
    built = {f"{part}.md": part_page(part, modules) for part, modules in parts.items() if part != "cli"}
    built["command-line.md"] = command_line_page()
    built["README.md"] = index_page(parts)
    return built


def public_modules() -> list[str]:
    """Return the names of all modules of the library that no underscore hides, in order."""
    names = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if len(parts) > 1 and not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return names


def index_page(parts: dict[str, list[ModuleType]]) -> str:
    """List the parts with the first line of each, and the names that the package itself offers."""
    lines = ["# Reference", "", "Made from the docstrings by `docs/make_reference.py`.", ""]
    lines += ["- [The command line](command-line.md)"]
    for part, modules in parts.items():
        if part != "cli":
            lines.append(f"- [`sparkwright.{part}`]({part}.md): {first_line(modules[0])}")
    lines += ["", "## Names of the package itself", "", "`import sparkwright` loads each of these on first use.", ""]
    for name in sparkwright.__all__:
        thing = getattr(sparkwright, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            lines.append(f"- `{name}`, of [`{thing.__module__}`]({thing.__module__.split('.')[1]}.md)")
    return "\n".join(lines) + "\n"


def first_line(thing: Any) -> str:
    """Return the docstring's first line, as Markdown."""
    return to_markdown((inspect.getdoc(thing) or "").partition("\n")[0])


def part_page(part: str, modules: list[ModuleType]) -> str:
    """Describe one part: its modules, and what each offers."""
    lines = [f"# `sparkwright.{part}`"]
    for module in modules:
        names = [name for name in getattr(module, "__all__", []) if belongs(module, name)]
        if module is not modules[0] and not names:
            continue
        if module is not modules[0]:
            lines += ["", f"## `{module.__name__}`"]
        lines += ["", to_markdown(inspect.getdoc(module) or "")]
        for name in names:
            lines += ["", *describe(module, name)]
    return "\n".join(lines) + "\n"


def belongs(module: ModuleType, name: str) -> bool:
    """Tell whether this is the name's page: not where another public module defines it."""
    home = getattr(getattr(module, name), "__module__", module.__name__)
    return home == module.__name__ or home not in public_modules()


def describe(module: ModuleType, name: str) -> Iterator[str]:
    """Describe one public name."""
    thing = getattr(module, name)
    if inspect.isclass(thing):
        yield from describe_class(thing)
    elif inspect.isfunction(thing):
        yield from (f"### `{name}`", "", fenced(signature(thing)), "", to_markdown(inspect.getdoc(thing) or ""))
    else:
        yield from (f"### `{name}`", "", fenced(assignment(module, name)))


def describe_class(thing: type) -> Iterator[str]:
    """Describe a class, its Params if it is a stage, and its public methods."""
    yield from (
        f"### `{thing.__name__}`",
        "",
        fenced(class_header(thing)),
        "",
        to_markdown(inspect.getdoc(thing) or ""),
    )
    params = describe_params(thing)
    if params:
        yield from ("", "**Params**", "", *params)
    for name, member in vars(thing).items():
        method = member.__func__ if isinstance(member, staticmethod | classmethod) else member
        getter_of_param = re.match(r"(get|set)[A-Z]", name) and params
        if name.startswith("_") or getter_of_param:
            continue
        doc = to_markdown(inspect.getdoc(getattr(thing, name)) or "")
        if isinstance(member, property):
            yield from ("", f"#### `{thing.__name__}.{name}`", "", doc)
        elif inspect.isfunction(inspect.unwrap(method)):
            yield from ("", f"#### `{thing.__name__}.{name}`", "", fenced(signature(inspect.unwrap(method))), "", doc)


def describe_params(thing: type) -> list[str]:
    """Return a table of a pyspark.ml stage's Params with their defaults; of another class, nothing."""
    from pyspark.ml.param import Params

    if not issubclass(thing, Params) or inspect.isabstract(thing):
        return []
    try:
        stage = thing()
    except (TypeError, AttributeError):  # models are made by their estimator; bases lack what their subclasses say
        return []
    if not any(map(stage.hasDefault, stage.params)):
        return []
    rows = ["| Param | default | |", "|---|---|---|"]
    for param in stage.params:
        default = f"`{stage.getOrDefault(param)!r}`" if stage.hasDefault(param) else ""
        rows.append(f"| `{param.name}` | {default} | {cell(param.doc)} |")
    return rows if len(rows) > 2 else []


def cell(text: str) -> str:
    """Make text fit for a table's cell."""
    return " ".join(to_markdown(text).split()).replace("|", "\\|")


def fenced(code: str) -> str:
    """Return a block of Python code."""
    return f"```python\n{code}\n```"


def definition(thing: Any) -> tuple[str, Any]:
    """Return a function's or class's source and its syntax tree."""
    source = textwrap.dedent(inspect.getsource(thing))
    return source, ast.parse(source).body[0]


def signature(function: Any) -> str:
    """Return a function's head as its source has it."""
    source, node = definition(function)
    head = "\n".join(source.split("\n")[node.lineno - 1 : node.body[0].lineno - 1])
    return head.removeprefix("async ").removeprefix("def ").rstrip().removesuffix(":")


def class_header(thing: type) -> str:
    """Return how the class is made: the head of ``__init__``, or a dataclass's fields."""
    own = vars(thing).get("__init__")
    if getattr(own, "__name__", "") == "__init__" and "__dataclass_fields__" not in vars(thing):
        head = re.sub(r"^__init__\((\n *)?self(, |,\n|(?=\)))", rf"{thing.__name__}(\1", signature(own))
        return head.removesuffix(" -> None")
    source, node = definition(thing)
    bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
    fields = [
        f"    {ast.get_source_segment(source, each)}"
        for each in node.body
        if isinstance(each, ast.AnnAssign) and not ast.unparse(each.target).startswith("_")
    ]
    return "\n".join([f"class {thing.__name__}({bases})" if bases else f"class {thing.__name__}", *fields])


def assignment(module: ModuleType, name: str) -> str:
    """Return the source of the constant's assignment."""
    source = inspect.getsource(module)
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = {each.id for target in targets if target for each in ast.walk(target) if isinstance(each, ast.Name)}
        if name in named:
            return ast.get_source_segment(source, node) or name
    return name


def to_markdown(doc: str) -> str:
    """Turn a docstring (Google style, reStructuredText's literals) into Markdown."""
    doc = re.sub(r"``(.+?)``", r"`\1`", doc)
    lines, out, index = doc.split("\n"), [], 0
    while index < len(lines):
        line = lines[index]
        index += 1
        if line in SECTIONS or line.endswith("::"):
            block, index = indented(lines, index)
            if line.startswith("Example"):
                out += ["**Example**", "", fenced(block)]
            elif line in SECTIONS:
                out += [f"**{line[:-1]}**", "", *entries(block)]
            else:
                out += [line[:-2] + ":\n" if line[:-2] else "", f"```text\n{block}\n```", ""]
        else:
            out.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def indented(lines: list[str], index: int) -> tuple[str, int]:
    """Return the indented block from `index`, without its indentation, and the index after it."""
    end = index
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith("    ")):
        end += 1
    return textwrap.dedent("\n".join(lines[index:end])).strip("\n"), end


def entries(block: str) -> Iterator[str]:
    """Turn ``name: text`` entries into a list; what is no entry stays text."""
    for line in block.split("\n"):
        entry = re.match(r"([*\w.]+(?: \([^)]*\))?): (.*)", line)
        if entry:
            yield f"- `{entry[1]}`: {entry[2]}"
        else:
            yield f"  {line.strip()}" if line.startswith(" ") else line
    yield ""


def command_line_page() -> str:
    """Describe every command with its options."""
    from typer.main import get_command

    from sparkwright.cli import app

    group: Any = get_command(app)
    lines = ["# The command line", "", "Exit codes: 0 done, 1 failed, 2 wrong usage or input."]
    for name, command in group.commands.items():
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        usage = " ".join(["sparkwright", name, *(param.name.upper() for param in arguments), "[OPTIONS]"])
        lines += ["", f"## `{usage}`", "", to_markdown(inspect.cleandoc(command.help or ""))]
        lines += ["", "| option | default | |", "|---|---|---|"]
        for param in command.params:
            if param.param_type_name == "option" and param.name != "help":
                unset = param.default is None or param.default is False
                shown = "required" if param.required else "" if unset else f"`{param.default}`"
                lines.append(f"| `{', '.join(param.opts)}` | {shown} | {cell(param.help or '')} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
