import os
import subprocess
import sys

import pytest

import core.locks
from core.errors import UserError
from core.locks import claim

HOLD = """
import sys
from pathlib import Path
from core.locks import claim
held = claim(Path(sys.argv[1]))
print("held" if held else "taken", flush=True)
sys.stdin.readline()
"""


def test_one_process_at_a_time_and_a_killed_one_keeps_nothing(tmp_path):
    folder = tmp_path / "runs" / "one"
    command = [sys.executable, "-c", HOLD, str(folder)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    assert claim(folder) is None
    other.kill()
    other.communicate()
    assert (folder / ".lock").exists()  # what a killed process leaves is no lock
    held = claim(folder)
    assert held is not None
    assert claim(folder) is None  # not even this process has it twice
    held.release()
    assert not (folder / ".lock").exists()


def test_a_claim_leaves_no_folder_that_it_made_and_no_other(tmp_path):
    (tmp_path / "runs").mkdir()
    claim(tmp_path / "runs" / "one").release()
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]
    held = claim(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "one" / "config.json").touch()
    held.release()
    assert [path.name for path in (tmp_path / "runs" / "one").iterdir()] == ["config.json"]


def test_a_lock_that_was_removed_keeps_nobody_out(tmp_path, monkeypatch):
    first = claim(tmp_path)
    flock = core.locks.fcntl.flock

    def released_before(file, how):
        monkeypatch.setattr(core.locks.fcntl, "flock", flock)
        first.release()
        flock(file, how)  # of the file that is gone

    monkeypatch.setattr(core.locks.fcntl, "flock", released_before)
    second = claim(tmp_path)
    assert claim(tmp_path) is None
    second.release()


def test_where_there_are_no_locks_this_is_said(tmp_path, monkeypatch, capsys):
    def refuse(file, how):
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(core.locks.fcntl, "flock", refuse)
        claim(tmp_path / "one").release()
    assert "cannot be locked (No locks available): start no second process" in capsys.readouterr().err
    monkeypatch.setattr(core.locks, "fcntl", None)
    claim(tmp_path / "one").release()
    assert "no locks on this system: start no second process" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/one: Not a directory"):
        claim(tmp_path / "file" / "one")


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_lock_is_a_file(tmp_path, kind):
    """A pipe would be waited for until somebody reads it; a link makes an empty file wherever it leads."""
    path = tmp_path / ".lock"
    if kind == "pipe":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    else:
        path.symlink_to(tmp_path / "elsewhere")
        reader = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(UserError, match=r"cannot write .*: its lock is (a link|no regular file)"):
            claim(tmp_path)
    finally:
        os.close(reader)
    assert not (tmp_path / "elsewhere").exists()
