"""The chain from run to figure: train -> study -> figure. It says what hangs on what; `chain` knows how each is done.

    snakemake --cores all --config preset=quick results=reproduced together=true    # `make reproduce`
    snakemake --cores all --config preset=record results=results      # draw what was measured: `make figures`
    snakemake --dry-run --config preset=paper results=paper           # what would run, and what it costs

`--config` takes the settings of `chain.settings.Settings`, and `threads` of a job. Snakemake's own options say more of
resources: `--set-threads train=4 study=4` (in place of the whole list of a profile), `--set-resources train:gpu=1
train:runtime=600` (minutes). What is out of date is judged by what the files say (a table's provenance, the digests of
runs), and by whether an input is newer; such a job gets the file LATE, which is new at every call, as one more input.
"""

import os
import shlex
import sys
import time
from pathlib import Path

from analysis.errors import StudyError
from chain import clock, drawing, lists, locks, watching
from chain.settings import Settings, as_setting, words_of

options = {name: value for name, value in config.items() if value is not None}
# Of the record: whatever was measured is drawn, and nothing is trained.
IS_RECORD = options.get("preset") == "record"
PYTHON = shlex.quote(sys.executable)
LATE = ".snakemake/out-of-date"
# What a job prints goes into its log; if it fails, its last words, which say why, are on the screen as well. The shell
# lets SIGTERM pass, which a scheduler sends when a job's time is up, and waits: what trains saves its state first.
WAITING = "trap : TERM; "
LOGGED = "> {log:q} 2>&1 || {{ code=$?; tail -n 1 {log:q} >&2; exit $code; }}"


def late(is_done):
    """The one more input of a job that is to be done again."""
    return [] if is_done else [LATE]


def table_paths(tables):
    return [f"{RESULTS}/{study}/{table}.parquet" for study, table in tables]


def prepare():
    """Lock the results, and see that times tell what is new."""
    global LOCK  # held until the process ends
    if not workflow.output_settings.dryrun:
        LOCK = locks.lock(RESULTS / "chain" / ".lock", f"the chain in {RESULTS}")
        watching.watch(RESULTS / "chain" / "logs")
    if ahead := clock.ahead_of_the_clock(RESULTS):
        effect = "a run dates them now; until then jobs may be missing below"
        if not workflow.output_settings.dryrun:
            clock.set_back(ahead)
            effect = "they are dated now"
        print(f"files in {RESULTS} ahead of the clock: {len(ahead)}; {effect}", file=sys.stderr, flush=True)
    # Its content differs, too: Snakemake looks through a change of time alone.
    Path(LATE).parent.mkdir(exist_ok=True)
    Path(LATE).write_text(f"{time.time_ns()}\n")


try:
    RESULTS = as_setting("results", options.get("results", "results" if IS_RECORD else "reproduced"), Path)
    CHAIN = f"{RESULTS}/chain"
    if IS_RECORD:
        if unknown := sorted(options.keys() - {"preset", "results", "figures"}):
            raise StudyError(f"preset=record has the settings results and figures, not {', '.join(unknown)}")
        if workflow.is_main_process:
            prepare()
        names = words_of(options.get("figures", [*lists.FIGURES, *lists.BEYOND]))
        FIGURES = {name: drawing.tables_there(RESULTS, name) for name in names}
        if "figures" in options and (absent := [name for name, tables in FIGURES.items() if not tables]):
            raise StudyError(f"there is no table in {RESULTS} to draw {' or '.join(absent)} from")
        FIGURES = {name: tables for name, tables in FIGURES.items() if tables}
        if not FIGURES:
            raise StudyError(f"there is no table in {RESULTS} to draw a figure from")
        TABLES = []
        DRAW = f"{PYTHON} -m chain draw-all-there {{wildcards.figure}} --results {shlex.quote(str(RESULTS))}"
    else:
        THREADS = as_setting("threads", options.pop("threads", max(1, (os.cpu_count() or 2) // 2)), int)
        if THREADS < 1:
            raise StudyError(f"threads must be at least 1, got {THREADS}")
        settings = Settings.from_config({**options, "results": RESULTS})  # a mistake is told before a lock is waited for
        from chain.costs import left_to_do  # loads torch
        from chain.plan import make_plan

        PLAN = make_plan(settings)
        if workflow.is_main_process:
            prepare()
        FIGURES, TABLES = PLAN.figures, list(PLAN.tables)
        ARGUMENTS = shlex.join(PLAN.settings.arguments()).replace("{", "{{").replace("}", "}}")
        DRAW = f"{PYTHON} -m chain draw {{wildcards.figure}} {ARGUMENTS}"
        if workflow.is_main_process:
            told = [f"reduced: {sentence}" for sentence in PLAN.reductions]
            if workflow.output_settings.dryrun:
                told += left_to_do(PLAN).sentences
            print(*told, sep="\n", file=sys.stderr, flush=True)
except StudyError as error:
    raise WorkflowError(str(error)) from None


rule all:
    input:
        [f"{CHAIN}/drawn/{name}.json" for name in FIGURES],
        table_paths(TABLES),


# All seeds of one configuration train in one job (with `together`, all runs that meet the same tasks). What it leaves
# is the record of the digest of each run. The runs are no outputs: Snakemake deletes those before a job, and an
# interrupted or a longer list goes on from its runs.
if not IS_RECORD:

    rule train:
        input:
            lambda wildcards: late(PLAN.is_trained(wildcards.group)),
        output:
            f"{CHAIN}/trained/{{group}}.json",
        log:
            f"{CHAIN}/logs/train/{{group}}.log",
        params:
            told=lambda wildcards: PLAN.told(wildcards.group),
        threads: THREADS
        resources:
            mem_mb=lambda wildcards, attempt: 4000 * attempt,
            runtime=24 * 60,
            gpu=0,
        shell:
            f"{WAITING}echo {{params.told:q}} >&2; {PYTHON} -m chain train {{wildcards.group}} {ARGUMENTS} {LOGGED}"

    rule study:
        input:
            lambda wildcards: PLAN.record(PLAN.group_of(wildcards.study, wildcards.table)),
            lambda wildcards: late(PLAN.is_measured(wildcards.study, wildcards.table)),
        output:
            # Not deleted before the job, which finds that a table is up to date after all.
            update(f"{RESULTS}/{{study}}/{{table}}.parquet"),
        log:
            f"{CHAIN}/logs/study/{{study}}-{{table}}.log",
        wildcard_constraints:
            study="|".join(sorted({study for study, _ in TABLES})),
            table="[^/]+",
        threads: THREADS
        resources:
            mem_mb=lambda wildcards, attempt: 4000 * attempt,
            runtime=12 * 60,
            gpu=0,
        shell:
            f"{WAITING}echo measure {{wildcards.study}}: {{wildcards.table}} >&2; {PYTHON} -m chain study {{wildcards.study}} {{wildcards.table}} {ARGUMENTS} {LOGGED}"


rule figure:
    input:
        lambda wildcards: table_paths(FIGURES[wildcards.figure]),
        lambda wildcards: late(drawing.is_drawn(RESULTS, wildcards.figure, FIGURES[wildcards.figure])),
    output:
        f"{CHAIN}/drawn/{{figure}}.json",
    log:
        f"{CHAIN}/logs/figure/{{figure}}.log",
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        f"{WAITING}echo draw {{wildcards.figure}} >&2; {DRAW} {LOGGED}"
