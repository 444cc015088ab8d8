import os
import select
import signal
import subprocess
import sys

import pytest

from analysis.errors import StudyError
from chain.locks import lock, locked

HOLD = """
import sys, time
from pathlib import Path
from chain.locks import lock
held = lock(Path(sys.argv[1]), "the test")
print("held", flush=True)
if sys.argv[2:] == ["child"]:
    import subprocess
    # It has the lock, and not our ends of the pipes: they would be open for as long as it lives.
    nothing = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    print(subprocess.Popen(["sleep", "600"], **nothing).pid, flush=True)
sys.stdin.readline()
"""


def start(path, *options):
    command = [sys.executable, "-c", HOLD, str(path), *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_second_process_waits_and_says_for_what(tmp_path):
    first = start(tmp_path / "folder" / "lock")
    assert first.stdout.readline() == "held\n"
    second = start(tmp_path / "folder" / "lock")
    assert second.stderr.readline() == "another process is at the test; waiting for it\n"
    assert select.select([second.stdout], [], [], 0.5)[0] == []  # not yet
    first.communicate("\n")
    assert second.stdout.readline() == "held\n"
    second.communicate("\n")
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_killed_process_leaves_no_lock_even_if_its_child_lives(tmp_path, capfd):
    first = start(tmp_path / "lock", "child")
    assert first.stdout.readline() == "held\n"
    child = int(first.stdout.readline())
    first.kill()
    first.communicate()
    try:
        with locked(tmp_path / "lock", "the test"):
            assert capfd.readouterr().err == ""
    finally:
        os.kill(child, signal.SIGKILL)  # fails if it no longer lived


def test_the_lock_is_given_back(tmp_path, capfd):
    with locked(tmp_path / "lock", "the test"):
        pass
    lock(tmp_path / "lock", "the test").close()
    with locked(tmp_path / "lock", "the test"):
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_lock_is_a_file(tmp_path, kind):
    """A pipe would be waited for until somebody reads it; a link makes an empty file wherever it leads."""
    path = tmp_path / "lock"
    if kind == "pipe":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    else:
        path.symlink_to(tmp_path / "elsewhere")
        reader = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(StudyError, match=r"cannot write .*: its lock is (a link|no regular file)"):
            lock(path, "the test")
    finally:
        os.close(reader)
    assert not (tmp_path / "elsewhere").exists()
