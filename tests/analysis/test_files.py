"""A file is whole under its name, or what was there before is."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from analysis.errors import StudyError
from analysis.files import read_json, write_atomically


def test_the_file_is_written_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.txt"
    assert write_atomically(path, lambda temporary: temporary.write_text("whole")) == path
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["table.txt"]


def test_it_is_as_readable_as_any_other_file_of_its_user(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "ours", lambda temporary: temporary.write_text(""))
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(StudyError, match=r"cannot write .*table\.txt: No space left on device"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.txt"]


def test_an_interruption_while_writing_leaves_nothing_beside_it(tmp_path: Path) -> None:
    def interrupt(temporary: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "table.txt", interrupt)
    assert os.listdir(tmp_path) == []


def test_json_is_read_back_and_what_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{"a": [1]}')
    (tmp_path / "bad.json").write_text('{"a": [')
    assert read_json(tmp_path / "good.json") == {"a": [1]}
    with pytest.raises(StudyError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(StudyError, match=r"bad\.json is not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_what_a_killed_writer_left_is_removed_and_a_living_one_keeps_its_own(tmp_path):
    for name in (".one.json.abcd1234.tmp", ".two.json.abcd1234.tmp", ".other.tmp", "mine.tmp"):
        (tmp_path / name).write_text("half of it")
    with open(tmp_path / ".two.json.abcd1234.tmp") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        write_atomically(tmp_path / "one.json", lambda temporary: temporary.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.tmp", ".two.json.abcd1234.tmp", "mine.tmp", "one.json",
    ]  # fmt: skip


def test_a_writer_holds_its_temporary_file(tmp_path):
    def write(temporary):
        write_atomically(tmp_path / "two.json", lambda other: other.write_text("whole"))
        temporary.write_text("whole, too")

    write_atomically(tmp_path / "one.json", write)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]


def test_a_failure_to_clean_up_hides_no_failure_to_write(tmp_path, monkeypatch):
    def gone(*arguments, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.unlink", gone)
    monkeypatch.setattr("os.fsync", gone)
    with pytest.raises(StudyError, match=r"cannot write .*one\.json: Input/output error"):
        write_atomically(tmp_path / "one.json", lambda temporary: temporary.write_text("whole"))
