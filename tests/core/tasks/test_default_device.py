"""Tasks and models are the same whatever device PyTorch makes tensors on by default."""

import pytest
import torch

from core.models import make_model
from core.tasks import as_tasks, make_tasks
from core.tasks.overlap import occurs


@pytest.fixture
def elsewhere():
    """A default device that no generator of ours can be on, as a GPU would be."""

    def within(make):
        with torch.device("meta"):
            return make()

    return within


@pytest.mark.parametrize("endless", [True, False])
def test_indices_of_images_are_drawn_on_the_cpu(elsewhere, endless):
    source = make_tasks("glyphs", ways=3, shots=2, seed=0, endless=endless)
    for split in ("train", "test"):
        assert torch.equal(elsewhere(lambda s=split: source._batch(s, 2, 1)), source._batch(split, 2, 1))


def test_own_episodes_are_drawn_on_the_cpu(elsewhere):
    made = make_tasks("synthetic", points=7)
    source = as_tasks({split: made.sample(split, 4, 0) for split in ("train", "test")})
    for split in ("train", "test"):
        found = elsewhere(lambda s=split: source.draw(s, 2, 1))
        assert torch.equal(found.support_x, source.draw(split, 2, 1).support_x)


def test_what_occurs_is_found(elsewhere):
    x = make_tasks("synthetic", points=7).sample("train", 2, 0).support_x
    assert elsewhere(lambda: occurs(x, x)).all()


def test_a_model_is_made_on_the_cpu_but_where_nothing_has_numbers():
    tasks = make_tasks("synthetic")
    expected = make_model("lr", tasks, seed=0).fc.weight
    assert expected.device.type == "cpu"
    with torch.device("meta"):
        assert make_model("lr", tasks, seed=0).fc.weight.device.type == "meta"
