import pytest
import torch

from core.errors import UserError
from core.tasks.base import Episodes, concatenate
from core.tasks.synthetic import SyntheticTasks


def episodes(num_tasks=3, **changes):
    parts = {
        "support_x": torch.randn(num_tasks, 5, 2),
        "support_y": torch.arange(5).expand(num_tasks, 5),
        "query_x": torch.randn(num_tasks, 4, 2),
        "query_y": torch.zeros(num_tasks, 4, dtype=torch.long),
    }
    return Episodes(**{**parts, **changes})


def test_slices_and_concatenation_keep_tasks_whole():
    whole = episodes(5)
    again = concatenate([whole[:2], whole[2:]])
    assert again.num_tasks == 5
    for name in ("support_x", "support_y", "query_x", "query_y"):
        assert torch.equal(getattr(again, name), getattr(whole, name))


def test_to_changes_floats_only():
    moved = episodes().to(dtype=torch.float64)
    assert moved.support_x.dtype == moved.query_x.dtype == torch.float64
    assert moved.support_y.dtype == torch.long


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"support_y": torch.zeros(3, 4)}, "support_x and support_y must agree"),
        (
            {"query_x": torch.zeros(2, 4, 2), "query_y": torch.zeros(2, 4, dtype=torch.long)},
            "support has 3 tasks but query has 2",
        ),
        ({"support_x": torch.zeros(3, 5)}, r"support_x must be \(tasks, examples, \*example\)"),
        ({"support_y": torch.zeros(3, 5)}, r"support_y must be class indices of type int64, got torch.float32; .*long"),
        ({"query_y": torch.zeros(3, 4, dtype=torch.int32)}, "query_y must be class indices of type int64"),
        ({"query_y": torch.zeros(3, 4, 1, dtype=torch.long)}, r"query_y must have one label an example.*\(3, 4, 1\)"),
        ({"kind": "binary"}, "support_y must be 0 or 1 as floats for binary tasks, got torch.int64"),
        ({"kind": "clasification"}, "unknown kind of task 'clasification'; known: binary, classification, regression"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        episodes(**changes)


def test_labels_say_how_many_classes_there_are():
    assert episodes().num_classes() == 5  # of the support set, which has the larger labels
    assert episodes(query_y=torch.full((3, 4), 7)).num_classes() == 8
    assert episodes(num_tasks=0).num_classes() == 0
    numbers = {"support_y": torch.randn(3, 5, 1), "query_y": torch.randn(3, 4, 1)}
    assert episodes(**numbers, kind="regression").num_classes() == 0
    zeros_and_ones = {"support_y": torch.ones(3, 5), "query_y": torch.zeros(3, 4)}
    assert episodes(**zeros_and_ones, kind="binary").num_classes() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_y": torch.full((3, 4), -100)}, "a label is -100, but classes are counted from 0"),
        (
            {"support_y": torch.ones(3, 5), "query_y": -torch.ones(3, 4), "kind": "binary"},
            "a label of a binary task is neither 0 nor 1",
        ),
    ],
)
def test_labels_that_are_no_class_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        episodes(**changes).num_classes()


def test_sample_counts_batches_and_names_its_splits():
    tasks = SyntheticTasks(points=3, dimension=2)
    first, second = tasks.sample("train", 2), tasks.sample("train", 2)
    assert not torch.equal(first.support_x, second.support_x)
    assert torch.equal(second.support_x, tasks.sample("train", 2, index=1).support_x)
    with pytest.raises(UserError, match="unknown split 'tset'; known: test, train, validation"):
        tasks.sample("tset", 2)
    with pytest.raises(UserError, match="num_tasks must be at least 1, got 0"):
        tasks.sample("test", 0)


@pytest.mark.parametrize("name", ["support_x", "query_y"])
def test_arrays_of_numpy_are_told_what_to_become(name):
    with pytest.raises(UserError, match=rf"{name} must be a tensor, not ndarray; torch.as_tensor\(...\) makes one"):
        episodes(**{name: getattr(episodes(), name).numpy()})


def test_tasks_of_unequal_sizes_are_not_joined():
    few, many = (SyntheticTasks(points=points).sample("train", 2, 0) for points in (3, 4))
    with pytest.raises(UserError, match=r"\(3, 100\).* and .*\(4, 100\)"):
        concatenate([few, many])
