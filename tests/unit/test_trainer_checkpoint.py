"""Checkpoints: whole files are read back, damaged ones are refused, the newest few are kept."""

import logging
from pathlib import Path

import pytest
import torch

from fastgpu_comm.trainer.checkpoint import CheckpointError, CheckpointFolder, decode, read_payload


def folder_with(path: Path, *steps: int, keep: int = 3) -> CheckpointFolder:
    folder = CheckpointFolder(path / "checkpoints", keep)
    for step in steps:
        folder.write(step, {"step": step, "weights": torch.arange(100) * step})
    return folder


def flip_a_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, 7)
    state = decode(read_payload(folder.path(7)))
    assert state["step"] == 7
    assert torch.equal(state["weights"], torch.arange(100) * 7)


def test_the_newest_few_are_kept_and_nothing_else_lies_about(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, 1, 2, 3, 10, keep=2)
    assert folder.steps() == [3, 10]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("place", [0, 9, 20, 48, 500, -1])
def test_a_flipped_bit_anywhere_is_found_and_the_previous_file_used(
    tmp_path: Path, place: int
) -> None:
    folder = folder_with(tmp_path, 1, 2)
    flip_a_bit(folder.path(2), place)
    payload, damages = folder.newest_good()
    assert payload is not None
    assert decode(payload)["step"] == 1
    assert len(damages) == 1
    assert str(folder.path(2)) in damages[0]


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [(0, "0 bytes, the header alone has 48"), (47, "cut off"), (300, "its header says")],
)
def test_a_truncated_file_is_refused_saying_what_was_found(
    tmp_path: Path, size_bytes: int, said: str
) -> None:
    folder = folder_with(tmp_path, 5)
    path = folder.path(5)
    path.write_bytes(path.read_bytes()[:size_bytes])
    with pytest.raises(CheckpointError, match=said):
        read_payload(path)


def test_a_damaged_file_is_set_aside_and_does_not_count_among_those_kept(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, 1, 9, keep=1)
    folder.path(9).write_bytes(b"")
    with pytest.raises(CheckpointError, match="No good checkpoint is left"):
        folder.newest_good()
    assert folder.path(9).with_name(folder.path(9).name + ".damaged").exists()
    folder.write(3, {"step": 3})
    assert folder.steps() == [3]


def test_another_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "step-000000000001.ckpt"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_payload(path)


def test_an_empty_or_missing_folder_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path, 2).newest_good() == (None, [])
    assert CheckpointFolder(tmp_path / "missing", 2).newest_good() == (None, [])


def test_a_crash_while_writing_leaves_the_earlier_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tmp_path, 1)

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        folder.write(2, {"step": 2})
    monkeypatch.undo()
    assert folder.steps() == [1]
    payload, damages = folder.newest_good()
    assert payload is not None
    assert damages == []
    folder.write(2, {"step": 2})
    assert sorted(p.suffix for p in (tmp_path / "checkpoints").iterdir()) == [".ckpt", ".ckpt"]


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return logging.getLogger, ("never",)

    folder = CheckpointFolder(tmp_path, 1)
    path = folder.write(1, {"attack": Attack()})
    with pytest.raises(Exception, match="Weights only load failed"):
        decode(read_payload(path))
