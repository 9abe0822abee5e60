"""`fastgpu-comm env` reports what a bug report needs, and nothing secret."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest
import torch

import fastgpu_comm
from fastgpu_comm import diagnosis
from fastgpu_comm.cli import main


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["env", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_report_has_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys)
    assert set(found) == {
        *["versions", "backend", "processor", "interfaces", "transports", "limits", "settings"],
        "environment",
    }
    assert found["versions"]["fastgpu_comm"] == fastgpu_comm.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["compiler"].split()[0] in ("gcc", "clang")
    assert found["backend"]["fastgpu"] == found["backend"]["gloo"] == "available"
    assert "base" in found["processor"]["instruction set"]
    assert "127.0.0.1" in found["interfaces"]["lo"]
    assert found["transports"]["shm"] == "on"
    assert found["transports"]["tcp"].startswith("on: ")
    assert set(found["limits"]) > {"open files", "locked memory", "/dev/shm"}
    assert found["settings"]["FASTGPU_LANES"] == "auto (default)"


def test_the_text_has_what_the_json_has(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys)
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    for title, section in found.items():
        assert f"\n{title}\n" in f"\n{printed}"
        for name in section:
            assert f"\n  {name} " in printed


def test_settings_say_where_they_come_from_and_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTGPU_LANES", "99")
    monkeypatch.setenv("FASTGPU_ALGORITHM", "ring")
    monkeypatch.setenv("FASTGPU_TRANSPROT", "hush")
    monkeypatch.setenv("FASTGPU_CODEC", "\udcff")  # the byte 0xff, which is not UTF-8
    found = diagnosis.collect()["settings"]
    assert found["FASTGPU_ALGORITHM"] == "ring (from the environment)"
    assert found["FASTGPU_LANES"].startswith("99 (from the environment): FASTGPU_LANES is '99'")
    assert found["FASTGPU_CODEC"].startswith(r"\xff (from the environment): FASTGPU_CODEC is ")
    assert found["FASTGPU_TRANSPROT"] == "unknown: unset it. Did you mean 'FASTGPU_TRANSPORT'?"


def test_a_transport_that_is_off_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTGPU_TRANSPORT", "tcp")
    monkeypatch.setenv("FASTGPU_INTERFACE", "nosuch0")
    found = diagnosis.collect()["transports"]
    assert found["shm"] == "off: FASTGPU_TRANSPORT is tcp"
    assert found["tcp"].startswith("off: ")
    assert "nosuch0" in found["tcp"]
    monkeypatch.setenv("FASTGPU_TRANSPORT", "shm")
    monkeypatch.setenv("FASTGPU_SINGLE_COPY", "never")
    found = diagnosis.collect()["transports"]
    assert found["tcp"] == "off: FASTGPU_TRANSPORT is shm"
    assert found["single copy inside a host"] == "off: FASTGPU_SINGLE_COPY is never"

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    found = diagnosis.collect()["transports"]
    assert found["shm"] == "off: shared memory (memfd) cannot be made: Operation not permitted"


def test_a_backend_that_cannot_be_loaded_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgpu_comm.backend._why_not_loaded", lambda: "built for torch 1.0")
    assert diagnosis.collect()["backend"]["fastgpu"] == "built for torch 1.0"


def test_nothing_secret_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FASTGPU_PASSWORD", "HF_TOKEN", "MASTER_ADDR"):
        monkeypatch.setenv(name, "hunter2")
    main(["env"])
    printed = capsys.readouterr().out
    assert "hunter2" not in printed
    assert os.path.expanduser("~") + "/" not in printed
    if len(socket.gethostname()) > 4:  # a short name may be part of another word
        assert socket.gethostname() not in printed
