import fcntl
import json
import os

import pytest
from safetensors import SafetensorError

from core.errors import UserError
from core.files import read_json, write_atomically, write_json


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})

    def fill_up(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(UserError, match=r"cannot write .*run\.json: .*No space left on device"):
        write_atomically(path, fill_up)
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*: Not a directory"):
        write_json(tmp_path / "file" / "deeper" / "x.json", {})


def test_written_files_are_readable_like_others(tmp_path):
    write_json(tmp_path / "a.json", [1])
    (tmp_path / "b.json").write_text(json.dumps([1]))
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b.json").stat().st_mode


@pytest.mark.parametrize(("text", "message"), [(None, "does not exist"), ("{", "is not valid JSON")])
def test_unreadable_json_is_explained(tmp_path, text, message):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_json(path)


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
    with pytest.raises(UserError, match=r"cannot write .*one\.json: Input/output error"):
        write_atomically(tmp_path / "one.json", lambda temporary: temporary.write_text("whole"))
