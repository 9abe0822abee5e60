"""Rules for the size of sources, their includes and the width of pages. Tests apply them."""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("bench", "csrc", "examples", "python", "tests", "tools")
SUFFIXES = (".cpp", ".h", ".cu", ".py", ".pyi")

COLUMNS = 100
FILE_LINES = 400
FUNCTION_LINES = 70
PARAMETERS = 6

# Only csrc/torch may include headers of Python and torch.
PYTHON_INCLUDES = ("torch/csrc", "torch/", "ATen/", "c10/", "pybind11/", "Python.h")

CONTAINER = re.compile(
    r"\s*(inline\s+)?(template\s*<[^;{(]*>\s*)*(namespace|class|struct|union|enum|extern)\b"
)
ACCESS = re.compile(r"\b(public|protected|private)\s*:(?!:)")
LIST_MARKER = re.compile(r"\s*(?:[-*]|\d+\.|>)\s+")
LAYER = re.compile(r"^fastgpu_layer\(([\w/ ]+)\)", re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)


def sources() -> Iterator[Path]:
    """Yields all source files of the project."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path


def pages() -> list[Path]:
    """Returns the Markdown pages that people write; bench/results is written by programs."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def wide_prose(name: str, text: str) -> list[str]:
    """Returns the lines of a Markdown page that are too wide.

    Table rows, fenced and indented code, and lines without a space to break at may be wider.

    Args:
        name: The path of the page.
        text: The contents of the page.
    """
    found = []
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        code = fenced or line.startswith("    ")
        breakable = " " in LIST_MARKER.sub("", line, count=1).strip()
        if len(line) > COLUMNS and breakable and not code and not line.startswith("|"):
            found.append(f"{name}:{number}: {len(line)} columns")
    return found


def broken(name: str, text: str) -> list[str]:
    """Returns the lines, functions and files that are too large in the file `name`.

    Args:
        name: The path of the file.
        text: The contents of the file.
    """
    lines = text.splitlines()
    found = [
        f"{name}:{number}: {len(line)} columns"
        for number, line in enumerate(lines, 1)
        if len(line) > COLUMNS
    ]
    if len(lines) >= FILE_LINES:
        found.append(f"{name}: {len(lines)} lines")
    functions = python_functions if name.endswith((".py", ".pyi")) else cpp_functions
    for function, count in functions(text):
        if count >= FUNCTION_LINES:
            found.append(f"{name} {function}: {count} lines")
    if functions is python_functions:
        found += [
            f"{name} {function}: {count} parameters"
            for function, count in python_parameters(text)
            if count > PARAMETERS
        ]
    return found


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yields the name and line count of each function, without docstring and decorators."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node):
                docstring = node.body[0]
                count -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
            yield node.name, count


def python_parameters(text: str) -> Iterator[tuple[str, int]]:
    """Yields the name and parameter count of each function, without `self`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield node.name, sum(argument.arg not in ("self", "cls") for argument in named)


def cpp_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yields the name and line count of each function.

    A function is a block that is not a namespace or type. Inner blocks and lambdas belong to it.
    """
    text = without_comments(text)
    containers: list[bool] = []
    head = 0  # start of the text before the next brace
    start = 0
    for position, character in enumerate(text):
        if character == "{":
            container = all(containers) and bool(CONTAINER.match(text[head:position]))
            if all(containers) and not container:
                start = head
            containers.append(container)
        elif character == "}" and containers and not containers.pop() and all(containers):
            block = text[start : position + 1].lstrip()
            yield block.split("(")[0].split()[-1], block.count("\n") + 1
        if character in "{};" and all(containers):
            head = position + 1


def without_comments(text: str) -> str:
    """Returns C++ `text` without comments, literals, directives and access labels.

    The number of lines stays the same.
    """
    token = re.compile(
        r"""//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'"""
        r"""|^[ \t]*\#(?:\\\n|[^\n])*""",
        re.DOTALL | re.MULTILINE,
    )
    # The ' in a number such as 1'000 does not start a literal.
    text = re.sub(r"(?<=\d)'(?=\d)", "", text)
    text = token.sub(lambda match: "\n" * match[0].count("\n"), text)
    return ACCESS.sub("", text)


def layers(cmake: str) -> dict[str, set[str]]:
    """Returns, for each layer of csrc/CMakeLists.txt, the layers it may include.

    A layer is a folder of csrc/. It may be inside another layer, as plan/proof is.
    """
    links = {words[0]: words[1:] for words in map(str.split, LAYER.findall(cmake))}
    reach: dict[str, set[str]] = {}
    for layer, below in links.items():  # a layer is declared after the layers it links
        reach[layer] = {layer, *below}.union(*(reach[name] for name in below))
    return reach


def layer_of(path: str, known: Container[str]) -> str | None:
    """Returns the innermost known layer that holds a path under csrc/; None if there is none."""
    folders = path.split("/")[:-1]
    prefixes = ("/".join(folders[:depth]) for depth in range(len(folders), 0, -1))
    return next((prefix for prefix in prefixes if prefix in known), None)


def forbidden_includes(name: str, text: str, allowed: Mapping[str, set[str]]) -> list[str]:
    """Returns the includes of a file under csrc/ from layers that its own layer does not link.

    Args:
        name: The path of the file, relative to csrc/, such as plan/builders/ring.cpp.
        text: The content of the file.
        allowed: The result of `layers`.
    """
    layer = layer_of(name, allowed)
    if layer is None:  # csrc/torch may include every layer
        return []
    found = []
    for include in INCLUDE.findall(text):
        other = layer_of(include, allowed)
        if other is not None and other not in allowed[layer]:
            found.append(f"{name} includes {include}, but {layer} does not link {other}")
        elif include.startswith(PYTHON_INCLUDES):
            found.append(f"{name} includes {include}, which only csrc/torch may")
    return found
