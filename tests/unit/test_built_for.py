"""When the backend registers for CUDA: only where it can serve it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from fastgpu_comm import _built_for


@pytest.mark.parametrize("has_code", [True, False])
@pytest.mark.parametrize("has_driver", [True, False])
def test_cuda_needs_device_code_and_a_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_code: bool, has_driver: bool
) -> None:
    built = ModuleType("fastgpu_comm._built_with")
    built.HAS_DEVICE_CODE = has_code  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fastgpu_comm._built_with", built)
    driver = tmp_path / "nvidiactl"
    if has_driver:
        driver.touch()
    monkeypatch.setattr(_built_for, "_DRIVER_FILES", (str(driver),))
    assert _built_for.serves_cuda() == (has_code and has_driver)


def test_an_older_extension_serves_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "fastgpu_comm._built_with", ModuleType("fastgpu_comm._built_with")
    )
    assert not _built_for.serves_cuda()
