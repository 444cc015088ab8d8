import multiprocessing
import os
import time

import pytest

from analysis.errors import StudyError
from analysis.store import read_provenance, read_table
from chain import steps
from chain.plan import make_plan
from core.errors import UserError
from core.files import read_json


def times(results):
    return {path: path.stat().st_mtime_ns for path in results.rglob("*.*") if path.parent.parent.name != "chain"}


def test_training_leaves_the_digest_of_each_run(made, tiny):
    plan = make_plan(tiny(made))
    for group, configs in plan.groups.items():
        digests = read_json(plan.record(group))["runs"]
        assert digests.keys() == {config.id for config in configs}
        for (study, table), config in plan.tables.items():
            if study == "post_adaptation" and config in configs:
                found = read_provenance(plan.path(study, table))["settings"]["run_digest"]
                assert digests[config.id] == found


def test_finished_runs_are_not_trained_again(made, tiny):
    plan = make_plan(tiny(made))
    group = next(iter(plan.groups))
    before = times(made / "runs")
    plan.record(group).unlink()
    steps.train(plan, group)
    assert times(made / "runs") == before
    assert plan.is_trained(group)


def test_a_table_that_is_up_to_date_is_marked_and_kept(made, tiny, monkeypatch):
    plan = make_plan(tiny(made))
    table = next(iter(plan.tables))
    path = plan.path(*table)
    os.utime(path, (1e9, 1e9))
    content = path.read_bytes()
    monkeypatch.setattr(steps, "carry_out", lambda *a, **k: pytest.fail("measured again"))
    assert steps.measure(plan, *table) == path
    assert path.read_bytes() == content
    assert path.stat().st_mtime > 1.7e9


def test_a_table_made_with_other_test_tasks_is_replaced(made, tiny):
    plan = make_plan(tiny(made, num_tasks=3))
    table = next(table for table in plan.tables if table[0] == "post_adaptation")
    steps.measure(plan, *table, command="as typed")
    assert read_table(plan.path(*table))["task"].nunique() == 3
    assert read_provenance(plan.path(*table))["command"] == "as typed"
    assert plan.is_measured(*table)


def test_what_cannot_be_done_is_told(tiny, tmp_path):
    plan = make_plan(tiny(tmp_path))
    with pytest.raises(StudyError, match="unknown group of runs"):
        steps.train(plan, "x")
    with pytest.raises(StudyError, match="unknown table of ceilings"):
        steps.measure(plan, "ceilings", "x")
    with pytest.raises(UserError, match="is no run: there is no such folder"):
        steps.measure(plan, *next(iter(plan.tables)))


@pytest.mark.parametrize("harm", ["damaged", "lost"])
def test_a_finished_run_that_cannot_be_read_says_what_helps(made, tiny, harm):
    plan = make_plan(tiny(made))
    (table, config) = next((t, c) for t, c in plan.tables.items() if t[0] == "post_adaptation")
    weights = made / "runs" / config.id / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content) if harm == "damaged" else weights.unlink()
    with pytest.raises(UserError, match=rf"; remove {weights.parent} to train it again$"):
        steps.measure(plan, *table)


def _train(plan, group, barrier, queue):
    whole = steps.meta_train_many

    def slow(*arguments, **options):
        started = time.monotonic()
        time.sleep(1)
        runs = whole(*arguments, **options)
        queue.put((started, time.monotonic()))
        return runs

    steps.meta_train_many = slow
    barrier.wait()
    steps.train(plan, group)


@pytest.mark.slow
def test_two_processes_at_one_group_take_turns(tiny, tmp_path):
    plan = make_plan(tiny(tmp_path))
    group = next(iter(plan.groups))
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.SimpleQueue()
    processes = [context.Process(target=_train, args=(plan, group, barrier, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (_, first_ended), (second_started, _) = sorted([queue.get(), queue.get()])
    assert first_ended <= second_started
    assert plan.is_trained(group)
