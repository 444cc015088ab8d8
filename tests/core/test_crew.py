"""Tasks are shared out among threads where that is safe, and the numbers are those of one thread."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from analysis import adapt_only, freeze, intervene, modify, perturb
from analysis.inside_optimizer import on_tasks
from analysis.loss_line import loss_line
from core import (
    Episodes,
    TrainConfig,
    compilation,
    crew,
    evaluate,
    make_optimizer,
    meta_gradient,
    meta_train,
    run_from_module,
)
from core.adaptation import one_replica, replica_meta_gradient
from core.compilation import compile_meta_gradient
from core.crew import Crew, alone, shared_out
from core.errors import UserError
from core.group import Group
from core.inner_loop import InnerLoop
from core.models.conv import CNN
from core.models.layers import TaskSequential
from core.models.linear import LR
from core.optimizers.base import MetaOptimizer
from core.optimizers.sgd import SGD
from core.reptile import replica_reptile_gradient
from core.threads import thread_pool, threads


@pytest.fixture(autouse=True)
def two_threads():
    with threads(2):
        yield


@pytest.fixture(autouse=True, scope="module")
def none_are_left():
    """Tests that fork, in the same process, want no threads beside."""
    yield
    for pool in crew._pools.values():
        pool.shutdown()
    crew._pools.clear()


def images(num_tasks: int, dtype: torch.dtype = torch.float64) -> Episodes:
    generator = torch.Generator().manual_seed(num_tasks)
    x = torch.rand(2, num_tasks, 6, 1, 8, 8, generator=generator, dtype=dtype)
    y = torch.arange(3).repeat(2).expand(num_tasks, -1)
    return Episodes(x[0], y, x[1], y)


def network(dtype: torch.dtype = torch.float64) -> CNN:
    torch.manual_seed(0)
    return CNN(1, 3, depth=2, filters=4).to(dtype)


# Who does what.


def test_results_come_in_order_and_no_more_are_in_work_than_there_are_threads():
    lock, in_work, most = threading.Lock(), 0, 0

    def work(i: int) -> tuple[int, int]:
        nonlocal in_work, most
        with lock:
            in_work += 1
            most = max(most, in_work)
        time.sleep(0.02 * (3 - i % 3))
        with lock:
            in_work -= 1
        return i, torch.get_num_threads()

    assert list(Crew(2, 1).each(work, range(7))) == [(i, 1) for i in range(7)]
    assert most == 2
    assert torch.get_num_threads() == 2
    assert list(Crew(1, 2).each(work, range(2))) == [(0, 2), (1, 2)]


def test_after_an_error_nothing_is_in_work_and_nothing_more_is_begun():
    begun, ended = [], []

    def work(i: int) -> None:
        begun.append(i)
        time.sleep(0.05 * (i + 1))
        ended.append(i)
        if i == 0:
            raise ZeroDivisionError(i)

    with pytest.raises(ZeroDivisionError, match="0"):
        list(Crew(2, 1).each(work, range(20)))
    assert sorted(begun) == sorted(ended)
    time.sleep(0.1)
    assert len(begun) <= 3


def test_threads_that_cannot_be_made_are_not_waited_for(monkeypatch):
    """As where a system allows a process no more of them: the one that was made would wait for the other for ever."""
    submit, made = ThreadPoolExecutor.submit, []

    def once(pool, *call):
        if made:
            raise RuntimeError("can't start new thread")
        made.append(submit(pool, *call))
        return made[0]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", once)
    with pytest.raises(RuntimeError, match="can't start"):
        thread_pool(2, 1)
    assert isinstance(made[0].exception(timeout=10), threading.BrokenBarrierError)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("number", [2, 3, 4, 5, 8])
def test_tasks_are_shared_out_evenly_within_what_may_be_in_work(number):
    model, sizes = network(), set()
    with threads(number):
        for num_tasks in range(1, 25):
            episodes = images(num_tasks)
            for together in (None, *range(1, num_tasks + 1)):
                for most in (None, 1, 4):
                    who, each = shared_out(model, SGD(), episodes, together=together, each=most)
                    assert who.size * each <= (together or num_tasks)
                    assert 1 <= each <= (most or num_tasks)
                    assert who.size * who.threads_each == number
                    if who.size > 1:
                        rounds = -(-num_tasks // (each * who.size))
                        assert rounds * each <= 1.1 * num_tasks / who.size
                    sizes.add(who.size)
    assert sizes == {n for n in (1, 2, 3, 4) if number % n == 0}


def test_replicas_count_as_tasks_do():
    assert shared_out(network(), SGD(), images(8), 2) == (Crew(2, 1), 2)
    assert shared_out(network(), SGD(), images(8), 2, together=1) == (Crew(1, 2), 1)


def test_what_a_thread_has_no_kept_memory_for_is_shared_out_by_pytorch():
    episodes = images(8)
    of_task = episodes.support_x[0].numel()
    for numbers, size in ((4 * of_task, 2), (4 * of_task - 1, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crew, "MOST_NUMBERS", numbers)
            assert shared_out(network(), SGD(), episodes)[0].size == size


@pytest.mark.parametrize(("num_tasks", "options"), [(0, {}), (3, {"together": 0}), (3, {"each": 0})])
def test_no_task_is_refused(num_tasks, options):
    with pytest.raises(UserError, match="at least one task"):
        shared_out(network(), SGD(), images(3)[:num_tasks], **options)


class OwnRule(SGD):
    pass


class OwnBlock(TaskSequential):
    def __init__(self, *children) -> None:
        super().__init__()
        for name, child in children:
            self.add_module(name, child)


class OwnNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).flatten(1)


def test_who_works_alone():
    """What a second thread would gain nothing from, might break, or would not be seen in."""
    model, episodes = network(), images(4)

    def found(model: nn.Module = model, rule: MetaOptimizer | None = None) -> Crew:
        return shared_out(model, rule or SGD(), episodes)[0]

    assert found() == Crew(2, 1)
    with threads(1):
        assert found() == alone() == Crew(1, 1)
    assert found(rule=OwnRule()) == alone()  # code of a user is called by one thread
    changed = network()
    changed.C1 = OwnBlock(*changed.C1.named_children())
    assert found(changed) == alone()
    assert found(LR(64, 3)) == alone()  # shared out by PyTorch, its products are as fast
    assert found(OwnNetwork()) == alone()  # a module that is called changes for as long
    hooked = network()
    hooked.C1.register_forward_hook(lambda *_: None)
    assert found(hooked) == alone()
    with FlopCounterMode(display=False):
        assert found() == alone()
    with torch.device("cpu"):
        assert found() == alone()
    with torch.autocast("cpu"):
        assert found() == alone()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        assert found() == alone()
    with torch.profiler.profile():
        assert found() == alone()
    seen = []
    make_fx(lambda x: (seen.append(found()), x)[1])(torch.zeros(1))
    torch.func.vmap(lambda x: (seen.append(found()), x)[1])(torch.zeros(1))
    assert seen == [alone(), alone()]
    assert found() == Crew(2, 1)


_FORK = """
import os, warnings
from core.crew import Crew
from core import crew
list(Crew(2, 1).each(str, range(2)))  # so that there are threads to lose
crew._making.acquire()  # as one of them may have it
warnings.simplefilter("ignore")  # newer versions of Python warn of forks beside threads
child = os.fork()
if child == 0:
    os._exit(0 if list(Crew(2, 1).each(str, range(3))) == ["0", "1", "2"] else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_process_has_threads_of_its_own():
    subprocess.run([sys.executable, "-c", _FORK], check=True, timeout=60)


# The same numbers.

STUDY_OPTIONS = {on_tasks: {"num_tasks": 12, "seed": 0, "progress": False}, loss_line: {"num_tasks": 12}}


@pytest.fixture
def counted(monkeypatch):
    """The sizes of the crews that were at work."""
    sizes, each = [], Crew.each

    def counting(self, work, parts):
        sizes.append(self.size)
        return each(self, work, parts)

    monkeypatch.setattr(crew.Crew, "each", counting)
    return sizes


def both(compute, counted):
    """What is computed by one thread, and by two."""
    with threads(1):
        one = compute()
    two = compute()
    assert counted == [1, 2]
    return one, two


@pytest.mark.parametrize("tasks_per_chunk", [None, 4])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("rematerialise", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "meta_sgd", "kfc"])
def test_meta_gradients_are_those_of_one_thread(rule, rematerialise, replicas, tasks_per_chunk, counted):
    model, optimizer = network(), make_optimizer(rule, **({"depth": 2} if rule == "kfc" else {}))
    theta = {name: p.detach() for name, p in model.named_parameters()}
    xi = optimizer.init(theta)
    theta, xi = ({name: torch.stack([t * (1 + 0.01 * i) for i in range(replicas)]) for name, t in tensors.items()}
                 for tensors in (theta, xi))  # fmt: skip
    loop = InnerLoop(2, 0.1, False)
    one, two = both(
        lambda: replica_meta_gradient(
            model, optimizer, theta, xi, images(8 * replicas), loop,
            tasks_per_chunk=tasks_per_chunk, rematerialise=rematerialise,
        ),
        counted,
    )  # fmt: skip
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-13)


def test_reptiles_gradient_is_that_of_one_thread(counted):
    model, rule = network(), make_optimizer("sgd")
    theta = one_replica(dict(model.named_parameters()))
    one, two = both(
        lambda: replica_reptile_gradient(model, rule, theta, {}, images(6), InnerLoop(2, 0.1, True)), counted
    )
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-13)


def test_recorded_in_chunks_is_plain(counted, monkeypatch):
    """Recorded and not compiled, in two shapes: the last chunk has fewer tasks."""
    recordings = []
    monkeypatch.setattr(torch, "compile", lambda recorded: (recordings.append(recorded), recorded)[1])
    model, rule = network(), make_optimizer("sgd")
    theta = one_replica(dict(model.named_parameters()))
    loop = InnerLoop(1, 0.1, False)
    compiled = compile_meta_gradient(model, rule, theta, {}, images(11), loop, tasks_per_chunk=4)
    assert len(recordings) == 2
    with pytest.raises(UserError, match="compiled for 11 tasks, not for 12"):
        compiled(theta, {}, images(12))
    other = images(11).map(lambda x: x.flip(0))
    torch.testing.assert_close(
        compiled(theta, {}, other), replica_meta_gradient(model, rule, theta, {}, other, loop), rtol=1e-10, atol=1e-13
    )
    assert counted == [1, 1, 2]  # fused ones by one thread, the plain one by two


def test_replayed_is_plain(counted, monkeypatch):
    """Recorded, and so long that it is not compiled: in the chunks of the threads."""
    monkeypatch.setattr(compilation, "MOST_FUSED", 0)
    model, rule = network(), make_optimizer("sgd")
    theta = one_replica(dict(model.named_parameters()))
    loop = InnerLoop(1, 0.1, False)
    compiled = compile_meta_gradient(model, rule, theta, {}, images(11), loop, tasks_per_chunk=4)
    assert counted == [2]  # the call that ends the compilation
    other = images(11).map(lambda x: x.flip(0))
    torch.testing.assert_close(
        compiled(theta, {}, other), replica_meta_gradient(model, rule, theta, {}, other, loop), rtol=1e-10, atol=1e-13
    )
    assert counted == [2, 2, 2]
    with FlopCounterMode(display=False) as counter:
        compiled(theta, {}, other)
    assert counted == [2, 2, 2, 1]  # threads of which the counter would not know
    assert counter.get_total_flops() > 0


@pytest.mark.parametrize("tasks_per_chunk", [None, 2, 5])
def test_evaluation_is_that_of_one_thread(tasks_per_chunk, counted):
    model, rule = network(), make_optimizer("sgd")
    theta = dict(model.named_parameters())
    one, two = both(
        lambda: evaluate(model, rule, theta, {}, images(12), steps=2, lr=0.1, tasks_per_chunk=tasks_per_chunk), counted
    )
    torch.testing.assert_close(*(torch.tensor(t["loss"].to_numpy()) for t in (two, one)), rtol=1e-10, atol=0.0)
    assert two.drop(columns="loss").equals(one.drop(columns="loss"))


def test_an_error_in_a_thread_is_told_as_ever():
    model = network()
    narrow = images(4).map(lambda x: x[..., 0] if x.is_floating_point() else x)
    with pytest.raises(ValueError, match="does not take support examples of shape"):
        meta_gradient(model, make_optimizer("sgd"), dict(model.named_parameters()), {}, narrow, steps=1, lr=0.1,
                      first_order=False)  # fmt: skip


def test_interventions_are_those_of_one_thread(counted):
    run = run_from_module(network(), images(12), steps=2, adapt_lr=0.1)
    plans = {"none": None, "frozen": freeze("C1"), "only": adapt_only("C2"), "noise": perturb("FC", std=0.5)}
    one, two = both(lambda: intervene(run, plans, num_tasks=12, draws=2), counted)
    torch.testing.assert_close(*(torch.tensor(t["loss"].to_numpy()) for t in (two, one)), rtol=1e-10, atol=0.0)
    assert two.drop(columns="loss").equals(one.drop(columns="loss"))
    none = two[two["intervention"] == "none"].reset_index(drop=True)
    evaluated = run.evaluate(run.tasks(seed=0).sample("test", 12))
    assert none[["task", "step", "split", "loss", "accuracy"]].equals(
        evaluated[["task", "step", "split", "loss", "accuracy"]]
    )


@pytest.mark.parametrize("study", [on_tasks, loss_line])
def test_studies_are_those_of_one_thread(study, counted):
    run = run_from_module(network(), images(12), steps=2, adapt_lr=0.1, method="meta_sgd")
    one, two = both(lambda: study(run, **STUDY_OPTIONS[study]), counted)
    numbers = ["value"] if study is on_tasks else ["loss", "accuracy"]
    for name in numbers:
        torch.testing.assert_close(
            *(torch.tensor(t[name].to_numpy()) for t in (two, one)), rtol=1e-8, atol=1e-12, equal_nan=True
        )
    assert two.drop(columns=numbers).equals(one.drop(columns=numbers))


def test_training_is_the_same_bit_for_bit_each_time_and_when_it_goes_on(counted, tmp_path):
    config = TrainConfig(
        dataset="glyphs", ways=3, shots=1, query_shots=1, model="cnn", depth=2, filters=4, norm_mode="batch",
        method="maml", steps=1, adapt_lr=0.1, first_order=False, meta_optimizer="adam", meta_lr=0.01, iterations=6,
        tasks_per_iteration=4, eval_tasks=4,
    )  # fmt: skip
    runs = [meta_train(config, results=None, progress=False) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        step = Group.step

        def stopped(group, episodes):
            if group.iteration == 3:
                raise KeyboardInterrupt
            step(group, episodes)

        patch.setattr(Group, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            meta_train(config, results=tmp_path, progress=False)
    runs.append(meta_train(config, results=tmp_path, progress=False))
    assert set(counted) == {2}
    for run in runs[1:]:
        assert all(torch.equal(run.theta[name], tensor) for name, tensor in runs[0].theta.items())
        assert run.curve.equals(runs[0].curve)


def test_a_users_function_is_called_by_one_thread_in_the_order_of_tasks():
    run = run_from_module(network(), images(9), steps=2, adapt_lr=0.1)
    callers = set()

    def function(tensor: torch.Tensor) -> torch.Tensor:
        callers.add(threading.current_thread())
        return tensor

    def probe(snapshot) -> torch.Tensor:
        callers.add(threading.current_thread())
        return snapshot.step * torch.ones(snapshot.episodes.num_tasks)

    intervene(run, {"mine": modify("FC", function=function), "whole": lambda theta: theta}, num_tasks=9)
    intervene(run, {"none": None}, probes={"probe": probe}, num_tasks=9)
    assert callers == {threading.main_thread()}
