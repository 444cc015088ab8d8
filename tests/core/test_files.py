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
