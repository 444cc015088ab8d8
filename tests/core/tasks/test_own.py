"""Tasks of a user's own: what they deliver, whenever it is asked for."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from core import Episodes, make_tasks
from core.errors import UserError
from core.tasks.own import FunctionTasks, TensorTasks, as_tasks


def pool(num_tasks, offset=0.0):
    x = torch.arange(num_tasks, dtype=torch.float32).view(-1, 1, 1).expand(-1, 4, 2) + offset
    y = torch.tensor([0, 1, 2, 0]).expand(num_tasks, -1)
    return Episodes(x, y, x + 0.5, y)


def numbers_of(episodes):
    return episodes.support_x[:, 0, 0].tolist()


def make(split, num_tasks, generator):
    x = torch.randn(num_tasks, 3, 2, generator=generator)
    return Episodes(x, x.sum(2, keepdim=True), -x, -x.sum(2, keepdim=True), kind="regression")


def test_test_tasks_come_in_order_and_in_a_circle():
    tasks = TensorTasks(pool(5))
    assert numbers_of(tasks.sample("test", 2, 0)) == [0, 1]
    assert numbers_of(tasks.sample("test", 2, 2)) == [4, 0]
    assert (tasks.kind, tasks.ways, tasks.num_outputs, tasks.example_shape) == ("classification", 3, 3, (2,))
    assert tasks.pool_sizes == {"test": 5}
    assert tasks.splits == ("test",)
    assert [numbers_of(tasks.sample("test", 1)) for _ in range(2)] == [[0], [1]]
    assert numbers_of(tasks.with_seed(1).sample("test", 1)) == [0]  # from its first batch on


def test_training_batches_are_drawn_without_repetition_by_seed_and_index():
    tasks = TensorTasks({"train": pool(6), "test": pool(2, 100.0)}, seed=3)
    first = numbers_of(tasks.sample("train", 5, 0))
    assert len(set(first)) == 5
    assert first == numbers_of(TensorTasks({"train": pool(6)}, seed=3).sample("train", 5, 0))
    assert first != numbers_of(tasks.sample("train", 5, 1))
    assert first != numbers_of(tasks.with_seed(4).sample("train", 5, 0))
    assert numbers_of(tasks.sample("test", 2, 0)) == [100, 101]


def test_a_function_is_addressed_by_seed_split_and_index():
    tasks = FunctionTasks(make, seed=1)
    again = FunctionTasks(make, seed=1)
    assert torch.equal(tasks.sample("test", 3, 7).support_x, again.sample("test", 3, 7).support_x)
    for other in (tasks.sample("test", 3, 8), tasks.sample("train", 3, 7), tasks.with_seed(2).sample("test", 3, 7)):
        assert not torch.equal(tasks.sample("test", 3, 7).support_x, other.support_x)
    assert (tasks.kind, tasks.ways, tasks.num_outputs) == ("regression", 0, 1)


def test_the_fingerprint_tells_tasks_apart_and_seeds_not():
    assert TensorTasks(pool(3)).fingerprint() == TensorTasks(pool(3), seed=1).fingerprint()
    assert TensorTasks(pool(3)).fingerprint() != TensorTasks(pool(3, 0.1)).fingerprint()
    assert FunctionTasks(make, seed=1).fingerprint() == FunctionTasks(make, seed=2).fingerprint()
    other = FunctionTasks(lambda *given: make(*given).map(lambda tensor: tensor * 2))
    assert other.fingerprint() != FunctionTasks(make).fingerprint()


def test_whatever_a_user_has_becomes_a_source():
    assert isinstance(as_tasks(pool(2)), TensorTasks)
    assert isinstance(as_tasks({"train": pool(2)}), TensorTasks)
    assert isinstance(as_tasks(make), FunctionTasks)
    glyphs = make_tasks("glyphs", ways=3, shots=1, seed=0)
    again = as_tasks(glyphs, seed=5)
    fresh = make_tasks("glyphs", ways=3, shots=1, seed=5)
    glyphs.sample("test", 2, 0)  # pools that one has made must not be the other's
    assert torch.equal(again.sample("test", 2, 0).support_x, fresh.sample("test", 2, 0).support_x)
    assert again.sample("test", 1).num_tasks == glyphs.sample("test", 1).num_tasks


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_tasks(3), "tasks are a TaskSource, Episodes, .*, not int"),
        (lambda: TensorTasks({}), "episodes of at least one split are needed: train, validation, test"),
        (lambda: TensorTasks({"tset": pool(2)}), "unknown split 'tset'; known: test, train, validation"),
        (lambda: TensorTasks(pool(2)).sample("train", 1), "there are no train episodes, only test"),
        (lambda: TensorTasks(pool(2)).sample("test", 3), "3 tasks asked for, but there are 2 test episodes"),
        (
            lambda: TensorTasks({"train": make("train", 2, None), "test": pool(2)}),
            r"test episodes are classification of \(2,\), others regression of \(2,\)",
        ),
        (lambda: FunctionTasks(lambda *given: 3), "asked for Episodes of 1 tasks, and returned int"),
        (lambda: FunctionTasks(lambda *given: pool(2)), "asked for Episodes of 1 tasks, and returned 2 tasks"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()


def binary(labels):
    x = torch.arange(4.0).view(1, 4, 1).expand(2, -1, -1)
    y = torch.tensor(labels).expand(2, -1)
    return Episodes(x, y, x + 0.5, y, kind="binary")


def of_classes(num_classes):
    def make(split, num_tasks, generator):
        x = torch.randn(num_tasks, 6, 2, generator=generator)
        y = (torch.arange(6) % (3 if split == "test" else num_classes)).expand(num_tasks, -1)
        return Episodes(x, y, x + 1, y)

    return make


def test_labels_are_looked_at_before_anything_learns_from_them():
    with pytest.raises(UserError, match="neither 0 nor 1"):
        TensorTasks({"test": binary([0.0, 1.0, 0.0, 1.0]), "train": binary([-1.0, 1.0, -1.0, 1.0])})
    tasks = FunctionTasks(of_classes(4))
    tasks.sample("test", 2, 0)
    with pytest.raises(UserError, match="a label of train batch 0 is 3, but the first test task has classes 0 to 2"):
        tasks.sample("train", 2, 0)


def test_a_function_is_in_one_thread_at_a_time():
    inside, most = [], []

    def slow(*given):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return make(*given)

    tasks = FunctionTasks(slow)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: tasks.sample("train", 1, i), range(8)))
    assert max(most) == 1


def test_half_precision_has_a_fingerprint():
    low = TensorTasks(pool(2).to(dtype=torch.bfloat16))
    assert low.fingerprint() != TensorTasks(pool(2)).fingerprint()


def test_sets_of_different_lengths_of_examples_are_no_overlap():
    x, y = torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64)
    assert TensorTasks(Episodes(x, y, torch.randn(2, 3, 7), y)).num_outputs == 1
