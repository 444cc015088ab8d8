"""Episodes drawn from classes of images."""

import pytest
import torch

from core.errors import UserError
from core.tasks.base import SPLITS
from core.tasks.images import ImageTasks, distinct
from core.tasks.overlap import occurs

CLASSES = {"train": 12, "validation": 6, "test": 7}
SAMPLES = 9


def coded_images() -> dict[str, torch.Tensor]:
    """Images whose pixels say what they are: (0, 0) the class, numbered through all splits, and (0, 1) the sample."""
    images, start = {}, 1
    for split, count in CLASSES.items():
        x = torch.zeros(count, SAMPLES, 1, 3, 3, dtype=torch.uint8)
        x[..., 0, 0] = torch.arange(start, start + count)[:, None, None]
        x[..., 0, 1] = torch.arange(SAMPLES)[:, None]
        images[split], start = x, start + count
    return images


def tasks(ways: int = 5, shots: int = 2, query_shots: int | None = 3, **options: object) -> ImageTasks:
    options.setdefault("pool_sizes", {"train": 50, "validation": 20, "test": 20})
    return ImageTasks(coded_images(), ways, shots, query_shots, **options)  # type: ignore[arg-type]  # any option


def codes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and sample of each example."""
    pixels = (x * 255).round().long()
    return pixels[..., 0, 0, 0], pixels[..., 0, 0, 1]


@pytest.mark.parametrize("pools", [{"train": 50, "validation": 50, "test": 50}, None])
@pytest.mark.parametrize("split", SPLITS)
def test_a_task_has_distinct_classes_and_support_and_query_never_share_an_image(split, pools):
    episodes = tasks(pool_sizes=pools).sample(split, 50)
    assert episodes.support_x.shape == (50, 10, 1, 3, 3)
    assert episodes.query_x.shape == (50, 15, 1, 3, 3)
    assert episodes.support_x.dtype == torch.float32
    assert episodes.support_x.max() <= 1
    assert episodes.support_y.dtype == torch.int64
    assert episodes.support_y[7].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert episodes.query_y[7].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    support, query = codes(episodes.support_x), codes(episodes.query_x)
    first = 1 + sum(CLASSES[s] for s in SPLITS[: SPLITS.index(split)])
    for task in range(50):
        labels = support[0][task].view(5, 2)
        assert (labels == labels[:, :1]).all()
        assert (query[0][task].view(5, 3) == labels[:, :1]).all()
        assert len(set(labels[:, 0].tolist())) == 5
        assert first <= labels.min() <= labels.max() < first + CLASSES[split]
        images = [*zip(*(c[task].tolist() for c in support), strict=True)]
        images += [*zip(*(c[task].tolist() for c in query), strict=True)]
        assert len(set(images)) == len(images) == 25


@pytest.mark.parametrize("pools", [{"train": 50, "validation": 20, "test": 20}, None])
@pytest.mark.parametrize("rotations", [False, True])
def test_whole_tasks_have_every_image_of_their_classes_once_and_the_same_query_set(pools, rotations):
    source = tasks(pool_sizes=pools, rotations=rotations)
    episodes, whole = source.draw("test", 4, 2), source.draw_whole("test", 4, 2)
    assert torch.equal(whole.query_x, episodes.query_x)
    assert torch.equal(whole.query_y, episodes.query_y)
    assert whole.support_x.shape == (4, 5 * (SAMPLES - 3), 1, 3, 3)
    for task in range(4):
        for label in range(5):
            own = [
                x[task][y[task] == label]
                for x, y in (
                    (whole.support_x, whole.support_y),
                    (whole.query_x, whole.query_y),
                    (episodes.support_x, episodes.support_y),
                )
            ]
            learned, asked, shots = ({image.numpy().tobytes() for image in images} for images in own)
            assert len(learned | asked) == SAMPLES
            assert not learned & asked
            assert shots <= learned


def test_query_shots_are_shots_by_default():
    assert tasks(query_shots=None).sample("train", 1).query_x.shape == (1, 10, 1, 3, 3)


def test_distinct_draws_are_uniform_over_ordered_tuples():
    # 12 ordered pairs of 4, 6,000 draws: a count is 500 +- 21, so five standard errors are 107.
    draws = distinct(6000, 2, 4, torch.Generator().manual_seed(0))
    counts = torch.bincount(draws[:, 0] * 4 + draws[:, 1], minlength=16).view(4, 4)
    assert counts.diagonal().tolist() == [0] * 4
    assert (counts[~torch.eye(4, dtype=torch.bool)] - 500).abs().max() < 107


def test_distinct_can_draw_everything():
    assert distinct(20, 7, 7, torch.Generator().manual_seed(0)).sort(1).values.tolist() == [list(range(7))] * 20


@pytest.mark.parametrize("pools", [{"train": 50, "validation": 20, "test": 20}, None])
def test_a_batch_is_named_by_seed_split_and_index(pools):
    one, two, other = tasks(pool_sizes=pools), tasks(pool_sizes=pools), tasks(pool_sizes=pools, seed=1)
    two.sample("train", 4, 0)
    for split in SPLITS:
        assert torch.equal(one.sample(split, 4, 3).support_x, two.sample(split, 4, 3).support_x)
        assert not torch.equal(one.sample(split, 4, 3).support_x, one.sample(split, 4, 2).support_x)
        assert not torch.equal(one.sample(split, 4, 3).support_x, other.sample(split, 4, 3).support_x)


def test_the_named_batches_are_those_of_the_record():
    """Tables are paired with others by the names of their tasks: a name has to mean the same in every version."""
    pooled, endless = tasks(), tasks(pool_sizes=None)
    assert pooled._batch("test", 1, 0)[0, :, :2].tolist() == [[25, 20], [9, 15], [44, 43], [52, 47], [2, 0]]
    assert pooled._batch("train", 2, 5)[..., 0].tolist() == [[76, 18, 16, 2, 42], [25, 11, 95, 49, 73]]
    assert endless._batch("validation", 1, 3)[0, :, 4].tolist() == [27, 39, 7, 13, 49]
    last = tasks(pool_sizes={"train": 5000, "validation": 20, "test": 20})._pool("train")[4999]
    assert last[:, 0].tolist() == [88, 65, 19, 13, 61], "of the second part of a pool"


def task_keys(episodes) -> list[bytes]:
    x = torch.cat([episodes.support_x, episodes.query_x], 1)
    return [task.numpy().tobytes() for task in x]


def test_training_batches_come_from_one_pool_without_repetition_in_a_batch():
    source = tasks(pool_sizes={"train": 50, "validation": 20, "test": 20})
    whole = set(task_keys(source.sample("train", 50, 0)))
    assert len(whole) == 50
    assert task_keys(source.sample("train", 50, 0)) != task_keys(source.sample("train", 50, 1))
    for index in range(1, 10):
        batch = task_keys(source.sample("train", 30, index))
        assert len(set(batch)) == 30
        assert set(batch) <= whole


def test_validation_and_test_batches_walk_through_their_pool_in_a_circle():
    source = tasks()
    for split in ("validation", "test"):
        pool = task_keys(source.sample(split, 20, 0))
        assert len(set(pool)) == 20
        assert task_keys(source.sample(split, 8, 1)) == pool[8:16]
        assert task_keys(source.sample(split, 8, 2)) == pool[16:] + pool[:4]


def test_without_pools_tasks_do_not_repeat():
    source = tasks(pool_sizes=None)
    keys = [key for index in range(20) for key in task_keys(source.sample("train", 20, index))]
    assert len(set(keys)) == 400


def test_a_pool_larger_than_a_chunk_has_its_size():
    source = tasks(ways=2, shots=1, query_shots=1, pool_sizes={"train": 5000, "validation": 1, "test": 1})
    assert source.sample("train", 5000).num_tasks == 5000


def test_a_batch_larger_than_the_pool_is_refused():
    with pytest.raises(UserError, match="21 tasks asked for, but the test pool of images has 20"):
        tasks().sample("test", 21)


def test_rotations_are_further_classes_of_the_same_split():
    source = tasks(ways=12, rotations=True)
    images = source._images["test"]
    assert images.shape[0] == len(source.class_names["test"]) == 28
    original = coded_images()["test"]
    assert torch.equal(images[:7], original)
    # A quarter turn against the clock brings the top right corner to the top left.
    assert torch.equal(images[7:14, ..., 0, 0], original[..., 0, 2])
    assert torch.equal(images[7:14, ..., 2, 0], original[..., 0, 0])
    assert torch.equal(images[14:21], original.flip(-1, -2))
    assert torch.equal(images[21:], original.rot90(-1, (-2, -1)))
    assert source.class_names["test"][8] == "test/1 rotated 90"
    assert source.sample("test", 3).support_x.shape == (3, 24, 1, 3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 7}, "images has 6 validation classes, fewer than the 7 ways"),
        ({"shots": 7}, "9 samples a class, fewer than the 10 of 7 shots and 3 query shots"),
        ({"ways": 1}, "at least 2 ways"),
        ({"shots": 0}, "1 shot"),
        ({"query_shots": 0}, "1 query shot"),
        ({"pool_sizes": {"train": 5, "validation": 5, "test": 0}}, "at least 1 task"),
        ({"pool_sizes": {"train": 5, "validation": 5}}, "missing: test"),
        ({"pool_sizes": {"training": 5}}, "unknown split 'training'; known: test, train, validation"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        tasks(**options)


def test_a_class_in_two_splits_is_refused():
    names = {split: [f"{split}{i}" for i in range(count)] for split, count in CLASSES.items()}
    assert tasks(class_names=names).class_names == names
    with pytest.raises(UserError, match="5 class names for the 6 classes of validation"):
        tasks(class_names=names | {"validation": names["validation"][:5]})
    names["test"][2] = "train4"
    with pytest.raises(UserError, match="'train4' is in both train and test"):
        tasks(class_names=names)
    names["test"][2] = "test1"
    with pytest.raises(UserError, match="'test1' is twice in test"):
        tasks(class_names=names)


def test_images_of_the_wrong_kind_are_refused():
    with pytest.raises(UserError, match=r"validation is torch.float32"):
        ImageTasks(coded_images() | {"validation": torch.zeros(6, 9, 1, 3, 3)}, 5, 1)
    with pytest.raises(UserError, match="3 x 4 pixels cannot be rotated"):
        ImageTasks({s: torch.zeros(6, 9, 1, 3, 4, dtype=torch.uint8) for s in SPLITS}, 5, 1, rotations=True)


def test_fingerprint_tells_data_and_settings_apart_but_not_seeds():
    base = tasks().fingerprint()
    assert base == tasks(seed=5).fingerprint()
    changed = coded_images()
    changed["test"][0, 0, 0, 2, 2] = 1
    pools = {"train": 50, "validation": 20, "test": 20}
    others = [
        tasks(ways=4).fingerprint(),
        tasks(shots=1).fingerprint(),
        tasks(query_shots=2).fingerprint(),
        tasks(rotations=True).fingerprint(),
        tasks(pool_sizes=None).fingerprint(),
        tasks(name="other").fingerprint(),
        tasks(class_names={s: [f"x{s}{i}" for i in range(n)] for s, n in CLASSES.items()}).fingerprint(),
        ImageTasks(changed, 5, 2, 3, pool_sizes=pools).fingerprint(),
    ]
    assert len({base, *others}) == len(others) + 1


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], None), (None, [0.5]), ([0.5, 0.5], [0.5, 0.5]), ([0.5], [0.0]), ([], [])]
)
def test_normalisation_needs_a_number_a_channel(mean, std):
    images = {split: torch.zeros(3, 4, 1, 2, 2, dtype=torch.uint8) for split in SPLITS}
    with pytest.raises(UserError, match="mean and std must both be 1 numbers"):
        ImageTasks(images, 2, 1, mean=mean, std=std)


def test_a_class_of_another_split_under_another_name_is_refused():
    images = coded_images()
    images["test"][3] = images["train"][5].flip(0)  # in any order
    with pytest.raises(UserError, match="class 'test/3' of test has the images of 'train/5' of train: each class"):
        ImageTasks(images, 5, 1)
    images["test"][3, 0] += 1
    assert ImageTasks(images, 5, 1).class_names["test"][3] == "test/3"


@pytest.mark.parametrize("ways", [2, 5])
@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("query_shots", [1, 5])
def test_no_query_image_is_in_the_support_set_whatever_the_sizes(ways, shots, query_shots):
    for seed in range(5):
        source = tasks(ways, shots, query_shots, seed=seed, rotations=seed % 2 == 1)
        for split in SPLITS:
            assert not occurs(
                *(getattr(source.sample(split, 20, seed), f"{part}_x") for part in ("query", "support"))
            ).any()
