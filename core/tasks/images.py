"""Episodes made of classes of images: a batch is one index into one tensor."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from core.errors import UserError, unknown_name
from core.seeds import generator
from core.tasks.base import SPLITS, Episodes, TaskSource

POOL_SIZES = {"train": 20_000, "validation": 600, "test": 600}

_CHUNK = 4096  # tasks of a pool drawn at a time; a bound on memory, and a part of what names a pool's tasks


def distinct(rows: int, count: int, population: int, stream: torch.Generator) -> Tensor:
    """Ordered draws without replacement, every one equally likely, without a row of `population` numbers each.

    Floyd's algorithm, one column at a time for all rows, and then a shuffle of each row, because the order in which
    it finds the members of a set is not uniform.

    Args:
        rows: number of independent draws.
        count: members of a draw, at most `population`.
        population: the members are drawn from 0, ..., population - 1.
        stream: where the randomness comes from.

    Returns:
        int64 (rows, count).
    """
    chosen = torch.empty(rows, count, dtype=torch.int64, device="cpu")
    for column, top in enumerate(range(population - count, population)):
        pick = torch.randint(top + 1, (rows,), generator=stream, device="cpu")
        taken = (chosen[:, :column] == pick[:, None]).any(1)
        chosen[:, column] = pick.masked_fill_(taken, top)
    order = torch.rand(rows, count, dtype=torch.float64, generator=stream, device="cpu").argsort(1)
    return chosen.gather(1, order)


class ImageTasks(TaskSource):
    """`ways`-way classification of images, from classes that no other split has.

    A task is `ways` distinct classes in random order, labelled 0 to ways - 1, and `shots + query_shots` distinct
    samples of each: support and query never share an image. Both are grouped by class: the shots of class 0 first.
    Images are delivered as float32 in [0, 1], divided by 255, or normalised by `mean` and `std`.

    Args:
        images: for each of "train", "validation" and "test", uint8 (classes, samples, channels, H, W).
        ways: classes a task.
        shots: support examples a class.
        query_shots: query examples a class; `shots` by default.
        seed: seed of the pools and of every batch.
        device: where the images live and episodes are delivered. Indices are drawn on the CPU, so that devices see
            the same tasks.
        name: the data set's name.
        rotations: whether each class, rotated by 90, 180 and 270 degrees, makes three further classes.
        pool_sizes: the number of tasks of each split. They are fixed by the seed. A training batch is drawn from its
            pool without repetition within the batch; batch `i` of `n` tasks of another split is the `i`-th run of
            `n` members of the pool, which is read in a circle. None: tasks are drawn afresh for ever.
        class_names: for each split the names of its classes, before rotation.
        mean, std: numbers in units of [0, 1], one a channel: what is delivered is (image / 255 - mean) / std. Both or
            neither.

    Attributes:
        class_names: for each split the names of its classes, rotated ones included, in the order of the images.
        query_shots: query examples a class.

    Raises:
        UserError: where the images have fewer classes or samples than a task needs, splits share a class by name or by
            its images, or a setting is out of range.
    """

    kind = "classification"

    def __init__(
        self,
        images: Mapping[str, Tensor],
        ways: int,
        shots: int,
        query_shots: int | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        name: str = "images",
        rotations: bool = False,
        pool_sizes: Mapping[str, int] | None = POOL_SIZES,
        class_names: Mapping[str, Sequence[str]] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.name = name
        self.ways = ways
        self.num_outputs = ways
        self.shots = shots
        self.query_shots = shots if query_shots is None else query_shots
        self.seed = seed
        self.device = torch.device(device)
        self.rotations = rotations
        if ways < 2 or shots < 1 or self.query_shots < 1:
            raise UserError(
                f"a task needs at least 2 ways, 1 shot and 1 query shot, got {ways}, {shots} and {self.query_shots}"
            )
        for mapping in (images, pool_sizes, class_names):
            _check_splits(mapping)
        self.pool_sizes = None if pool_sizes is None else dict(pool_sizes)
        if self.pool_sizes is not None and min(self.pool_sizes.values()) < 1:
            raise UserError(f"every pool needs at least 1 task, got {self.pool_sizes}")
        self._check_images(images)
        self._normalisation = self._check_normalisation(mean, std)
        names = class_names or {split: [f"{split}/{i}" for i in range(len(images[split]))] for split in SPLITS}
        _check_names(images, names)
        _check_classes(images, names)
        self._num_unrotated = {split: len(images[split]) for split in SPLITS}
        self.class_names = {split: list(names[split]) for split in SPLITS}
        self._images: dict[str, Tensor] = {}
        for split in SPLITS:
            tensor = images[split].to(self.device)
            if rotations:
                tensor = torch.cat([tensor.rot90(turns, (-2, -1)) for turns in range(4)])
                self.class_names[split] += [
                    f"{each} rotated {degrees}" for degrees in (90, 180, 270) for each in names[split]
                ]
            self._images[split] = tensor.contiguous()
        self._pools: dict[str, Tensor] = {}
        self._fingerprint: str | None = None

    @property
    def endless(self) -> bool:
        """Whether tasks are drawn afresh for ever."""
        return self.pool_sizes is None

    @property
    def normalize(self) -> bool:
        """Whether pixels are normalised, by `mean` and `std`."""
        return self._normalisation is not None

    def _check_images(self, images: Mapping[str, Tensor]) -> None:
        self.example_shape = tuple(images["train"].shape[2:])
        samples_needed = self.shots + self.query_shots
        for split in SPLITS:
            tensor = images[split]
            if tensor.dtype != torch.uint8 or tensor.ndim != 5 or tuple(tensor.shape[2:]) != self.example_shape:
                raise UserError(
                    "images must be uint8 (classes, samples, channels, H, W) with one image shape for all splits: "
                    f"{split} is {tensor.dtype} {tuple(tensor.shape)}, train has images {self.example_shape}"
                )
            if self.rotations and tensor.shape[-1] != tensor.shape[-2]:
                raise UserError(
                    f"images of {tensor.shape[-2]} x {tensor.shape[-1]} pixels cannot be rotated: not square"
                )
            num_classes = len(tensor) * (4 if self.rotations else 1)
            if num_classes < self.ways:
                raise UserError(
                    f"{self.name} has {num_classes} {split} classes, fewer than the {self.ways} ways asked for"
                )
            if tensor.shape[1] < samples_needed:
                raise UserError(
                    f"{self.name} has {tensor.shape[1]} samples a class, fewer than the {samples_needed} of "
                    f"{self.shots} shots and {self.query_shots} query shots"
                )

    def _check_normalisation(
        self, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> tuple[Tensor, Tensor] | None:
        if mean is None and std is None:
            return None
        channels = self.example_shape[0]
        if mean is None or std is None or len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise UserError(
                f"mean and std must both be {channels} numbers, one a channel, std above 0; got {mean} and {std}"
            )
        shape = (channels, 1, 1)
        return torch.tensor(mean, device=self.device).view(shape), torch.tensor(std, device=self.device).view(shape)

    def draw(self, split: str, num_tasks: int, index: int) -> Episodes:
        """Batch `index` of `split`.

        Returns:
            Episodes; support_x is (num_tasks, ways * shots, C, H, W), query_x (num_tasks, ways * query_shots, C, H, W).

        Raises:
            UserError: for a batch of more tasks than the pool has.
        """
        flat = self._batch(split, num_tasks, index)
        return Episodes(
            *self._gather(split, flat[..., : self.shots]), *self._gather(split, flat[..., self.shots :]), kind=self.kind
        )

    def draw_whole(self, split: str, num_tasks: int, index: int) -> Episodes:
        """The tasks of `draw` with every image of their classes to learn from, but for the query set.

        Returns:
            Episodes; support_x is (num_tasks, ways * (samples - query_shots), C, H, W), query_x as `draw` has it.

        Raises:
            UserError: as `draw`.
        """
        query = self._batch(split, num_tasks, index)[..., self.shots :]
        samples = self._images[split].shape[1]
        every = query[..., :1] // samples * samples + torch.arange(samples, dtype=query.dtype, device="cpu")
        others = every[(every[..., None] != query[..., None, :]).all(-1)].view(*query.shape[:2], -1)
        return Episodes(*self._gather(split, others), *self._gather(split, query), kind=self.kind)

    def _batch(self, split: str, num_tasks: int, index: int) -> Tensor:
        """The images of batch `index`, (num_tasks, ways, shots + query_shots), as `_draw_indices` counts them."""
        stream = generator(self.seed, "tasks", split, index)
        if self.pool_sizes is None:
            return self._draw_indices(split, num_tasks, stream)
        size = self.pool_sizes[split]
        if num_tasks > size:
            # Repeating tasks would pass for more evidence than there is.
            raise UserError(f"{num_tasks} tasks asked for, but the {split} pool of {self.name} has {size}")
        if split == "train":
            members = torch.randperm(size, generator=stream, device="cpu")[:num_tasks]
        else:
            members = (index * num_tasks + torch.arange(num_tasks, device="cpu")) % size
        return self._pool(split)[members]

    def _gather(self, split: str, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Images (T, ways * k, C, H, W) and labels (T, ways * k) of the indices `flat`, (T, ways, k)."""
        num_tasks, ways, k = flat.shape
        rows = self._images[split].flatten(0, 1).flatten(1)
        chosen = flat.reshape(-1)
        if self.device.type == "cuda":  # from other memory the copy would wait for all that the GPU has still to do
            chosen = chosen.pin_memory()
        x = rows.index_select(0, chosen.to(self.device, non_blocking=True)).to(torch.float32).div_(255)
        x = x.view(num_tasks, ways * k, *self.example_shape)
        if self._normalisation is not None:
            mean, std = self._normalisation
            x = x.sub_(mean).div_(std)
        y = torch.arange(ways, device=self.device).repeat_interleave(k).repeat(num_tasks, 1)
        return x, y

    def _draw_indices(self, split: str, num_tasks: int, stream: torch.Generator) -> Tensor:
        """int64 (num_tasks, ways, shots + query_shots) of class * samples + sample."""
        num_classes, samples = self._images[split].shape[:2]
        count = self.shots + self.query_shots
        classes = distinct(num_tasks, self.ways, num_classes, stream)
        members = distinct(num_tasks * self.ways, count, samples, stream)
        return classes[..., None] * samples + members.view(num_tasks, self.ways, count)

    def _pool(self, split: str) -> Tensor:
        """The indices of every task of a pool: int32, of a quarter of the memory that a pool of images would take."""
        if split not in self._pools:
            assert self.pool_sizes is not None
            stream = generator(self.seed, "pool", split)
            chunks = [_CHUNK] * (self.pool_sizes[split] // _CHUNK) + [self.pool_sizes[split] % _CHUNK]
            self._pools[split] = torch.cat([self._draw_indices(split, n, stream).int() for n in chunks])
        return self._pools[split]

    def with_seed(self, seed: int) -> Self:
        """The same images with another seed, and so other pools."""
        other = super().with_seed(seed)
        other._pools = {}
        return other

    def fingerprint(self) -> str:
        """Digest of the images, their classes and splits, and the settings."""
        if self._fingerprint is None:
            settings = [self.name, self.ways, self.shots, self.query_shots, self.rotations, self.pool_sizes]
            if self._normalisation is not None:  # only then, so that other data sets keep the digest they had
                settings.append([each.flatten().tolist() for each in self._normalisation])
            digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
            for split in SPLITS:
                original = self._images[split][: self._num_unrotated[split]]
                digest.update(json.dumps([split, self.class_names[split], list(original.shape)]).encode())
                digest.update(original.cpu().numpy().data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def _check_splits(mapping: Mapping[str, object] | None) -> None:
    if mapping is None:
        return
    for split in mapping:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
    if missing := [split for split in SPLITS if split not in mapping]:
        raise UserError(f"images, pool sizes and class names need every split; missing: {', '.join(missing)}")


def _check_names(images: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> None:
    home: dict[str, str] = {}
    for split in SPLITS:
        if len(names[split]) != len(images[split]):
            raise UserError(f"{len(names[split])} class names for the {len(images[split])} classes of {split}")
        for each in names[split]:
            if each in home:
                where = f"twice in {split}" if home[each] == split else f"in both {home[each]} and {split}"
                raise UserError(f"class {each!r} is {where}: each class belongs to one split, once")
            home[each] = split


def _check_classes(images: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> None:
    """See that no class of a split is one of another under another name: the same images, in any order.

    Raises:
        UserError: naming the two.
    """
    home: dict[bytes, tuple[str, str]] = {}
    for split in SPLITS:
        # As an array at once: tensors one by one take several times as long as their digests.
        for name, samples in zip(names[split], images[split].cpu().flatten(2).contiguous().numpy(), strict=True):
            each = sorted(hashlib.blake2b(image, digest_size=8).digest() for image in samples)
            other_split, other = home.setdefault(b"".join(each), (split, name))
            if other_split != split:
                raise UserError(
                    f"class {name!r} of {split} has the images of {other!r} of {other_split}: each class belongs to "
                    "one split"
                )
