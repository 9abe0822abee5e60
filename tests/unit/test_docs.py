"""The pages name only files, make goals and commands that are there."""

import re
from pathlib import Path

import pytest
from source_rules import ROOT, pages

from fastgpu_comm.cli.main import COMMANDS

LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
CODE = re.compile(r"`([^`\n]+)`")
SOURCE_PATH = re.compile(
    r"(?:csrc|python|tests|tools|docs|examples|bench|cmake)/[\w./-]*\w(?:\.\w+)?"
)
GOAL = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
COMMAND = re.compile(r"fastgpu-comm ([a-z]+)")


@pytest.fixture(params=pages(), ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_links_lead_to_files(page: Path) -> None:
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert broken == []


def test_paths_in_code_marks_exist(page: Path) -> None:
    missing = [
        code
        for code in CODE.findall(page.read_text())
        if SOURCE_PATH.fullmatch(code) and not (ROOT / code).exists()
    ]
    assert missing == []


def test_make_goals_exist(page: Path) -> None:
    goals = set(GOAL.findall((ROOT / "Makefile").read_text()))
    named = set(re.findall(r"`make ([a-z-]+)", page.read_text()))
    assert named <= goals


def test_commands_exist(page: Path) -> None:
    names = {command.__name__.rpartition(".")[2] for command in COMMANDS}
    assert set(COMMAND.findall(page.read_text())) <= names
