"""A few faults of each kind (`make test-faults` injects over a thousand); and the judge sees a loss for what it is."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chain.digests import digest_of
from core.errors import UserError
from tests.faults.contents import content, stale_records
from tests.faults.judge import goes_on, make_case, told, whole
from tests.faults.processes import Ended, ended
from tests.faults.run import KINDS
from tests.faults.works import Work, guarded

ROOT = Path(__file__).parents[2]


def test_a_few_faults_of_each_kind_lose_nothing():
    command = [
        sys.executable,
        "-m",
        "tests.faults.run",
        "--injections",
        "4",
        "--work",
        "state",
        "table",
        "cache",
        "chain draw",
    ]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    for kind in KINDS:
        assert re.search(rf"^{kind} +[34] +0 ", outcome.stdout, re.MULTILINE) or kind == "races", outcome.stdout


def in_place(folder):
    """Writes as nobody should: in place, and half of it first."""
    path = folder / "one.json"

    def write():
        with path.open("w") as file:
            file.write('{"a": ')
            file.flush()
            if (folder / "trouble").exists():
                raise UserError("cannot write")
            file.write("1}")

    return guarded(write)


def test_a_half_written_file_is_a_loss(tmp_path):
    case = make_case(Work("in place", in_place), tmp_path / "here")
    folder = case.work.prepare(tmp_path / "here")
    (folder / "trouble").touch()
    outcome = ended(lambda: in_place(folder))
    assert outcome.code == 2
    assert told(outcome) == []
    assert "half-written" in whole(case, folder, outcome)[0]
    assert "the next call ended with 2" in goes_on(case, folder)[0]


def test_records_of_what_was_made_again_are_as_before_and_those_of_other_files_are_stale(tmp_path):
    """A run and a table have their date in the file, and so have the digests of the files."""
    found = []
    for name in ("today", "later"):
        run, table = tmp_path / name / "runs" / "a" / "run.json", tmp_path / name / "study" / "a.parquet"
        trained, drawn = (tmp_path / name / "chain" / part / "a.json" for part in ("trained", "drawn"))
        for path in (run, table, trained, drawn):
            path.parent.mkdir(parents=True)
        run.write_text(json.dumps({"date": name}))
        table.write_text(name)
        trained.write_text(json.dumps({"runs": {"a": "0"}, "files": {"a": digest_of(run)}}))
        drawn.write_text(json.dumps({"tables": ["study/a"], "digests": [digest_of(table)]}))
        assert stale_records(tmp_path / name) == []
        found.append([content(path) for path in (run, trained, drawn)])
    assert found[0] == found[1]
    run.write_text("{}")
    assert stale_records(tmp_path / name) == ["chain/trained/a.json"]
    table.write_text("")
    assert stale_records(tmp_path / name) == ["chain/trained/a.json", "chain/drawn/a.json"]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Ended(None, ""), "it hung"),
        (Ended(1, "Traceback (most recent call last):\n"), "a traceback"),
        (Ended(1, "error"), "exit code 1"),
        (Ended(2, ""), "no sentence"),
    ],
)
def test_how_a_call_may_not_end(outcome, said):
    assert said in told(outcome)[0]


def test_how_a_call_may_end():
    for outcome in (
        Ended(0, ""),
        Ended(2, "error: cannot write x: No space left"),
        Ended(-9, ""),
        Ended(130, "stopped"),
    ):
        assert told(outcome) == []


def test_a_file_that_is_missing_after_a_success_is_a_loss(tmp_path):
    def begin(folder):
        return guarded(lambda: (folder / "one.json").write_text('{"a": 1}'))

    case = make_case(Work("one", begin), tmp_path / "here")
    folder = case.work.prepare(tmp_path / "here")
    assert whole(case, folder, Ended(0, "")) == ["it said that all is well, without one.json"]
    assert whole(case, folder, Ended(2, "error")) == []
    (folder / "one.json").write_text('{"a": 2}')
    assert whole(case, folder, Ended(2, "error")) == ["neither old nor new: one.json"]
