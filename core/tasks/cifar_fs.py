"""CIFAR-FS (Bertinetto et al., ICLR 2019): the 100 classes of CIFAR-100, 600 colour images of 32 x 32 pixels each."""

import gzip
import os
import tarfile
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from bounds import MAX_CIFAR_BYTES, MAX_TAR_MEMBERS, Refused, Within, check, most, open_file
from bounds.words import one_line
from core.errors import UserError
from core.tasks.cache import cache_folder
from core.tasks.downloads import download as fetch
from core.tasks.images import POOL_SIZES, ImageTasks
from core.tasks.pickles import read_pickle

FOLDER = "cifar-100-python"
ARCHIVE = f"{FOLDER}.tar.gz"
FILES = ("meta", "train", "test")
IMAGES_A_CLASS = 600  # 500 of CIFAR-100's training file and 100 of its test file

# Of a pixel in [0, 1], by channel: numbers usual for CIFAR-10, and those in the code of Bertinetto et al. Whether their
# results were had with them is not known, for the line that uses them is commented out in what was published.
MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)

# The split of Bertinetto et al., by CIFAR-100's fine labels.
_LISTS = {
    "train": (
        "apple aquarium_fish bear bee boy bottle bowl bridge bus can castle caterpillar chair clock cloud cockroach "
        "couch cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion lizard "
        "lobster mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine possum "
        "rabbit raccoon ray road seal shrew skunk skyscraper snake spider squirrel streetcar sunflower tank tiger "
        "train trout tulip turtle willow_tree wolf"
    ),
    "validation": (
        "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark "
        "television tractor"
    ),
    "test": (
        "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table "
        "telephone wardrobe whale woman worm"
    ),
}
CLASSES = {split: names.split() for split, names in _LISTS.items()}


def cifar_fs(
    ways: int,
    shots: int,
    query_shots: int | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    normalize: bool = True,
    endless: bool = False,
    pool_sizes: Mapping[str, int] = POOL_SIZES,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ImageTasks:
    """Few-shot tasks of CIFAR-100, 3 x 32 x 32: 64 classes for training, 16 for validation, 20 for test.

    Args:
        ways: classes a task.
        shots: support examples a class.
        query_shots: query examples a class; `shots` by default.
        root: folder that holds `cifar-100-python.tar.gz`, or the folder `cifar-100-python` that is in it.
        download: fetch the archive (169 MB, from the address that torchvision has, checked by its MD5) into `root`, by
            default the cache folder, if it is not there.
        seed: seed of the tasks.
        device: where the images live.
        normalize: whether `MEAN` is subtracted and the result divided by `STD`.
        endless: draw tasks for ever, not from pools.
        pool_sizes: tasks of each split, see `ImageTasks`.
        cache_dir: where a download goes without `root`, see `core.tasks.cache.cache_folder`.

    Returns:
        The source of tasks. Class names are CIFAR-100's fine labels, such as `maple_tree`.

    Raises:
        UserError: where the files are missing, damaged, of another format, or cannot be downloaded.
    """
    if root is None and not download:
        raise UserError(f"the data set cifar_fs is not part of adaptlens: {_ADVICE}")
    folder = cache_folder(cache_dir) / "cifar_fs" if root is None else Path(root)
    if download and _find(folder) is None:
        from torchvision.datasets import CIFAR100  # here, because its import takes a second

        fetch(CIFAR100.url, folder / ARCHIVE, CIFAR100.tgz_md5)
    images = _images(folder)
    if (samples := len(next(iter(images.values())))) != IMAGES_A_CLASS:
        warnings.warn(
            f"{folder} holds {samples} images a class, not the {IMAGES_A_CLASS} of CIFAR-100; results are not "
            "comparable with others on this data set",
            stacklevel=2,
        )
    return ImageTasks(
        {split: torch.from_numpy(np.stack([images[name] for name in names])) for split, names in CLASSES.items()},
        ways,
        shots,
        query_shots,
        seed=seed,
        device=device,
        name="cifar_fs",
        pool_sizes=None if endless else pool_sizes,
        class_names=CLASSES,
        mean=MEAN if normalize else None,
        std=STD if normalize else None,
    )


_ADVICE = (
    f"get {ARCHIVE}, the Python version of CIFAR-100, put it into a folder, and name that by --data-dir, DATA_DIR or "
    "root=, or fetch it by: python -m core download cifar_fs --data-dir FOLDER"
)


def _find(folder: Path) -> Path | None:
    """The folder that holds the files `train`, `test` and `meta`, or the archive of it."""
    for place in (folder, folder / FOLDER):
        if all((place / name).is_file() for name in FILES):
            return place
    archive = folder / ARCHIVE
    return archive if archive.is_file() else None


def _read(place: Path) -> dict[str, dict[str, Any]]:
    """The dict in each of `FILES`. An archive is read where it is: names in it never become paths on the disk."""
    values = {}
    try:
        if place.is_dir():
            for name in FILES:
                with open_file(place / name, MAX_CIFAR_BYTES) as file:
                    values[name] = read_pickle(file, place / name, os.fstat(file.fileno()).st_size)
        else:
            with open_file(place, MAX_CIFAR_BYTES) as file:
                _read_archive(file, place, values)
    except Refused as error:
        raise UserError(str(error)) from error
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read {place} ({one_line(error)}): get it again") from error
    for name, value in values.items():
        if not isinstance(value, dict):
            raise UserError(f"{name} in {place} is not of CIFAR-100: it holds a {type(value).__name__}, not a dict")
    return values


_MOST_EXTENDED = 4096  # bytes; names and times of files take some hundreds


class _PlainMember(tarfile.TarInfo):
    """A file in an archive, that is all there.

    A sparse one has any size, of nothing. What a header of its own says before a file, such as a long name, is read as
    a whole, and in old versions of Python by searches that take days for a large one.
    """

    _EXTENDED = (
        tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE
    )  # fmt: skip

    def _proc_member(self, archive: Any) -> tarfile.TarInfo:
        if self.type in self._EXTENDED:
            archive.num_extended = getattr(archive, "num_extended", 0) + 1
            if self.size > _MOST_EXTENDED or archive.num_extended > MAX_TAR_MEMBERS:
                raise tarfile.HeaderError(f"it has a header of {self.size:,} bytes before a file, or too many")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # the stubs leave it out
        return member

    def _refuse(self, *_: Any) -> None:
        raise tarfile.HeaderError("it has a sparse file")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


def _read_archive(file: BinaryIO, place: Path, values: dict[str, Any]) -> None:
    """Add the value of each of `FILES` in an archive, in the order in which they come: it is unpacked once."""
    wanted = {f"{FOLDER}/{name}": name for name in FILES}
    with gzip.open(file) as unpacked:
        # It may unpack to a thousand times its size, and what describes a file in it is read as a whole.
        within = Within(unpacked, most(MAX_CIFAR_BYTES))  # type: ignore[arg-type]  # is a reader
        # A reader, too.
        with tarfile.open(fileobj=within, mode="r|", tarinfo=_PlainMember) as archive:  # type: ignore[call-overload]
            for number, member in enumerate(archive):
                check(place, number, MAX_TAR_MEMBERS, "files or more in it")
                name = wanted.pop(member.name, None)
                if name is None:
                    continue
                part = archive.extractfile(member) if member.type in tarfile.REGULAR_TYPES else None
                if part is None:
                    raise UserError(f"{name} in {place} is no file")
                values[name] = read_pickle(part, f"{name} in {place}", member.size)
    if wanted:
        raise UserError(f"{place} does not hold CIFAR-100: it lacks {', '.join(wanted)}")


def _images(folder: Path) -> dict[str, np.ndarray]:
    """uint8 (images, 3, 32, 32) of each class, those of the training file first."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: {_ADVICE}")
    if (place := _find(folder)) is None:
        raise UserError(f"{folder} holds neither {ARCHIVE} nor the folder {FOLDER}: {_ADVICE}")
    values = _read(place)
    names = values["meta"].get("fine_label_names")
    known = {name for split in CLASSES.values() for name in split}
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or len(names) != len(known)
        or set(names) != known
    ):
        raise UserError(f"meta in {place} does not name the 100 classes of CIFAR-100 as fine_label_names")
    parts = [_rows(values[name], f"{name} in {place}") for name in ("train", "test")]
    images = np.concatenate([data for data, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    counts = np.bincount(labels, minlength=len(names))
    if counts.min() != counts.max():
        raise UserError(
            f"{place} holds {counts.max()} images of {names[counts.argmax()]} but {counts.min()} of "
            f"{names[counts.argmin()]}: every class must have as many"
        )
    return {name: images[labels == label] for label, name in enumerate(names)}


def _rows(part: dict[str, Any], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of a file: its rows are planes of red, green and blue."""
    data, labels = part.get("data"), part.get("fine_labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        raise UserError(f"{where} has no `data` of uint8 (images, 3072)")
    if not isinstance(labels, list) or len(labels) != len(data):
        raise UserError(f"{where} does not have one of `fine_labels` for each of its {len(data)} images")
    if not all(isinstance(label, int) and 0 <= label < 100 for label in labels):
        raise UserError(f"{where} has `fine_labels` other than the whole numbers from 0 to 99")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)
