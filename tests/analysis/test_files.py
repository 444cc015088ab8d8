"""A file is whole under its name, or what was there before is."""

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
