"""Files dated ahead of the clock."""

import os
import time

from chain.clock import ahead_of_the_clock, set_back


def test_what_is_ahead_is_found_and_set_back(tmp_path):
    (tmp_path / "a").mkdir()
    paths = [tmp_path / "a" / "early", tmp_path / "a" / "late", tmp_path / "later"]
    for path, seconds in zip(paths, (-60, 60, 9e8), strict=True):
        path.touch()
        os.utime(path, (time.time() + seconds,) * 2)
    os.utime(tmp_path / "a", (4e9, 4e9))  # a folder is no output
    (tmp_path / "dangling").symlink_to("nowhere")
    early = paths[0].stat().st_mtime_ns
    found = ahead_of_the_clock(tmp_path)
    assert sorted(found) == paths[1:]
    set_back(found)
    assert ahead_of_the_clock(tmp_path) == []
    one, other = (path.stat().st_mtime_ns for path in paths[1:])
    assert early < one == other
    (tmp_path / "new").touch()
    assert (tmp_path / "new").stat().st_mtime_ns > one
    assert ahead_of_the_clock(tmp_path / "nothing") == []
