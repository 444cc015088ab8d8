import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from core import load_run, make_model, meta_train, meta_train_many
from core.adaptation import replica_meta_gradient
from core.distributed import ProcessLost
from core.errors import UserError
from core.evaluation import replica_evaluate
from core.group import Group
from core.locks import claim
from core.outer_optimizer import OPTIMIZER_STATE
from core.runs import is_finished, load_tensors, save_tensors
from core.side_by_side import Interrupted, is_curve_point
from core.tasks import DATASETS, make_tasks
from core.tasks.synthetic import SyntheticTasks
from core.version import code_version, command_line
from tests import naive

QUIET = {"progress": False, "device": "cpu"}


def assert_same_run(one, other):
    assert one.status == other.status
    for name in one.theta.keys() | other.theta.keys():
        assert torch.equal(one.theta[name], other.theta[name]), name
    for name in one.xi.keys() | other.xi.keys():
        assert torch.equal(one.xi[name], other.xi[name]), name
    pd.testing.assert_frame_equal(one.curve, other.curve)


def test_training_is_the_naive_outer_loop(tiny_config):
    config = tiny_config(iterations=4, meta_optimizer="sgd", meta_lr=0.5)
    run = meta_train(config, results=None, **QUIET)
    tasks = run.tasks()
    start = meta_train(tiny_config(iterations=0), results=None, **QUIET)
    theta = {name: tensor.clone() for name, tensor in start.theta.items()}
    xi = {name: tensor.clone() for name, tensor in start.xi.items()}
    sgd = torch.optim.SGD([*theta.values(), *xi.values()], lr=config.meta_lr)
    for iteration in range(4):
        episodes = tasks.sample("train", config.tasks_per_iteration, iteration)
        _, (g_theta, g_xi) = naive.meta_gradient(
            run.model, naive.NaiveRule("klin"), theta, xi, episodes, steps=2, lr=1.0, first_order=False
        )
        for tensors, grads in ((theta, g_theta), (xi, g_xi)):
            for name, tensor in tensors.items():
                tensor.grad = grads[name]
        sgd.step()
    moved = {**theta, **xi}
    begun = {**start.theta, **start.xi}
    for name, tensor in {**run.theta, **run.xi}.items():
        # Compared as changes, so that the tolerance measures them.
        torch.testing.assert_close(tensor - begun[name], moved[name] - begun[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["maml", "klin"])
def test_steps_computed_again_train_the_same_run(tiny_config, method):
    plain, again = (
        meta_train(tiny_config(iterations=3, steps=3, method=method), results=None, rematerialise=so, **QUIET)
        for so in (False, True)
    )
    for name, tensor in {**plain.theta, **plain.xi}.items():
        torch.testing.assert_close({**again.theta, **again.xi}[name], tensor, rtol=1e-5, atol=1e-7)


def test_half_precision_is_another_run_that_learns_as_much(tiny_config):
    """What is learned and what is measured stay in single precision."""
    single, half = (
        meta_train(tiny_config(iterations=30, inner_dtype=dtype), results=None, **QUIET) for dtype in (None, "bfloat16")
    )
    assert single.id != half.id
    assert {tensor.dtype for tensor in (*half.theta.values(), *half.xi.values())} == {torch.float32}
    first, last = (half.curve.query(f"iteration == {i} and split == 'train'")["loss"].item() for i in (0, 30))
    expected = single.curve.query("iteration == 30 and split == 'train'")["loss"].item()
    assert last < first
    assert abs(last - expected) < 0.1 * (first - expected)


@pytest.mark.parametrize(
    ("settings", "options", "reason"),
    [
        ({"method": "reptile", "first_order": True}, {"rematerialise": True}, "reptile's iteration cannot be remat"),
        ({}, {"rematerialise": True, "compile": True}, "compiled iteration cannot be rematerialised"),
        ({"method": "reptile", "first_order": True, "inner_dtype": "bfloat16"}, {}, "leave inner_dtype out"),
    ],
)
def test_what_does_not_go_together(tiny_config, settings, options, reason):
    with pytest.raises(UserError, match=reason):
        meta_train(tiny_config(**settings), results=None, **options, **QUIET)


@pytest.mark.parametrize("method", ["maml", "meta_sgd", "meta_curvature", "klin", "kfc", "cholesky", "linear"])
def test_training_lowers_the_loss(tiny_config, method):
    options = {"kfc": {"rule_depth": 2}, "cholesky": {"rule_rank": 4}}.get(method, {})
    config = tiny_config(method=method, points=50, iterations=60, eval_every=0, eval_tasks=20, **options)
    curve = meta_train(config, results=None, **QUIET).curve
    test = curve[curve["split"] == "test"].sort_values("iteration")
    assert test["loss"].iloc[-1] < test["loss"].iloc[0]


def test_seeds_trained_together_are_each_seed_alone(tiny_config):
    configs = [tiny_config(seed=seed, method=method) for method in ("klin", "meta_sgd") for seed in (0, 1, 2)]
    for together, config in zip(meta_train_many(configs, results=None, **QUIET), configs, strict=True):
        alone = meta_train(config, results=None, **QUIET)
        assert together.config == config
        for name, tensor in {**together.theta, **together.xi}.items():
            torch.testing.assert_close(tensor, {**alone.theta, **alone.xi}[name])


def test_methods_of_a_seed_start_alike(tiny_config):
    one, other = meta_train_many(
        [tiny_config(method=method, iterations=0) for method in ("klin", "maml")], results=None, **QUIET
    )
    assert all(torch.equal(one.theta[name], other.theta[name]) for name in one.theta)


def test_chunks_change_nothing_but_rounding(tiny_config):
    whole = meta_train(tiny_config(), results=None, **QUIET)
    parts = meta_train(tiny_config(), results=None, tasks_per_chunk=1, **QUIET)
    for name, tensor in whole.xi.items():
        torch.testing.assert_close(parts.xi[name], tensor)


def test_the_curve_has_its_points(tiny_config):
    curve = meta_train(tiny_config(iterations=5), results=None, **QUIET).curve
    assert sorted(curve["iteration"].unique()) == [0, 2, 4, 5]
    assert set(curve["split"]) == {"train", "validation", "test"}
    assert (curve["num_tasks"] == 3).all()
    assert len(curve) == 12


def test_a_finished_run_is_loaded_not_repeated(tiny_config, tmp_path):
    first = meta_train(tiny_config(), results=tmp_path, **QUIET)
    written = (first.path / "weights.safetensors").stat().st_mtime_ns
    second = meta_train(tiny_config(), results=tmp_path, **QUIET)
    assert_same_run(first, second)
    assert (first.path / "weights.safetensors").stat().st_mtime_ns == written
    assert not (first.path / "state.safetensors").exists()


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_saved_run_says_how_it_was_trained(tiny_config, tmp_path, chunk):
    options = {"tasks_per_chunk": chunk, "rematerialise": chunk == 1, **QUIET}
    run = meta_train(tiny_config(iterations=1), results=tmp_path, **options)
    info = load_run(run.path).info
    assert info["code_version"] == code_version("core")
    assert info["command"] == command_line()
    assert (info["compile"], info["rematerialise"], info["tasks_per_chunk"]) == (False, chunk == 1, chunk)


def test_wall_seconds_are_those_of_the_iterations(tiny_config, monkeypatch):
    """Meta-gradients take 2 seconds here, measuring 100, drawing tasks and saving no time that is counted."""
    now = 0.0

    def taking(seconds, function):
        def timed(*call, **options):
            nonlocal now
            now += seconds
            return function(*call, **options)

        return timed

    monkeypatch.setattr("core.group.time.perf_counter", lambda: now)
    monkeypatch.setattr("core.group.replica_meta_gradient", taking(2, replica_meta_gradient))
    monkeypatch.setattr("core.group.replica_evaluate", taking(100, replica_evaluate))
    runs = meta_train_many([tiny_config(iterations=5, seed=seed) for seed in (0, 1)], results=None, **QUIET)
    assert [run.info["wall_seconds"] for run in runs] == [10, 10]  # of both together, not each one's half
    assert [run.info["trained_together"] for run in runs] == [2, 2]


def test_a_run_looks_for_its_tasks_where_it_was_trained_on_them(tiny_config, tmp_path, monkeypatch):
    roots = []

    def with_files(*, root=None, points, seed=0, device="cpu"):
        roots.append(root)
        return SyntheticTasks(points=points, seed=seed, device=device)

    monkeypatch.setitem(DATASETS, "synthetic", with_files)
    for _ in ("trained", "loaded, as it is finished"):
        run = meta_train(tiny_config(iterations=1), results=tmp_path, root="data", **QUIET)
        run.tasks()
    load_run(run.path, root="other").tasks()
    load_run(run.path, root="other").tasks(root="third")
    assert roots == ["data", "data", "data", "other", "third"]
    assert "data" not in (run.path / "run.json").read_text().replace("dataset", ""), "a folder of this machine's"


def interrupt_after(monkeypatch, count):
    """Send SIGINT to this process in the middle of the `count`-th step."""
    step = Group.step
    calls = 0

    def counted(self, episodes):
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGINT)
        step(self, episodes)

    monkeypatch.setattr(Group, "step", counted)


def test_an_interrupted_run_resumes_bit_for_bit(tiny_config, tmp_path, monkeypatch, steps_made):
    configs = [tiny_config(seed=seed) for seed in (0, 1)]
    whole = meta_train_many(configs, results=None, **QUIET)
    steps_made.clear()
    interrupt_after(monkeypatch, 3)
    with pytest.raises(Interrupted, match="stopped after 3 of 6 iterations; the state is saved"):
        meta_train_many(configs, results=tmp_path, **QUIET)
    monkeypatch.undo()
    with pytest.raises(UserError, match="is not finished; continue it with: python -m core resume"):
        load_run(tmp_path / "runs" / configs[0].id)
    for resumed, expected in zip(meta_train_many(configs, results=tmp_path, **QUIET), whole, strict=True):
        assert_same_run(resumed, expected)
        assert_same_run(load_run(resumed.path), expected)
    assert steps_made == list(range(6))


def test_training_does_not_go_on_with_other_data(tiny_config, tmp_path, monkeypatch):
    interrupt_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        meta_train(tiny_config(), results=tmp_path, **QUIET)
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setattr(SyntheticTasks, "fingerprint", lambda source: "0123456789abcdef")
        with pytest.raises(UserError, match=r"state.safetensors is of training on other data than are found here "):
            meta_train(tiny_config(), results=tmp_path, **QUIET)
    without("dataset_fingerprint")(next(tmp_path.rglob("state.safetensors")))  # as older states are
    assert meta_train(tiny_config(), results=tmp_path, **QUIET).status == "ok"


def test_a_state_is_looked_at_before_there_is_memory_for_what_the_settings_describe(tiny_config, tmp_path, monkeypatch):
    config = tiny_config(model="linnet", method="maml", hidden=(8,))
    interrupt_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        meta_train(config, results=tmp_path, **QUIET)
    monkeypatch.undo()
    path = tmp_path / "runs" / config.id / "state.safetensors"
    wide = replace(config, hidden=(16,))
    other = tmp_path / "runs" / wide.id / "state.safetensors"
    other.parent.mkdir()
    tensors, metadata = load_tensors(path)
    save_tensors(other, tensors, {**metadata, "id": wide.id})
    monkeypatch.setattr(Group, "__init__", lambda *_: pytest.fail("a model was made"))
    with pytest.raises(UserError, match=r"theta\['layers.0.weight'\] has shape \(8, 100\), but .* needs \(16, 100\)"):
        meta_train(wide, results=tmp_path, **QUIET)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_has_gradients_whatever_the_callers_mode(tiny_config, mode):
    with mode():
        one = meta_train(tiny_config(iterations=2), results=None, **QUIET)
    assert_same_run(one, meta_train(tiny_config(iterations=2), results=None, **QUIET))


def test_tasks_that_take_too_much_memory_leave_the_other_runs_alone(tiny_config, tmp_path, monkeypatch):
    """Those of training, which are more than those of the curve."""
    large, small = tiny_config(points=70), tiny_config()
    sample = SyntheticTasks.sample

    def without_room(self, split, num_tasks, index=None):
        if self.points == 70 and split == "train" and index == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return sample(self, split, num_tasks, index)

    monkeypatch.setattr(SyntheticTasks, "sample", without_room)
    with pytest.raises(UserError, match=f"out of memory in training {large.id}: .*the other runs are there"):
        meta_train_many([large, small], results=tmp_path, **QUIET)
    assert is_finished(tmp_path / "runs" / small.id)


def test_a_model_that_there_is_no_memory_for_leaves_the_other_runs_alone(tiny_config, tmp_path, monkeypatch):
    large, small = tiny_config(model="linnet", method="maml", hidden=(8,)), tiny_config()
    made = make_model

    def without_room(name, *given, **options):
        if name == "linnet":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return made(name, *given, **options)

    monkeypatch.setattr("core.group.make_model", without_room)
    with pytest.raises(UserError, match=f"out of memory in training {large.id}: .*the other runs are there"):
        meta_train_many([large, small], results=tmp_path, **QUIET)
    assert is_finished(tmp_path / "runs" / small.id)


def test_a_last_loss_that_exploded_is_not_forgotten_by_a_state(tiny_config, tmp_path, monkeypatch):
    """Of groups that walk side by side, a state may be saved after the last iteration of one."""

    def lost(group):
        raise ProcessLost("another process has ended")

    monkeypatch.setattr("core.group.EXPLODED", 0.01)  # which no loss of these runs is below
    with monkeypatch.context() as patch:
        patch.setattr(Group, "finish", lost)
        with pytest.raises(ProcessLost):
            meta_train(tiny_config(), results=tmp_path, **QUIET)
    assert load_tensors(next(tmp_path.rglob("state.safetensors")))[1]["iteration"] == 6
    assert meta_train(tiny_config(), results=tmp_path, **QUIET).status == "diverged at iteration 6"


def without(*names):
    """Leaves tensors or metadata of these names out of a saved state."""

    def damage(path):
        tensors, metadata = load_tensors(path)
        metadata["optimizer"] = {k: v for k, v in metadata["optimizer"].items() if k not in names}
        save_tensors(
            path,
            {k: v for k, v in tensors.items() if k not in names},
            {k: v for k, v in metadata.items() if k not in names},
        )

    return damage


def changed(**changes):
    """Puts other metadata into a saved state."""

    def damage(path):
        tensors, metadata = load_tensors(path)
        save_tensors(path, tensors, {**metadata, **changes})

    return damage


def widened(path):
    tensors, metadata = load_tensors(path)
    save_tensors(path, {**tensors, "theta.fc.weight": torch.ones(1, 1)}, metadata)


def retyped(path):
    tensors, metadata = load_tensors(path)
    save_tensors(path, {k: v.long() if k.startswith("optimizer.") else v for k, v in tensors.items()}, metadata)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("iteration"), "state.safetensors lacks iteration; delete it to start again"),
        (without("seconds", "curve"), "state.safetensors lacks curve, seconds; delete it"),
        (without("optimizer"), "state.safetensors lacks optimizer, step; delete it"),
        (without("step"), "state.safetensors lacks step; delete it"),
        (changed(loss="low"), "state.safetensors does not say where the training was; delete it"),
        (changed(iteration=7), "state.safetensors does not say where the training was; delete it"),
        (changed(iteration=1.5), "state.safetensors does not say where the training was; delete it"),
        (changed(tasks_per_chunk="2"), "state.safetensors does not say where the training was; delete it"),
        (changed(seconds="1"), "state.safetensors does not say where the training was; delete it"),
        (changed(curve=[[0, "test", 0.5, 0.5]]), "state.safetensors does not say where the training was; delete it"),
        (changed(curve=[]), "state.safetensors does not say where the training was; delete it"),
        (changed(loss=10**400), "state.safetensors does not say where the training was; delete it"),
        (changed(seconds=10**400), "state.safetensors does not say where the training was; delete it"),
        (changed(optimizer={"step": 1e308}), "state.safetensors does not say where the training was; delete it"),
        (changed(curve=[[9, "test", 0.5, 0.5, 2]]), "state.safetensors does not say where the training was; delete it"),
        (retyped, r"state.safetensors has 'optimizer\.\S+ of another type than this run has"),
        (changed(curve=3), "state.safetensors does not say where the training was; delete it"),
        (changed(optimizer={"step": []}), "state.safetensors does not say where the training was; delete it"),
        (changed(optimizer={"step": 1.0, "a": 1}), "state.safetensors does not say where the training was; delete it"),
        (without("xi.fc.weight.L"), r"state.safetensors: state lacks xi.fc.weight.L, which this run needs"),
        (without("optimizer.exp_avg.xi.fc.weight.L"), r"lacks optimizer.exp_avg.xi.fc.weight.L, which this run needs"),
        (widened, r"theta\['fc.weight'\] has shape \(1, 1\), but model 'lr' needs \(1, 100\)"),
    ],
)
def test_an_incomplete_state_is_told_in_one_sentence(tiny_config, tmp_path, monkeypatch, damage, message):
    interrupt_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        meta_train(tiny_config(), results=tmp_path, **QUIET)
    monkeypatch.undo()
    damage(tmp_path / "runs" / tiny_config().id / "state.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        meta_train(tiny_config(), results=tmp_path, **QUIET)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "runs" / tiny_config().id / "state.safetensors") in str(caught.value)


def test_a_curve_has_more_points_at_its_beginning(tiny_config):
    config = tiny_config(iterations=2500, eval_every=1000)
    found = [i for i in range(2501) if is_curve_point(i, config)]
    assert found == [0, 10, 20, 50, 100, 200, 500, 1000, 2000, 2500]
    assert [i for i in range(2501) if is_curve_point(i, tiny_config(iterations=2500, eval_every=0))] == [0, 2500]


@pytest.mark.parametrize("method", ["maml", "klin"])
def test_a_point_of_the_curve_is_an_evaluation_after_adaptation(tiny_config, method):
    config = tiny_config(method=method, points=20, same_points=False)
    run = meta_train(config, results=None, **QUIET)
    for split, index in (("train", config.iterations), ("validation", 0), ("test", 0)):
        table = run.evaluate(run.tasks().sample(split, config.eval_tasks, index))
        end = table[(table["split"] == "query") & (table["step"] == config.steps)]
        last = run.curve[(run.curve["split"] == split) & (run.curve["iteration"] == config.iterations)].iloc[0]
        assert last["loss"] == pytest.approx(end["loss"].mean(), rel=1e-5)
        assert last["accuracy"] == pytest.approx(end["accuracy"].mean())


@pytest.mark.parametrize("change", [{"seed": 1}, {"points": 9}], ids=["another seed", "another setting"])
def test_a_damaged_state_does_not_stop_the_others(tiny_config, tmp_path, monkeypatch, change):
    interrupt_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        meta_train(tiny_config(), results=tmp_path, **QUIET)
    monkeypatch.undo()
    path = tmp_path / "runs" / tiny_config().id / "state.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"state.safetensors is damaged.*; delete it to start again; the other runs"):
        meta_train_many([tiny_config(), tiny_config(**change)], results=tmp_path, **QUIET)
    assert is_finished(tmp_path / "runs" / tiny_config(**change).id)
    path.unlink()
    assert_same_run(
        meta_train(tiny_config(), results=tmp_path, **QUIET), meta_train(tiny_config(), results=None, **QUIET)
    )


@pytest.mark.parametrize("meta_optimizer", sorted(OPTIMIZER_STATE))
@pytest.mark.parametrize("steps", [1, 3])
def test_every_optimizer_resumes(tiny_config, tmp_path, monkeypatch, steps_made, meta_optimizer, steps):
    config = tiny_config(meta_optimizer=meta_optimizer)
    interrupt_after(monkeypatch, steps)
    with pytest.raises(Interrupted):
        meta_train(config, results=tmp_path, **QUIET)
    monkeypatch.undo()
    resumed = meta_train(config, results=tmp_path, **QUIET)
    assert steps_made == list(range(config.iterations))
    assert_same_run(resumed, meta_train(config, results=None, **QUIET))


def test_a_killed_run_resumes_bit_for_bit(tiny_config, tmp_path, steps_made):
    config = tiny_config(iterations=400, eval_every=0)
    code = (
        "import core.side_by_side; core.side_by_side.CHECKPOINT_SECONDS = 0.0\n"
        "from core import TrainConfig, meta_train\n"
        f"config = TrainConfig.from_dict({config.__dict__!r})\n"
        f"meta_train(config, results={str(tmp_path)!r}, progress=False, device='cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    state = tmp_path / "runs" / config.id / "state.safetensors"
    deadline = time.monotonic() + 600
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    saved = load_tensors(state)[1]["iteration"]
    resumed = meta_train(config, results=tmp_path, **QUIET)
    assert steps_made == list(range(saved, config.iterations))
    assert_same_run(resumed, meta_train(config, results=None, **QUIET))


def test_divergence_is_reported_and_the_other_seeds_go_on(tiny_config, tmp_path, monkeypatch):
    step = Group.step

    def poisoned(self, episodes):
        if self.iteration == 2 and len(self.configs) == 3:
            self.theta["fc.weight"][1] = torch.inf
        step(self, episodes)

    configs = [tiny_config(seed=seed) for seed in (0, 1, 2)]
    clean = meta_train_many(configs, results=None, **QUIET)
    monkeypatch.setattr(Group, "step", poisoned)
    runs = meta_train_many(configs, results=tmp_path, **QUIET)
    assert [run.status for run in runs] == ["ok", "diverged at iteration 2", "ok"]
    assert runs[1].diverged
    assert load_run(runs[1].path).status == "diverged at iteration 2"
    for i in (0, 2):
        for name, tensor in runs[i].xi.items():
            torch.testing.assert_close(tensor, clean[i].xi[name])


def test_linnet_on_unit_inputs_diverges_and_does_not_look_like_chance(tiny_config):
    config = tiny_config(
        method="maml", model="linnet", hidden=(64, 64, 64), steps=1, adapt_lr=1.9, meta_lr=1.9, meta_optimizer="sgd",
        points=20, input_scale=1.0, iterations=100,
    )  # fmt: skip
    run = meta_train(config, results=None, **QUIET)
    assert run.status.startswith("diverged at iteration")


def test_tensorboard_files_are_written_on_request(tiny_config, tmp_path):
    run = meta_train(tiny_config(), results=tmp_path, tensorboard=True, **QUIET)
    assert list((run.path / "tensorboard").glob("events.*"))
    with pytest.raises(UserError, match="needs results"):
        meta_train(tiny_config(), results=None, tensorboard=True, **QUIET)


def test_options_that_do_not_fit_are_refused_before_training(tiny_config, tmp_path):
    with pytest.raises(UserError, match="data set 'synthetic' has no option ways"):
        meta_train(tiny_config(ways=5), results=tmp_path, **QUIET)
    with pytest.raises(UserError, match="method 'klin' has no option rule_depth; it has rule_bias, adapt_xi"):
        meta_train(tiny_config(rule_depth=2), results=tmp_path, **QUIET)
    with pytest.raises(UserError, match="method 'maml' has no option rule_depth, adapt_xi; it has none"):
        meta_train(tiny_config(method="maml", rule_depth=2, adapt_xi=True), results=tmp_path, **QUIET)
    with pytest.raises(UserError, match="maml does not adapt xi: with lr_scope 'xi', adapt_lr would scale nothing"):
        meta_train(tiny_config(method="maml", lr_scope="xi"), results=tmp_path, **QUIET)
    for option in ("compile", "rematerialise"):
        with pytest.raises(UserError, match=f"{option} must be True or False, got 'no'"):
            meta_train(tiny_config(), results=tmp_path, **{option: "no"}, **QUIET)
    assert not list(tmp_path.iterdir()), "a refused run leaves no folder"


def test_a_last_step_that_blows_up_is_a_divergence(tiny_config, monkeypatch):
    """The loss that gave the step is finite; the weights after it are not."""
    step = Group.step

    def blow_up(group, episodes):
        step(group, episodes)
        if group.iteration == 6:
            next(iter(group.theta.values())).fill_(float("nan"))

    monkeypatch.setattr(Group, "step", blow_up)
    run = meta_train(tiny_config(iterations=6), results=None, **QUIET)
    assert run.status == "diverged at iteration 6"


def test_stopping_in_the_last_iteration_is_not_forgotten(tiny_config, monkeypatch):
    """The runs are finished, and what would have come after them is not begun."""
    step = Group.step

    def stop_at_the_end(group, episodes):
        step(group, episodes)
        if group.iteration == 6:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Group, "step", stop_at_the_end)
    configs = [tiny_config(iterations=6), tiny_config(iterations=6, tasks_per_iteration=3)]
    with pytest.raises(Interrupted, match="these runs are finished"):
        meta_train_many(configs, results=None, **QUIET)


def test_a_last_loss_that_exploded_is_a_divergence(tiny_config, monkeypatch):
    assert meta_train(tiny_config(), results=None, **QUIET).status == "ok"
    monkeypatch.setattr("core.group.EXPLODED", 0.01)  # which no loss of these runs is below
    assert meta_train(tiny_config(), results=None, **QUIET).status == "diverged at iteration 6"
    assert meta_train(tiny_config(iterations=0), results=None, **QUIET).status == "ok"


def test_a_run_that_another_process_is_at_is_left_out_with_its_seeds(tiny_config, tmp_path):
    ours, theirs, sibling = tiny_config(method="maml"), tiny_config(), tiny_config(seed=1)
    held = claim(tmp_path / "runs" / theirs.id)
    told = f"another process is training {theirs.id}; {sibling.id} waited for .*; the other runs are"
    with pytest.raises(UserError, match=told):
        meta_train_many([ours, theirs, sibling], results=tmp_path, progress=False)
    assert load_run(tmp_path / "runs" / ours.id).status == "ok"
    assert not (tmp_path / "runs" / sibling.id).exists()
    held.release()
    assert len(meta_train_many([ours, theirs, sibling], results=tmp_path, progress=False)) == 3
    assert not list(tmp_path.rglob(".lock"))


def test_a_damaged_run_is_told_of_when_the_others_are_trained(tiny_config, tmp_path):
    damaged, other = tiny_config(), tiny_config(seed=1)
    folder = meta_train(damaged, results=tmp_path, progress=False).path
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=f"is damaged.*; remove {folder} to train it again; the other runs"):
        meta_train_many([damaged, other], results=tmp_path, progress=False)
    assert load_run(tmp_path / "runs" / other.id).status == "ok"


def test_a_damaged_state_says_how_to_go_on(tiny_config, tmp_path):
    state = tmp_path / "runs" / tiny_config().id / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"")
    with pytest.raises(UserError, match=r"state\.safetensors is damaged.*; delete it to start again"):
        meta_train(tiny_config(), results=tmp_path, progress=False)
    state.unlink()
    assert meta_train(tiny_config(), results=tmp_path, progress=False).status == "ok"


def test_the_last_words_of_the_bar_are_of_the_end(tiny_config, capsys):
    for every in (0, 2):
        config = tiny_config(eval_every=every, eval_tasks=50, meta_lr=0.5)
        run = meta_train(config, results=None, progress=True)
        start, end = (run.curve["accuracy"].iloc[i] for i in (2, -1))
        assert f"{start:.3f}" != f"{end:.3f}"
        assert f"test acc {end:.3f} at {config.iterations}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("compiled", [True, False])
def test_the_bar_says_why_it_stands_still(tiny_config, capsys, monkeypatch, compiled):
    monkeypatch.setattr(torch, "compile", lambda recorded: recorded)
    meta_train(tiny_config(), results=None, progress=True, compile=compiled)
    assert ("compiling first" in capsys.readouterr().err) is compiled


def test_a_run_that_needs_too_much_memory_is_told_of_and_the_others_are_finished(tiny_config, tmp_path, monkeypatch):
    configs = [tiny_config(), tiny_config(method="maml"), tiny_config(points=9)]
    gradient = Group._meta_gradient

    def fails(group, episodes):
        if group.iteration == 3 and configs[1] in group.configs:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return gradient(group, episodes)

    with monkeypatch.context() as patch:
        patch.setattr(Group, "_meta_gradient", fails)
        with pytest.raises(UserError, match=f"out of memory in training {configs[1].id}: .*tasks_per_chunk"):
            meta_train_many(configs, results=tmp_path, progress=False)
    assert [is_finished(tmp_path / "runs" / config.id) for config in configs] == [True, False, True]
    runs = meta_train_many(configs, results=tmp_path, progress=False)
    alone = meta_train_many([configs[1]], results=None, progress=False)[0]
    assert all(torch.equal(runs[1].theta[name], tensor) for name, tensor in alone.theta.items())


def test_of_runs_at_the_start_one_may_have_been_saved_alone(tiny_config, tmp_path, monkeypatch):
    """The process died between the states of two seeds, before the first iteration."""
    configs = [tiny_config(), tiny_config(seed=1)]
    whole = meta_train_many(configs, results=None, progress=False)

    def stops(group):
        save(group)
        raise Interrupted

    save = Group.save_state
    with monkeypatch.context() as patch:
        patch.setattr(Group, "save_state", stops)
        patch.setattr("core.side_by_side.CHECKPOINT_SECONDS", -1.0)
        with pytest.raises(Interrupted):
            meta_train_many(configs, results=tmp_path, progress=False)
    (tmp_path / "runs" / configs[1].id / "state.safetensors").unlink()
    for run, expected in zip(meta_train_many(configs, results=tmp_path, progress=False), whole, strict=True):
        assert_same_run(run, expected)


def test_what_is_left_beside_a_finished_run_is_removed(tiny_config, tmp_path):
    folder = meta_train(tiny_config(), results=tmp_path, progress=False).path
    for name in ("state.safetensors", ".lock"):
        (folder / name).touch()
    meta_train(tiny_config(), results=tmp_path, progress=False)
    assert not {"state.safetensors", ".lock"} & {path.name for path in folder.iterdir()}


def test_a_task_that_exploded_makes_no_accuracy_of_a_point(tiny_config, monkeypatch):
    def exploding(*arguments, **options):
        values = replica_evaluate(*arguments, **options)
        values[:, 0, -1, 1, 0] = 4e7  # of one task in three: the mean loss is below the bound
        return values

    monkeypatch.setattr("core.group.replica_evaluate", exploding)
    curve = meta_train(tiny_config(iterations=0), results=None, **QUIET).curve
    assert (curve["loss"] < 2**24).all()
    assert curve["accuracy"].isna().all()


def test_seeds_share_the_data(tiny_config, monkeypatch):
    from core import sources

    made = []
    monkeypatch.setattr(
        sources, "make_tasks", lambda *given, **options: made.append(1) or make_tasks(*given, **options)
    )
    runs = meta_train_many([tiny_config(seed=seed, iterations=1) for seed in (0, 1, 2)], results=None, **QUIET)
    assert len(made) == 1
    alone = meta_train(tiny_config(seed=2, iterations=1), results=None, **QUIET)
    torch.testing.assert_close(runs[2].theta, alone.theta)


def test_runs_side_by_side_are_measured_on_tasks_that_are_drawn_once(tiny_config, monkeypatch):
    drawn, draw = [], SyntheticTasks.draw

    def noted(source, split, num_tasks, index):
        if split == "test":
            drawn.append(source.seed)
        return draw(source, split, num_tasks, index)

    monkeypatch.setattr(SyntheticTasks, "draw", noted)
    configs = [tiny_config(method=method, seed=seed, iterations=1) for method in ("maml", "klin") for seed in (0, 1)]
    meta_train_many(configs, results=None, **QUIET)
    assert drawn == [0, 1] * 2  # at the curve's two points


def test_more_tasks_than_a_pool_has_leave_no_folder(tiny_config, tmp_path):
    network = {"model": "cnn", "method": "maml", "depth": 1, "filters": 2}
    images = {"dataset": "glyphs", "ways": 2, "shots": 1, "points": None, **network}
    with pytest.raises(UserError, match="1000 tasks asked for, but the validation pool of glyphs has 600"):
        meta_train(tiny_config(**images, eval_tasks=1_000), results=tmp_path, **QUIET)
    with pytest.raises(UserError, match="20001 tasks asked for, but the train pool of glyphs has 20000"):
        meta_train(tiny_config(**images, tasks_per_iteration=20_001), results=tmp_path, **QUIET)
    assert not list(tmp_path.iterdir())


class Written:
    def __init__(self):
        self.points = []

    def add_scalar(self, name, value, iteration):
        self.points.append((name, iteration))

    def close(self):
        pass


def test_tensorboard_gets_each_point_once_whatever_the_splits_are(tiny_config, tmp_path, monkeypatch):
    writer = Written()
    monkeypatch.setattr("core.side_by_side._writer", lambda group: writer)
    pools = {
        split: make_tasks("sinusoid", shots=3, seed=seed).sample("train", 6)
        for seed, split in enumerate(("train", "test"))
    }
    config = tiny_config(
        dataset="own:waves", model="own:net", method="maml", points=None, input_scale=None, iterations=2
    )
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    meta_train(config, model=net, tasks=pools, results=tmp_path, tensorboard=True, **QUIET)
    assert sorted(writer.points) == sorted(
        (f"{what}/{split}/seed 0", iteration)
        for what in ("loss", "accuracy") for split in ("train", "test") for iteration in (0, 2)
    )  # fmt: skip
