"""The stub _native.pyi has the names and parameters of the module that was built.

mypy's stubtest would take minutes to read torch, and does not read the signatures of pybind11,
which are in the docstrings.
"""

from __future__ import annotations

import ast
import importlib
from typing import Any

import pytest
from source_rules import ROOT

from fastgpu_comm import native

MODULE: Any = importlib.import_module(native.Backend.__module__)
STUB = ast.parse((ROOT / "python" / "fastgpu_comm" / "_native.pyi").read_text())
# The stub of the module and of each class, each with the object that the stub describes.
OWNERS: list[tuple[ast.Module | ast.ClassDef, Any]] = [
    (STUB, MODULE),
    *((node, getattr(MODULE, node.name)) for node in STUB.body if isinstance(node, ast.ClassDef)),
]
FUNCTIONS = [
    pytest.param(owner, node, id=f"{owner.__name__}.{node.name}")
    for stub, owner in OWNERS
    for node in stub.body
    if isinstance(node, ast.FunctionDef) and not node.decorator_list
    if node.name in vars(owner) and not node.name.startswith("__")
]


def described(stub: ast.Module | ast.ClassDef) -> set[str]:
    """Returns the names that the stub of a module or a class defines."""
    found = {node.name for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    attributes = [node.target for node in stub.body if isinstance(node, ast.AnnAssign)]
    return found | {name.id for name in attributes if isinstance(name, ast.Name)}


def parameters(function: ast.FunctionDef) -> list[str]:
    """Returns the names of the parameters, with a star for those that are keywords only."""
    named = [argument.arg for argument in function.args.args if argument.arg != "self"]
    return named + ["*" + argument.arg for argument in function.args.kwonlyargs]


@pytest.mark.parametrize(("stub", "owner"), OWNERS, ids=lambda value: getattr(value, "name", ""))
def test_names(stub: ast.Module | ast.ClassDef, owner: Any) -> None:
    there = {name for name in vars(owner) if not name.startswith(("__", "_pybind"))}
    assert {name for name in described(stub) if not hasattr(owner, name)} == set()
    assert there - described(stub) == set()


@pytest.mark.parametrize(("owner", "stub"), FUNCTIONS)
def test_parameters(owner: Any, stub: ast.FunctionDef) -> None:
    signature = getattr(owner, stub.name).__doc__.splitlines()[0]
    (bound,) = ast.parse(f"def {signature}: ...").body
    assert isinstance(bound, ast.FunctionDef)
    assert parameters(bound) == parameters(stub)
