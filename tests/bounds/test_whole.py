"""What is left behind by writers that died, and by those that live."""

import fcntl

import pytest

from bounds.whole import write_whole


def test_what_a_killed_writer_left_is_removed_and_a_living_one_keeps_its_own(tmp_path):
    for name in (".one.json.abcd1234.tmp", ".two.json.abcd1234.tmp", ".other.tmp", "mine.tmp"):
        (tmp_path / name).write_text("half of it")
    with open(tmp_path / ".two.json.abcd1234.tmp") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        write_whole(tmp_path / "one.json", lambda temporary: temporary.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.tmp", ".two.json.abcd1234.tmp", "mine.tmp", "one.json",
    ]  # fmt: skip


def test_a_writer_holds_its_temporary_file(tmp_path):
    def write(temporary):
        write_whole(tmp_path / "two.json", lambda other: other.write_text("whole"))
        temporary.write_text("whole, too")

    write_whole(tmp_path / "one.json", write)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]


def test_a_failure_to_clean_up_hides_no_failure_to_write(tmp_path, monkeypatch):
    def gone(*arguments, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.unlink", gone)
    monkeypatch.setattr("os.fsync", gone)
    with pytest.raises(OSError, match="Input/output error"):
        write_whole(tmp_path / "one.json", lambda temporary: temporary.write_text("whole"))
