"""How the benchmark measures, against counts by hand and clocks that are known."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from core import products
from core.products import has_onednn
from tests.benchmarks.measuring import CALL_SECONDS, gflop, paired, step_memory


def test_products_are_counted_in_place_or_not():
    a, b, batch = torch.randn(3, 5), torch.randn(5, 7), torch.randn(4, 3, 5)
    out, outs = torch.zeros(3, 7), torch.zeros(4, 3, 7)
    assert gflop(lambda: a @ b) == 2 * 3 * 5 * 7 / 1e9
    assert gflop(lambda: out.addmm_(a, b)) == 2 * 3 * 5 * 7 / 1e9
    assert gflop(lambda: outs.baddbmm_(batch, b.expand(4, -1, -1))) == 2 * 4 * 3 * 5 * 7 / 1e9


@pytest.mark.skipif(not has_onednn(), reason="PyTorch was built without oneDNN")
def test_products_are_counted_whichever_library_makes_them(monkeypatch):
    x, y = torch.randn(1, 90, 170), torch.randn(1, 170, 150)
    counts = []
    for library in (False, True):
        monkeypatch.setattr(products, "onednn_is_faster", lambda library=library: library)
        counts.append(gflop(lambda: products.add_product(products.product(x, y), x, y)))
    assert counts == [2 * 2 * 90 * 170 * 150 / 1e9] * 2


@pytest.mark.parametrize("stride", [1, 2])
def test_groups_cost_what_as_many_convolutions_cost(stride):
    x = torch.randn(6, 2, 3, 8, 8, requires_grad=True)  # 2 tasks of 6 examples
    kernels = torch.randn(2, 4, 3, 3, 3, requires_grad=True)

    def second_order(loss):
        (slope,) = torch.autograd.grad(loss, kernels, create_graph=True)
        torch.autograd.grad(slope.square().sum(), [kernels, x])

    def grouped():
        out = F.conv2d(x.flatten(1, 2), kernels.flatten(0, 1), stride=stride, padding=1, groups=2)
        torch.autograd.grad(out.square().sum(), [kernels, x])

    def one_by_one():
        outs = [F.conv2d(x[:, i], kernels[i], stride=stride, padding=1) for i in range(2)]
        torch.autograd.grad(sum(out.square().sum() for out in outs), [kernels, x])

    size = 8 // stride
    forward = 2 * 2 * 6 * 4 * size * size * 3 * 9
    assert gflop(grouped) == gflop(one_by_one) == 3 * forward / 1e9

    def through(groups):
        if groups:
            out = F.conv2d(x.flatten(1, 2), kernels.flatten(0, 1), stride=stride, padding=1, groups=2)
            return second_order(out.square().sum())
        outs = [F.conv2d(x[:, i], kernels[i], stride=stride, padding=1) for i in range(2)]
        return second_order(sum(out.square().sum() for out in outs))

    assert gflop(lambda: through(True)) == pytest.approx(gflop(lambda: through(False)), rel=0.3)


def test_without_groups_and_in_place_it_is_pytorchs_own_count():
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, stride=2), torch.nn.Flatten(), torch.nn.Linear(27, 4))
    x = torch.randn(5, 2, 8, 8)

    def step():
        net(x).square().sum().backward()

    with FlopCounterMode(display=False) as counter:
        step()
    assert gflop(step) == counter.get_total_flops() / 1e9


class Clock:
    """Time that passes in steps alone."""

    now = 0.0

    def __call__(self):
        return self.now

    def step(self, seconds):
        def run():
            self.now += seconds

        return run


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("tests.benchmarks.measuring.time.perf_counter", made)
    return made


def test_a_call_takes_what_its_step_takes_however_often_it_is_made(clock):
    seconds = paired({"short": clock.step(0.001), "long": clock.step(0.03), "longest": clock.step(3.0)}, rounds=4)
    assert seconds.shape == (4, 3)
    for name, expected in {"short": 0.001, "long": 0.03, "longest": 3.0}.items():
        assert seconds[name].to_list() == pytest.approx([expected] * 4)


def test_a_short_step_is_called_for_as_long_as_a_measurement_takes(clock):
    calls = []
    step = clock.step(0.001)
    paired({"a": lambda: (calls.append(1), step())}, rounds=1)
    assert len(calls) == 1 + CALL_SECONDS / 0.001


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (4.5, 5), (100.0, 9)])
def test_no_round_is_begun_after_the_time_is_up_but_three_are_made(clock, seconds, rounds):
    assert len(paired({"a": clock.step(1.0)}, rounds=9, seconds=seconds)) == rounds


def test_memory_is_what_a_step_takes_for_a_while():
    """In a process that has touched nothing of the size before."""
    size = 64 * 2**20

    def step():
        torch.ones(size // 4)

    found = step_memory(step)
    assert found != found or 60 <= found <= 80  # NaN: the system does not tell
