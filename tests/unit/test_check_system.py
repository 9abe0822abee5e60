"""A missing piece of the system is named with the command that installs it."""

import os
import subprocess
import sys
from pathlib import Path

from source_rules import ROOT

SCRIPT = ROOT / "tools" / "check_system.sh"


def check(*arguments: str, **environment: str) -> tuple[int, str]:
    result = subprocess.run(
        [str(SCRIPT), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout + result.stderr


def fake(folder: Path, name: str, script: str) -> str:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def with_installer(folder: Path, name: str) -> str:
    """Returns a PATH on which `name` is the only package installer."""
    for tool in ("sh", "env"):
        (folder / tool).symlink_to(f"/bin/{tool}")
    fake(folder, name, "exit 0")
    return str(folder)


def test_this_machine_has_all() -> None:
    assert check(sys.executable, "c++") == (0, "")


def test_no_python(tmp_path: Path) -> None:
    status, said = check("no-such-python", PATH=with_installer(tmp_path, "apt-get"))
    assert status == 1
    assert "no-such-python" in said
    assert "apt-get install -y python3" in said


def test_python_too_old(tmp_path: Path) -> None:
    old = fake(tmp_path, "python3", '[ "$1" = --version ] && echo Python 3.7.1 || exit 1')
    status, said = check(old)
    assert status == 1
    assert "Python 3.7.1" in said
    assert "PYTHON=" in said


def test_no_venv(tmp_path: Path) -> None:
    python = fake(tmp_path, "python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    status, said = check(python, PATH=with_installer(tmp_path, "dnf"))
    assert status == 1
    assert "venv" in said
    assert "dnf install -y python3" in said


def test_no_compiler_no_headers(tmp_path: Path) -> None:
    python = fake(tmp_path, "python3", 'case "$2" in *Python.h*) exit 1;; esac')
    path = with_installer(tmp_path, "apk")
    assert check(python, PATH=path) == (0, "")  # none is needed for Python alone
    status, said = check(python, "c++", PATH=path, CXX="no-such-compiler")
    assert status == 1
    assert "no-such-compiler" in said
    assert "apk add g++" in said
    assert "apk add python3-dev" in said


def test_a_compiler_without_cpp20_is_refused(tmp_path: Path) -> None:
    old = fake(tmp_path, "c++", "exit 1")
    status, said = check(sys.executable, "c++", CXX=old)
    assert status == 1
    assert "C++20" in said
