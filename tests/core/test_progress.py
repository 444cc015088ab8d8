import io
import re
import sys

import pytest

from core.progress import Lines, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch, capsys):
    """A function that says what was written to stderr, which is no terminal; there is a line at every step."""
    monkeypatch.setattr("core.progress.LINE_SECONDS", 0.0)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    return lambda: capsys.readouterr().err


def test_a_log_has_a_line_for_each_step_that_says_how_far_it_is(stderr):
    with progress_bar(total=4, shown=True, desc="synthetic", unit="it") as bar:
        for step in range(4):
            bar.set_postfix({"loss": step}, refresh=False)
            bar.update()
    text = stderr()
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0].startswith("synthetic 0/4 it (0 %), ")
    wanted = r"synthetic 3/4 it \(75 %\), \d\d:\d\d gone, \d\d:\d\d left, loss=2"
    assert [line for line in lines if re.fullmatch(wanted, line)]
    assert lines[-1].startswith("synthetic 4/4 it (100 %)")
    assert all(line == line.strip() != "" for line in lines)


def test_a_line_is_written_when_some_time_has_passed_and_not_before(stderr, monkeypatch):
    monkeypatch.setattr("core.progress.LINE_SECONDS", 1e9)
    assert list(progress_bar(range(1000), shown=True, leave=False)) == list(range(1000))
    assert len(stderr().splitlines()) == 1


def test_a_line_is_there_at_once():
    class Buffered(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    stream = Buffered()
    Lines(stream).write("\r 1/2 it   ")
    assert stream.flushed == "1/2 it\n"


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    list(progress_bar(range(3), shown=True))
    assert "\r" in stream.getvalue()
    assert "|" in stream.getvalue()


def test_nothing_is_shown_unasked(stderr):
    assert list(progress_bar(range(3), shown=False)) == [0, 1, 2]
    assert not stderr()
