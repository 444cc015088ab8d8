import sys
from dataclasses import replace

import pytest
import torch

from analysis import intervene, perturb
from analysis.upper_bound import upper_bound
from core import meta_train_many
from core.seeds import derive_seed, generator, seeded


def test_streams_are_addressed_by_name():
    assert derive_seed(0, "tasks", "train", 3) == derive_seed(0, "tasks", "train", 3)
    names = [(0,), (1,), (0, "tasks"), (0, "tasks", 1), (0, "tasks", 11), (0, "tasks", 1, 1), (0, "task", "s")]
    assert len({derive_seed(*name) for name in names}) == len(names)


def test_seeds_fit_torch_and_stay_what_they_are():
    # A golden value: were it to change, every stored run would be another one.
    assert derive_seed(0, "initial weights") == 4751578982794469282
    assert all(0 <= derive_seed(seed) < 2**63 for seed in range(100))


def test_generators_start_at_the_stream():
    first, second = generator(5, "a"), generator(5, "a")
    assert torch.equal(torch.randn(4, generator=first), torch.randn(4, generator=second))


def asked_for(monkeypatch):
    """Every stream that is asked for, in order, with who asked."""
    streams = []

    def recorded(seed, *axes):
        caller = sys._getframe(1)
        while caller.f_code.co_name in ("generator", "seeded", "__enter__"):
            caller = caller.f_back
        streams.append(((seed, *axes), caller.f_code.co_qualname))
        return derive_seed(seed, *axes)

    for module in ("core.seeds", "analysis.upper_bound"):
        monkeypatch.setattr(f"{module}.derive_seed", recorded)
    return streams


def test_no_two_purposes_of_a_run_share_a_stream(tiny_config, monkeypatch):
    streams = asked_for(monkeypatch)
    config = tiny_config(
        dataset="glyphs", model="cnn", method="maml", depth=1, filters=2, ways=2, shots=1, points=None, iterations=3
    )
    runs = meta_train_many([config, replace(config, seed=1)], results=None, progress=False, device="cpu")
    run = runs[0]
    intervene(run, {"noise": perturb("FC", std=1.0)}, num_tasks=2, seed=0, draws=2)
    upper_bound(run, num_tasks=2, seed=0, max_steps=1)
    names = {name for name, _ in streams}
    # One stream, one seed, of all that a run and its studies ask for.
    assert len({derive_seed(*name) for name in names}) == len(names)
    # And one purpose: the words of a name say who may ask for it.
    asked = {}
    for (_, *axes), caller in streams:
        asked.setdefault(axes[0], set()).add(caller)
    assert set(asked) == {"initial weights", "pool", "tasks", "intervention", "upper bound"}
    for name, callers in asked.items():
        assert len(callers) == 1, (name, callers)
    # Training never draws the batch that the curve's training points are measured on.
    trained = [axes[2] for (seed, *axes), _ in streams if seed == 0 and axes[:2] == ["tasks", "train"]]
    assert sorted(set(trained)) == [0, 1, 2, config.iterations]


def test_a_name_that_would_be_that_of_another_stream_is_refused():
    with pytest.raises(ValueError, match="the words of a stream's name hold no slash, got 'a/b'"):
        derive_seed(0, "a/b")


def test_global_generators_are_at_the_stream_within_and_as_they_were_afterwards():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded(5, "a"):
        within = torch.randn(4)
    assert torch.equal(within, torch.randn(4, generator=generator(5, "a")))
    assert torch.equal(torch.rand(4), expected)
