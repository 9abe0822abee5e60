"""The rules of size and of layers that every source file is held to, and what breaks them."""

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

# Rule broken -> why that is right here. Keys are what `broken` returns, up to the colon.
EXCEPTIONS: dict[str, str] = {}

# Only csrc/torch sees Python and what belongs to it.
PYTHON_INCLUDES = ("torch/csrc", "torch/", "ATen/", "c10/", "pybind11/", "Python.h")

CONTAINER = re.compile(
    r"\s*(inline\s+)?(template\s*<[^;{(]*>\s*)*(namespace|class|struct|union|enum|extern)\b"
)
ACCESS = re.compile(r"\b(public|protected|private)\s*:(?!:)")
LAYER = re.compile(r"^fastgpu_layer\(([\w/ ]+)\)", re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)


def sources() -> Iterator[Path]:
    """Yields every source file of the project."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path


def broken(name: str, text: str) -> list[str]:
    """Returns what in the file `name`, which holds `text`, is too wide or too long."""
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
    return [what for what in found if what.rsplit(":", 1)[0] not in EXCEPTIONS]


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yields the name and the lines of each function, its docstring and decorators not counted."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node):
                docstring = node.body[0]
                count -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
            yield node.name, count


def python_parameters(text: str) -> Iterator[tuple[str, int]]:
    """Yields the name and the number of parameters of each function, `self` not counted."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield node.name, sum(argument.arg not in ("self", "cls") for argument in named)


def cpp_functions(text: str) -> Iterator[tuple[str, int]]:
    """Yields the name and the lines of each block that is no namespace or type.

    Lambdas and blocks inside a function belong to it.
    """
    text = without_comments(text)
    containers: list[bool] = []
    head = 0  # where the text that the next brace belongs to begins
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
    """Returns C++ `text` without comments, literals, directives and access labels; lines stay."""
    token = re.compile(
        r"""//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'"""
        r"""|^[ \t]*\#(?:\\\n|[^\n])*""",
        re.DOTALL | re.MULTILINE,
    )
    # A ' inside a number (1'000) opens no literal.
    text = re.sub(r"(?<=\d)'(?=\d)", "", text)
    text = token.sub(lambda match: "\n" * match[0].count("\n"), text)
    return ACCESS.sub("", text)


def layers(cmake: str) -> dict[str, set[str]]:
    """Returns, for each layer of csrc/CMakeLists.txt, the layers it may include.

    A layer is a folder of csrc/. It may be inside another layer, as plan/proof is.
    """
    links = {words[0]: words[1:] for words in map(str.split, LAYER.findall(cmake))}
    reach: dict[str, set[str]] = {}
    for layer, below in links.items():  # a layer is declared after those it links
        reach[layer] = {layer, *below}.union(*(reach[name] for name in below))
    return reach


def layer_of(path: str, known: Container[str]) -> str | None:
    """Returns the innermost known layer that holds a path under csrc/; None if there is none."""
    folders = path.split("/")[:-1]
    prefixes = ("/".join(folders[:depth]) for depth in range(len(folders), 0, -1))
    return next((prefix for prefix in prefixes if prefix in known), None)


def forbidden_includes(name: str, text: str, allowed: Mapping[str, set[str]]) -> list[str]:
    """Returns the includes of a file under csrc/ that its layer does not link.

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
            found.append(f"{name} includes {include}, which is for csrc/torch alone")
    return found
