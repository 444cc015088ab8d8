"""Tasks are shared out among threads where that is safe, and the numbers are those of one thread."""

import os
import threading
import time

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from analysis import adapt_only, freeze, intervene, modify, perturb
from core import Episodes, adaptation, crew, evaluate, make_optimizer, meta_gradient, run_from_module
from core.adaptation import chunks, one_replica, replica_meta_gradient
from core.compilation import compile_meta_gradient
from core.crew import Crew, alone, crew_for
from core.inner_loop import InnerLoop
from core.models.conv import CNN
from core.models.linear import LR
from core.reptile import replica_reptile_gradient
from core.threads import threads


@pytest.fixture(autouse=True)
def two_threads():
    with threads(2):
        yield


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


def test_after_an_error_nothing_more_is_begun():
    begun = []

    def work(i: int) -> None:
        begun.append(i)
        time.sleep(0.05)
        raise ZeroDivisionError(i)

    with pytest.raises(ZeroDivisionError, match="0"):
        list(Crew(2, 1).each(work, range(20)))
    time.sleep(0.2)
    assert len(begun) <= 3


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_tasks_are_shared_out_evenly(size):
    for num_tasks in range(1, 30):
        for most in range(1, num_tasks + 1):
            each = Crew(size, 1).tasks_each(num_tasks, most)
            assert 1 <= each <= most
            parts = -(-num_tasks // each)
            if size > 1 and num_tasks >= size:  # no thread has a part more than it would have to
                assert -(-parts // size) * each <= -(-num_tasks // most // size) * most + size


@pytest.mark.parametrize("tasks_per_chunk", [1, 2, 3, 5, 7, None])
def test_all_threads_together_have_no_more_tasks_than_a_chunk(tasks_per_chunk):
    episodes = images(7)
    at_once = adaptation.checked_size(tasks_per_chunk, 7)
    who = crew_for(network(), episodes, at_once)
    sizes = [part.num_tasks for part in chunks(episodes, 1, tasks_per_chunk, who)]
    assert sum(sizes) == 7
    assert who.size * max(sizes) <= at_once + who.size - 1  # uneven by one
    assert who.size == (1 if tasks_per_chunk == 1 else 2)


class OwnNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).flatten(1)


def test_who_works_alone():
    """What a second thread would gain nothing from, might break, or would not be seen in."""
    model, episodes = network(), images(4)

    def found(model: nn.Module = model, at_once: int = 4) -> Crew:
        return crew_for(model, episodes, at_once)

    assert found() == Crew(2, 1)
    with threads(1):
        assert found() == alone() == Crew(1, 1)
    with threads(7):
        assert found() == Crew(4, 1)
        assert found(at_once=3) == Crew(3, 2)
    assert found(at_once=1) == alone() == Crew(1, 2)
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
    seen = []
    make_fx(lambda x: (seen.append(found()), x)[1])(torch.zeros(1))
    torch.func.vmap(lambda x: (seen.append(found()), x)[1])(torch.zeros(1))
    assert seen == [alone(), alone()]
    assert found() == Crew(2, 1)


def test_a_child_process_has_threads_of_its_own():
    list(Crew(2, 1).each(str, range(2)))  # so that there are some to lose
    child = os.fork()
    if child == 0:
        os._exit(0 if list(Crew(2, 1).each(str, range(3))) == ["0", "1", "2"] else 1)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child waits for ever")
    assert os.waitstatus_to_exitcode(status) == 0


# The same numbers.


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


@pytest.mark.parametrize("tasks_per_chunk", [None, 3])
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
            model, optimizer, theta, xi, images(5 * replicas), loop,
            tasks_per_chunk=tasks_per_chunk, rematerialise=rematerialise,
        ),
        counted,
    )  # fmt: skip
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-13)


def test_reptiles_gradient_is_that_of_one_thread(counted):
    model, rule = network(), make_optimizer("sgd")
    theta = one_replica(dict(model.named_parameters()))
    one, two = both(
        lambda: replica_reptile_gradient(model, rule, theta, {}, images(5), InnerLoop(2, 0.1, True)), counted
    )
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-13)


def test_recorded_in_chunks_is_plain(counted, monkeypatch):
    """Recorded and not compiled, in two shapes: the last chunk has fewer tasks."""
    recordings = []
    monkeypatch.setattr(torch, "compile", lambda recorded: (recordings.append(recorded), recorded)[1])
    model, rule = network(), make_optimizer("sgd")
    theta = one_replica(dict(model.named_parameters()))
    loop = InnerLoop(1, 0.1, False)
    compiled = compile_meta_gradient(model, rule, theta, {}, images(5), loop, tasks_per_chunk=2)
    assert len(recordings) == 2
    other = images(5).map(lambda x: x.flip(0))
    torch.testing.assert_close(
        compiled(theta, {}, other), replica_meta_gradient(model, rule, theta, {}, other, loop), rtol=1e-10, atol=1e-13
    )
    assert counted == [2]  # the plain one


@pytest.mark.parametrize("tasks_per_chunk", [None, 2, 3])
def test_evaluation_is_that_of_one_thread(tasks_per_chunk, counted):
    model, rule = network(), make_optimizer("sgd")
    theta = dict(model.named_parameters())
    one, two = both(
        lambda: evaluate(model, rule, theta, {}, images(9), steps=2, lr=0.1, tasks_per_chunk=tasks_per_chunk), counted
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
    run = run_from_module(network(), images(9), steps=2, adapt_lr=0.1)
    plans = {"none": None, "frozen": freeze("C1"), "only": adapt_only("C2"), "noise": perturb("FC", std=0.5)}
    one, two = both(lambda: intervene(run, plans, num_tasks=9, draws=2), counted)
    torch.testing.assert_close(*(torch.tensor(t["loss"].to_numpy()) for t in (two, one)), rtol=1e-10, atol=0.0)
    assert two.drop(columns="loss").equals(one.drop(columns="loss"))
    none = two[two["intervention"] == "none"].reset_index(drop=True)
    evaluated = run.evaluate(run.tasks(seed=0).sample("test", 9))
    assert none[["task", "step", "split", "loss", "accuracy"]].equals(
        evaluated[["task", "step", "split", "loss", "accuracy"]]
    )


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
