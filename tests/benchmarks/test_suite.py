"""The benchmark on tasks so few that it takes seconds: that engines agree, and what is stored of them."""

from dataclasses import replace
from importlib.util import find_spec

import pandas as pd
import pytest
import torch

from analysis.schemas import SCHEMAS
from analysis.store import provenance, read_study, write_table
from core import TrainConfig
from tests.benchmarks import outer_loop, suite
from tests.benchmarks.__main__ import main, summary
from tests.benchmarks.engines import ENGINES, Eager, Job
from tests.benchmarks.workloads import CURVE_CHUNK, WORKLOADS, workload_named

SHORT = suite.Options(rounds=3, seconds=0.0, memory=False)
# Small enough for a test; all kinds, and all rules.
TINY = {
    "linnet_5_seeds": {"seeds": 2, "width": 8},
    "klin_5_seeds": {"seeds": 2},
    "lr_kfc_5way_1shot": {"tasks": 2, "ways": 2},
    "cnn4_maml_5way_1shot": {"tasks": 2, "width": 4, "depth": 2},
    "cnn2_kfc_10way_5shot": {"tasks": 3, "width": 3, "shots": 2, "steps": 2, "per_chunk": 2},
    "evaluation_600": {"tasks": 3, "width": 3, "depth": 2, "shots": 1, "measured": 2},
    "layer_roles": {"tasks": 2, "width": 3, "depth": 2, "shots": 1, "measured": 0, "steps": 2},
    "fc_noise": {"tasks": 2, "width": 3, "depth": 3, "shots": 1, "measured": 0, "steps": 2},
}


def tiny(name):
    return replace(WORKLOADS[name], **TINY[name])


def pairs():
    """Workload and engine, where the engine has a part in it; those that are not installed are skipped, and say so."""
    for name in TINY:
        for engine in ENGINES.values():
            why = engine.refusal(tiny(name))
            if engine.name == "naive" or engine.compiles or why.startswith("not applicable"):
                continue
            marks = [pytest.mark.skip(reason=why)] if why else []
            yield pytest.param(name, engine.name, marks=marks)


@pytest.mark.parametrize(("name", "engine"), list(pairs()))
def test_engines_agree_with_the_reference(name, engine):
    workload = tiny(name)
    exact = torch.float32 if workload.kind == "training" else torch.float64
    expected = suite.job(ENGINES["naive"], workload, exact, 2).run()
    found = suite.job(ENGINES[engine], workload, exact, 2).run()
    if ENGINES[engine].is_exact:
        assert suite.difference(found, expected) < suite.TOLERANCE[torch.float64]
    else:  # half precision points the same way
        one, other = (
            torch.cat([tensors[name].double().flatten() for name in expected]) for tensors in (found, expected)
        )
        assert torch.cosine_similarity(one, other, dim=0) > 0.9


@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.parametrize("name", [name for name in TINY if WORKLOADS[name].kind in ("training", "meta-gradient")])
def test_jax_agrees_with_the_reference(name):
    test_engines_agree_with_the_reference(name, "jax")


def test_compiled_agrees_with_the_reference():
    workload = replace(tiny("klin_5_seeds"), seeds=1)
    expected = suite.job(ENGINES["naive"], workload, torch.float32, 2).run()
    assert suite.difference(suite.job(ENGINES["compiled"], workload, torch.float32, 2).run(), expected) < 1e-5


def test_a_second_call_of_a_training_goes_on():
    once, twice = (suite.job(ENGINES["naive"], tiny("linnet_5_seeds"), torch.float32, 2) for _ in range(2))
    first = {name: tensor.clone() for name, tensor in twice.run().items()}
    assert suite.difference(once.run(), first) == 0
    assert suite.difference(twice.run(), first) > 1e-3


def test_rows_have_what_was_measured_and_say_why_not():
    workload = tiny("lr_kfc_5way_1shot")
    table = suite.measure(workload, ["eager"], SHORT).set_index("engine")
    assert list(table.reset_index().columns.difference(SCHEMAS["benchmark"])) == []
    assert list(table.index) == list(ENGINES)
    assert table.loc["naive", "speedup"] == 1
    assert table.loc["jax", "status"] == suite.NOT_ASKED
    ours = table.loc["eager"]
    assert ours["status"] == "ok"
    assert ours["speedup_low"] <= ours["speedup"] <= ours["speedup_high"]
    assert ours["difference"] < 1e-6
    assert ours["compared_in"] == "float64"
    assert 0 < ours["gflop"] < table.loc["naive", "gflop"]  # thin factors: less to do
    assert ours["fraction_of_peak"] == pytest.approx(
        ours["gflop"] / ours["seconds"] / ours["peak_gflop_per_second"]
    )  # fmt: skip
    assert (ours["least"], ours["aim"]) == (15, 25)


def test_the_time_of_a_share_is_scaled():
    whole, share = tiny("evaluation_600"), replace(tiny("evaluation_600"), tasks=200)
    assert suite.job(ENGINES["naive"], whole).units == pytest.approx(2 / 3)
    assert suite.job(ENGINES["naive"], share).units == pytest.approx(2 / 200)
    tables = [suite.measure(workload, ["eager"], SHORT) for workload in (whole, share)]
    assert tables[1]["gflop"][0] == pytest.approx(tables[0]["gflop"][0] * 200 / 3)


def test_an_engine_that_computes_something_else_is_not_timed(monkeypatch):
    class Wrong(Eager):
        def job(self, problem, iterations=20):
            own = super().job(problem, iterations)
            return Job(lambda: {name: 1.01 * tensor for name, tensor in own.run().items()}, own.units)

    monkeypatch.setitem(ENGINES, "eager", Wrong())
    table = suite.measure(tiny("lr_kfc_5way_1shot"), ["eager"], SHORT).set_index("engine")
    assert table.loc["eager", "status"] == "failed: results differ by 1.0e-02 in float64"
    assert pd.isna(table.loc["eager", "speedup"])
    assert table.loc["naive", "status"] == "ok"


def test_an_engine_that_is_not_installed_is_named_as_absent(monkeypatch):
    monkeypatch.setattr(ENGINES["higher"], "package", "no_such_package", raising=False)
    table = suite.measure(tiny("linnet_5_seeds"), ["higher"], SHORT).set_index("engine")
    assert table.loc["higher", "status"] == "absent: no_such_package is not installed"
    assert "absent" in summary(table.reset_index())


def test_a_point_of_a_curve_differs_in_that_alone():
    point = workload_named("linnet_5_seeds@width=16")
    assert point.width == 16
    assert replace(point, width=64) == WORKLOADS["linnet_5_seeds"].at("width", 64)


def test_on_a_curve_over_tasks_equally_many_go_through_at_once():
    points = [workload_named(f"cnn4_maml_5way_1shot@tasks={n}") for n in (4, 64)]
    assert [point.per_chunk for point in points] == [CURVE_CHUNK, CURVE_CHUNK]
    assert workload_named("cnn4_maml_5way_1shot@width=16").per_chunk == "auto"


def test_the_outer_loop_has_every_part(tmp_path):
    config = TrainConfig(
        dataset="synthetic", model="lr", method="klin", steps=1, adapt_lr=1.0, first_order=False, meta_optimizer="sgd",
        meta_lr=1.0, iterations=1000, tasks_per_iteration=1, eval_every=500, eval_tasks=4,
    )  # fmt: skip
    table = outer_loop.measure("klin_1_seed", [config], iterations=2)
    assert table["part"].tolist() == list(outer_loop.PARTS)
    assert (table["fraction"] >= 0).all()
    assert table["eval_points"].unique().tolist() == [8]  # 0, 10, 20, 50, 100, 200, 500, 1000
    assert table["fraction"].tolist() == pytest.approx((table["seconds"] / table["step_seconds"]).tolist())
    write_table(tmp_path, "outer_loop", "x", table, provenance())


def test_every_training_of_the_benchmark_has_its_outer_loop_measured():
    trained = {name for name, w in WORKLOADS.items() if w.kind in ("training", "meta-gradient")}
    assert set(outer_loop.TRAININGS) == trained
    for name, configs in outer_loop.TRAININGS.items():
        w, config = WORKLOADS[name], configs[0]
        assert (config.model, config.method, config.steps) == (w.model, w.method, w.steps), name
        assert (config.tasks_per_iteration, len(configs)) == (w.tasks, w.seeds), name


@pytest.mark.slow
def test_the_command_stores_a_workload_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(WORKLOADS, "lr_kfc_5way_1shot", replace(tiny("lr_kfc_5way_1shot"), scaling={"steps": (1, 2)}))
    monkeypatch.setattr("tests.benchmarks.__main__.outer_loop.TRAININGS", {})
    monkeypatch.setattr("tests.benchmarks.suite.Options", lambda *a, **k: SHORT)
    typed = ["--workload", "lr_kfc_5way_1shot", "--engine", "eager", "--threads", "1", "--results", str(tmp_path)]
    assert main(typed) == 0
    assert "times faster than naive" in capsys.readouterr().out
    table = read_study(tmp_path, "benchmark")
    assert table.groupby("axis")["value"].unique().map(list).to_dict() == {"": [pd.NA], "steps": [1, 2]}
    files = {path: path.read_bytes() for path in (tmp_path / "benchmark").iterdir()}
    assert main(typed) == 0
    assert "measured before" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in files} == files


def test_stopped_it_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tests.benchmarks.suite.measure", stop)
    assert main(["--workload", "klin_1_seed", "--threads", "1", "--results", str(tmp_path)]) == 130
    told = capsys.readouterr().err
    assert told == "stopped: what was being measured is lost; the same command measures what is missing\n"


@pytest.mark.parametrize(
    ("option", "told"), [("--workload", "unknown workload 'x'"), ("--engine", "unknown engine 'x'")]
)
def test_an_unknown_name_is_told(option, told, capsys):
    assert main([option, "x", "--threads", "1"]) == 2
    assert told in capsys.readouterr().err
