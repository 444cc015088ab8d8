"""The chain as Snakemake carries it out, in a copy of the project's code, so that a test may change it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cluster.compare import assert_same_results

ROOT = Path(__file__).parents[2]
COPIED = ("bounds", "core", "analysis", "figures", "chain", "profiles", "Snakefile")
# Two groups of two seeds, five tables, one figure.
TINY = ("preset=quick", "datasets=synthetic", "figures=fig1", "iterations=4", "seeds=2", "num_tasks=2", "threads=1")
# Loaded by every Python process of the copy: kills all of them when a file of a certain name is about to be renamed to
# its final name for the n-th time. What is left is what a machine leaves whose power fails.
KILLER = textwrap.dedent(
    """
    import fnmatch, os, pathlib, signal

    pattern, times = os.environ.get("KILL_AT", ":0").rsplit(":", 1)
    rename = os.replace

    def replace(source, target, **options):
        if fnmatch.fnmatch(str(target), pattern):
            seen = pathlib.Path("seen")
            with seen.open("a") as file:
                file.write("x")
            if seen.stat().st_size == int(times):
                os.killpg(os.getpgid(0), signal.SIGKILL)
        return rename(source, target, **options)

    os.replace = replace
    """
)


class Project:
    """A copy of the code, in which Snakemake is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        (folder / "killer").mkdir()
        (folder / "killer" / "sitecustomize.py").write_text(KILLER, encoding="utf-8")

    def __call__(
        self, *options: str, kill_at: str = ":0", settings: tuple[str, ...] = (), reduced: tuple[str, ...] = TINY
    ) -> tuple[int, str]:
        """Run the chain into `results`; returns the exit code and what was printed."""
        (self.folder / "seen").unlink(missing_ok=True)
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *options, "--config", "results=results"]
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "killer"), "KILL_AT": kill_at}
        done = subprocess.run(
            [*command, *reduced, *settings], cwd=self.folder, env=environment, capture_output=True, text=True,
            start_new_session=True,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def edit(self, path: str, old: str, new: str) -> None:
        """Change one line of the code."""
        text = (self.folder / path).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (self.folder / path).write_text(text.replace(old, new), encoding="utf-8")

    def times(self) -> dict[str, int]:
        """When each file was written last, but for logs and locks."""
        found = {str(path.relative_to(self.results)): path for path in self.results.rglob("*") if path.is_file()}
        return {k: v.stat().st_mtime_ns for k, v in found.items() if "/logs/" not in k and not k.endswith("lock")}


def jobs(output: str) -> dict[str, int]:
    """How many jobs of each rule a dry run or a run tells of; empty if there is nothing to do."""
    table = re.search(r"Job stats:\njob +count\n[- ]+\n((?:\w+ +\d+\n)+)", output)
    return {} if table is None else {k: int(v) for k, v in re.findall(r"(\w+) +(\d+)", table.group(1))}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project") / "copy")
    code, output = project()
    assert code == 0, output
    for log in (project.results / "chain" / "logs" / "train").iterdir():
        assert re.search(r"^synthetic .* \d/4 it \(\d+ %\), ", log.read_text(), re.MULTILINE)
    return project


@pytest.fixture
def project(once, tmp_path):
    """A project with the tiny chain carried out, undisturbed."""
    shutil.copytree(once.folder, tmp_path / "copy", symlinks=True)
    copy = object.__new__(Project)
    copy.folder = tmp_path / "copy"
    return copy


def test_a_dry_run_says_what_would_run_and_what_it_costs_and_does_nothing(tmp_path):
    project = Project(tmp_path / "copy")
    code, output = project("--dry-run")
    assert code == 0
    assert jobs(output) == {"train": 2, "study": 5, "figure": 1, "all": 1, "total": 9}
    assert "reduced: synthetic_linear: 4 iterations in place of 30,000" in output
    assert re.search(r"to train on synthetic: 2 jobs, 16 iterations in 4 runs: \d+\.\d minutes here", output)
    assert "to measure or find up to date: 5 of 5 tables" in output
    assert "to draw: fig1" in output
    assert not project.results.exists()


@pytest.mark.slow
def test_each_job_says_what_it_does_and_a_log_how_far_it_is(project):
    for study in ("chain/drawn", "chain/trained", "post_adaptation", "ceilings"):
        shutil.rmtree(project.results / study)
    code, output = project("--quiet", "rules", "host")
    assert code == 0, output
    told = [line for line in output.splitlines() if re.match(r"(train|measure|draw) [a-z]", line)]
    assert len([line for line in told if re.search(r": 2 runs of 4 iterations \((lr|linnet) maml\)$", line)]) == 2
    assert (
        len([line for line in told if re.match(r"measure post_adaptation: synthetic-(lr|linnet)-maml-s\d-", line)]) == 4
    )
    assert told[-1] == "draw fig1"
    assert len(told) == 2 + 5 + 1
    assert "9 of 9 steps (100%) done" in output


def test_a_second_call_does_nothing_and_needs_no_state_of_snakemakes(project):
    before = project.times()
    code, output = project()
    assert (code, jobs(output)) == (0, {})
    assert "Nothing to be done" in output
    shutil.rmtree(project.folder / ".snakemake")
    for path in project.results.rglob("*"):
        os.utime(path, (1e9, 1e9))  # as in a clone, where times say nothing
    code, output = project("--dry-run")
    assert (code, jobs(output)) == (0, {})
    assert project.times().keys() == before.keys()


@pytest.mark.slow
def test_together_or_apart_is_the_same_and_nothing_is_measured_again(project):
    before = project.times()
    tables = {name: (project.results / name).read_bytes() for name in before if name.endswith(".parquet")}
    assert len(tables) > 5
    code, output = project(settings=("together=true",))
    assert code == 0, output
    assert jobs(output)["train"] == 1
    after = project.times()
    assert {name for name in before if after[name] != before[name] and name.startswith("runs/")} == set()
    # A table that is looked at is marked by its time; one that was measured again has another date in it.
    assert {name: (project.results / name).read_bytes() for name in tables} == tables


def test_one_deleted_table_returns_alone_with_its_figure(project):
    before = project.times()
    content = {name: (project.results / name).read_bytes() for name in before}
    table = next(name for name in before if name.startswith("post_adaptation/"))
    (project.results / table).unlink()
    code, output = project()
    assert (code, jobs(output)) == (0, {"study": 1, "figure": 1, "all": 1, "total": 3})
    after = project.times()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {table, "figures/fig1_synthetic.png", "chain/drawn/fig1.json"}
    assert (project.results / "figures/fig1_synthetic.png").read_bytes() == content["figures/fig1_synthetic.png"]


@pytest.mark.slow
def test_a_picture_deleted_or_drawn_by_another_is_drawn_again(project):
    picture = project.results / "figures" / "fig1_synthetic.png"
    content = picture.read_bytes()
    for harm in (picture.unlink, lambda: picture.write_bytes(b"another")):
        harm()
        code, output = project()
        assert (code, jobs(output)) == (0, {"figure": 1, "all": 1, "total": 2})
        assert picture.read_bytes() == content


@pytest.mark.slow
def test_files_ahead_of_the_clock_hide_no_work(project):
    (project.results / "figures" / "fig1_synthetic.png").unlink()
    for path in project.results.rglob("*"):
        os.utime(path, (4e9, 4e9))
    code, output = project("--dry-run")
    assert code == 0
    assert re.search(r"files in results ahead of the clock: \d+; a run dates them now; until then", output)
    code, output = project()
    assert (code, jobs(output)) == (0, {"figure": 1, "all": 1, "total": 2}), output
    code, output = project()
    assert (code, jobs(output)) == (0, {}), output
    assert "ahead of the clock" not in output


@pytest.mark.slow
def test_one_changed_default_makes_its_runs_late_and_leaves_the_old_out_of_the_figure(project):
    before = project.times()
    # LinNet's meta learning rate: two of the four runs, and their tables.
    project.edit("core/experiments.py", '"meta_lr": 1.9, "adapt_lr": 1.9', '"meta_lr": 1.8, "adapt_lr": 1.9')
    code, output = project("--dry-run")
    assert jobs(output) == {"train": 1, "study": 2, "figure": 1, "all": 1, "total": 5}
    code, output = project()
    assert code == 0, output
    after = project.times()
    new = after.keys() - before.keys()
    assert len({name.split("/")[1] for name in new if name.startswith("runs/")}) == 2
    assert all("linnet" in name for name in new)
    redrawn = {"figures/fig1_synthetic.png", "chain/drawn/fig1.json"}
    assert {name for name in before if after[name] != before[name]} == redrawn
    # The same as where the old runs never were: nothing of them is in the picture.
    fresh = Project(project.folder.parent / "fresh")
    shutil.copy(project.folder / "core" / "experiments.py", fresh.folder / "core" / "experiments.py")
    assert fresh()[0] == 0
    picture = "figures/fig1_synthetic.png"
    assert (fresh.results / picture).read_bytes() == (project.results / picture).read_bytes()


def test_other_test_tasks_are_measured_and_no_run_is_trained(project):
    _code, output = project("--dry-run", settings=("num_tasks=3",))
    assert jobs(output) == {"study": 5, "figure": 1, "all": 1, "total": 7}


@pytest.mark.slow
def test_one_more_seed_trains_that_seed_and_keeps_the_others(project):
    before = project.times()
    code, output = project(settings=("seeds=3",))
    assert code == 0, output
    after = project.times()
    kept = [name for name in before if name.startswith("runs/")]
    assert kept
    assert all(after[name] == before[name] for name in kept)
    assert sum(name.endswith("run.json") for name in after) == 6


@pytest.mark.slow
def test_killed_again_and_again_the_chain_ends_with_the_same_results(once, tmp_path):
    project = Project(tmp_path / "copy")
    # The state is saved in every iteration, so that there is one to go on from.
    project.edit("core/side_by_side.py", "CHECKPOINT_SECONDS = 60.0", "CHECKPOINT_SECONDS = -1.0")
    killed_at = (
        "*/state.safetensors:3",  # in training
        "*/run.json:1",  # a run has its weights, and is not finished
        "*/trained/*.json:1",  # a group is trained, and nobody knows
        "*/post_adaptation/*.parquet:2",  # a table is written
        "*/fig1_synthetic.png:1",  # a picture is written
        "*/drawn/fig1.json:1",
    )
    for point in killed_at:
        # One job at a time: a second one would be killed anywhere, also between the states of its two seeds, which then
        # go on apart, and round otherwise (PROMISES.md).
        code, output = project("--cores", "1", kill_at=point)
        assert code == -signal.SIGKILL, f"not killed at {point}: {output}"
    code, output = project()
    assert code == 0, output
    assert assert_same_results(once.results, project.results) == 5
    assert jobs(project("--dry-run")[1]) == {}


@pytest.mark.slow
def test_two_calls_at_once_take_turns(once, tmp_path):
    project = Project(tmp_path / "copy")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "results=results", *TINY]
    both = [
        subprocess.Popen(command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    told = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sum("another process is at the chain in results; waiting for it" in output for output in told) == 1
    assert sorted(bool(jobs(output)) for output in told) == [False, True]
    assert assert_same_results(once.results, project.results) == 5


def test_figures_of_the_record_are_drawn_from_what_is_there_and_load_no_torch(project):
    shutil.rmtree(project.results / "chain")
    shutil.rmtree(project.results / "runs")
    (project.folder / "killer" / "torch.py").write_text("raise AssertionError('torch is loaded')\n")
    before = (project.results / "figures" / "fig1_synthetic.png").read_bytes()
    code, output = project("--forcerun", "figure", settings=("preset=record", "figures=fig1"), reduced=())
    assert (code, jobs(output)) == (0, {"figure": 1, "all": 1, "total": 2}), output
    assert (project.results / "figures" / "fig1_synthetic.png").read_bytes() == before
    code, output = project(settings=("preset=record", "figures=fig1"), reduced=())
    assert (code, jobs(output)) == (0, {})


def test_a_mistake_is_told_in_a_line(project):
    code, output = project("--dry-run", settings=("num_taks=3",))
    assert code == 1
    assert "unknown setting 'num_taks'; known: compile," in output
    assert "Traceback" not in output
