"""However a program ends, it ends with its own status, and the other ranks learn why it left."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


class Programs:
    """Runs the cases of exit_cases.py on ranks that tests/process/exit_ranks.py forks."""

    def __init__(self) -> None:
        """Starts the process that forks the ranks."""
        program = Path(__file__).with_name("exit_ranks.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, case: str, world: int, folder: Path) -> list[int | None]:
        """Runs a case; returns the exit status of each rank (None: it hung)."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        request = {"case": case, "world": world, "folder": str(folder)}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        statuses: list[int | None] = json.loads(process.stdout.readline())
        return statuses

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    started = Programs()
    yield started
    started.end()


STATUSES = {
    "with_a_pending_message": [0, 0],
    "with_a_pending_collective": [0, 0],
    "with_a_pending_callback": [0, 0],
    "with_a_running_callback": [0, 0],
    "with_a_callback_that_calls": [0, 0],
    "with_an_error": [1, 1],
    "with_sys_exit_in_a_thread": [0, 0],
    "with_os_exit": [7, 7],
    "with_a_thread_that_waits": [0, 0],
    "with_threads_that_call": [0, 0],
    "with_a_killed_peer": [0, -signal.SIGKILL],
    "with_a_numpy_tensor_pending": [0, 0],
    "using_the_group_at_exit": [0, 0],
    "after_training_over_gloo": [0, 0],
}


@pytest.mark.parametrize("case", STATUSES)
def test_a_program_ends(programs: Programs, tmp_path: Path, case: str) -> None:
    statuses = programs.run(case, 2, tmp_path)
    output = [(tmp_path / f"output.{rank}").read_text() for rank in range(2)]
    assert statuses == STATUSES[case], output
    if case != "with_an_error":
        assert "Traceback" not in "".join(output), output
    if case == "with_a_running_callback":
        assert all((tmp_path / f"callback {rank}").exists() for rank in range(2))
    if case == "using_the_group_at_exit":
        assert (tmp_path / "cleaned up 1").read_text() == "[2.0, 2.0, 2.0, 2.0]"


LEFT = {
    "peer_raises": (1, "its program ended with ValueError: a bad input; look at its log"),
    "peer_raises_text_that_is_not_utf8": (
        1,
        "its program ended with ValueError: bad file ?.txt; look at its log",
    ),
    "peer_raises_an_error_that_cannot_be_shown": (
        1,
        "its program ended with _TextlessError; look at its log",
    ),
    "peer_calls_sys_exit": (
        3,
        "its program ended without destroy_process_group(); look at its log",
    ),
    "peer_destroys_its_group": (0, "it destroyed its process group. "),
    "peer_destroys_its_group_because_of_an_error": (
        1,
        "it destroyed its process group while it handled ValueError: a bad input; look at its log",
    ),
    "peer_destroys_its_group_at_exit_after_an_error": (
        1,
        "it destroyed its process group after ValueError: a bad input; look at its log",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_a_peer_that_left_is_said_to_have_left_as_it_did(
    programs: Programs, tmp_path: Path, case: str
) -> None:
    status, why = LEFT[case]
    assert programs.run(case, 2, tmp_path) == [0, status]
    error = (tmp_path / "error").read_text()
    assert re.match(r"rank 1 \(host \S+, pid \d+\) has left the group: " + re.escape(why), error), (
        error
    )
    # The user's first call is number 1, whatever the library called before.
    assert "Seen by rank 0 in all_reduce #1 of group '0' (default_pg)" in error, error


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("peer_leaves_parameters_unused", "its program ended with"),
        ("peer_leaves_parameters_with_a_codec_unused", "its program ended with"),
        ("peer_destroys_its_group_because_of_unused_parameters", "it destroyed its .* it handled"),
    ],
)
def test_a_rank_that_waits_for_unused_parameters_learns_their_names(
    programs: Programs, tmp_path: Path, case: str, why: str
) -> None:
    assert programs.run(case, 2, tmp_path) == [0, 1]
    error = (tmp_path / "error").read_text()
    names = (
        r"did not receive grad for rank 1: other\.bias, other\.weight\. Expected to have finished"
    )
    assert re.search(rf"has left the group: {why} RuntimeError: Parameters which {names}", error), (
        error
    )


def test_a_peer_without_links_is_said_to_have_left_as_it_did(
    programs: Programs, tmp_path: Path
) -> None:
    assert programs.run("peer_raises_and_is_missed_later", 4, tmp_path) == [0, 1, 0, 0]
    for rank in (0, 2, 3):
        error = (tmp_path / f"error {rank}").read_text()
        assert "its program ended with ValueError: a bad input; look at its log" in error, error


def test_an_abort_says_what_its_program_handled(programs: Programs, tmp_path: Path) -> None:
    assert programs.run("peer_aborts_its_group_because_of_an_error", 2, tmp_path) == [0, 0]
    error = (tmp_path / "error").read_text()
    assert "aborted the group: abort() was called on the process group while it handled " in error
    assert "ValueError: a bad input; look at its log" in error


def test_a_process_that_had_groups_forks_ranks(programs: Programs, tmp_path: Path) -> None:
    statuses = programs.run("forks_after_its_groups", 1, tmp_path)
    assert statuses == [0], (tmp_path / "output.0").read_text()
    for turn in range(2):
        for rank in range(2):
            assert (tmp_path / f"turn {turn}" / f"result {rank}").read_text() == "2.0"
