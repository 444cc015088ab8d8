import io
import os
import threading
import time

import pytest

from chain.watching import news, watch

LINE = "synthetic {}/30000 it ({} %), 00:10 gone, 00:11 left, lr maml=loss 0.689"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "train" / "synthetic.log"
    path.parent.mkdir()
    path.write_text(LINE.format(3000, 10) + "\n")
    return path


def test_the_last_line_is_told_once_and_without_its_numbers(tmp_path, log):
    told = {}
    assert news(tmp_path, told) == ["train synthetic: synthetic 3000/30000 it (10 %), 00:10 gone, 00:11 left"]
    assert news(tmp_path, told) == []
    with log.open("a") as file:
        file.write(LINE.format(6000, 20) + "\n" + LINE.format(9000, 30) + "\n")
    assert news(tmp_path, told) == ["train synthetic: synthetic 9000/30000 it (30 %), 00:10 gone, 00:11 left"]


@pytest.mark.parametrize("text", ["", "results/runs/a: ok\n", LINE.format(1, 0) + "\nresults/runs/a: ok\n"])
def test_a_job_that_is_done_or_has_not_begun_tells_nothing(tmp_path, log, text):
    log.write_text(text)
    assert news(tmp_path, {}) == []


def test_a_long_log_is_read_from_its_end(tmp_path, log):
    log.write_text("a warning of many words\n" * 10_000 + LINE.format(9, 0) + "\n")
    assert len(news(tmp_path, {})) == 1


def test_logs_of_an_earlier_call_are_not_told(tmp_path, log):
    stream = io.StringIO()
    stop = watch(tmp_path, stream, every=0.01)
    time.sleep(0.1)
    assert stream.getvalue() == ""
    other = tmp_path / "study" / "similarity-x.log"
    other.parent.mkdir()
    other.write_text("7/50 task (14 %), 00:03 gone, 00:18 left\n")
    deadline = time.monotonic() + 120
    while not stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    assert stream.getvalue() == "study similarity-x: 7/50 task (14 %), 00:03 gone, 00:18 left\n"


def test_a_pipe_is_not_waited_for(tmp_path, log):
    pipe = log.with_name("pipe.log")
    os.mkfifo(pipe)
    told = []
    looking = threading.Thread(target=lambda: told.extend(news(tmp_path, {})), daemon=True)
    looking.start()
    looking.join(60)
    if is_waiting := looking.is_alive():
        os.close(os.open(pipe, os.O_WRONLY))
        looking.join()
    assert not is_waiting
    assert len(told) == 1


def test_no_logs_are_no_mistake(tmp_path):
    assert news(tmp_path / "absent", {}) == []
