import torch

from core.seeds import derive_seed, generator


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
