"""mini-ImageNet (Vinyals et al., 2016), in the split of Ravi and Larochelle (2017): 100 classes of 600 images."""

import http.client
import json
import os
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from bounds import MAX_PICKLED_BYTES, Refused, open_file
from bounds.words import shown
from core.errors import UserError
from core.tasks.base import SPLITS
from core.tasks.cache import cache_folder
from core.tasks.downloads import download as fetch
from core.tasks.images import POOL_SIZES, ImageTasks
from core.tasks.pickles import read_pickle

SIZE = 84
NUM_CLASSES = {"train": 64, "validation": 16, "test": 20}
IMAGES_A_CLASS = 600

# By split: the names that its file goes by; the first is that of the public record.
FILES = {
    "train": ("mini-imagenet-cache-train.pkl",),
    "validation": ("mini-imagenet-cache-validation.pkl", "mini-imagenet-cache-val.pkl"),
    "test": ("mini-imagenet-cache-test.pkl",),
}
RECORD = "https://zenodo.org/api/records/7978538"  # lists the files with their addresses and MD5


def mini_imagenet(
    ways: int,
    shots: int,
    query_shots: int | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    endless: bool = False,
    pool_sizes: Mapping[str, int] = POOL_SIZES,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ImageTasks:
    """Few-shot tasks of mini-ImageNet, 3 x 84 x 84: 64 classes for training, 16 for validation, 20 for test.

    Pixels are divided by 255 and not otherwise normalised, as by Finn et al. (2017).

    Args:
        ways: classes a task.
        shots: support examples a class.
        query_shots: query examples a class; `shots` by default.
        root: folder that holds `mini-imagenet-cache-train.pkl`, the same with `val` or `validation`, and with `test`.
        download: fetch those that are not there (1.2 GB, from the public record 7978538 of Zenodo, checked by the MD5
            that it states) into `root`, by default the cache folder.
        seed: seed of the tasks.
        device: where the images live.
        endless: draw tasks for ever, not from pools.
        pool_sizes: tasks of each split, see `ImageTasks`.
        cache_dir: where a download goes without `root`, see `core.tasks.cache.cache_folder`.

    Returns:
        The source of tasks. Class names are WordNet's, such as `n01532829`.

    Raises:
        UserError: where the files are missing, damaged, of another format, or cannot be downloaded.
    """
    if root is None and not download:
        raise UserError(f"the data set mini_imagenet is not part of adaptlens: {_ADVICE}")
    folder = cache_folder(cache_dir) / "mini_imagenet" if root is None else Path(root)
    if download:
        _download(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: {_ADVICE}")
    paths = {split: _find(folder, split) for split in SPLITS}
    if missing := [FILES[split][0] for split, path in paths.items() if path is None]:
        raise UserError(f"{folder} does not hold {', '.join(missing)}: {_ADVICE}")
    images, names = {}, {}
    for split, path in paths.items():
        assert path is not None
        names[split], images[split] = _read(path)
    sizes = {split: len(each) for split, each in names.items()}
    samples = {each.shape[1] for each in images.values()}
    if sizes != NUM_CLASSES or samples != {IMAGES_A_CLASS}:
        warnings.warn(
            f"{folder} holds {sizes} classes of {', '.join(map(str, sorted(samples)))} images, not the {NUM_CLASSES} "
            f"of {IMAGES_A_CLASS} of mini-ImageNet; results are not comparable with others on this data set",
            stacklevel=2,
        )
    return ImageTasks(
        images,
        ways,
        shots,
        query_shots,
        seed=seed,
        device=device,
        name="mini_imagenet",
        pool_sizes=None if endless else pool_sizes,
        class_names=names,
    )


_ADVICE = (
    f"get {', '.join(names[0] for names in FILES.values())}, put them into one folder, and name it by --data-dir, "
    "DATA_DIR or root=, or fetch them by: python -m core download mini_imagenet --data-dir FOLDER"
)


def _find(folder: Path, split: str) -> Path | None:
    return next((folder / name for name in FILES[split] if (folder / name).is_file()), None)


def _download(folder: Path) -> None:
    missing = [FILES[split][0] for split in SPLITS if _find(folder, split) is None]
    if not missing:
        return
    try:
        with urllib.request.urlopen(RECORD, timeout=30) as response:
            record = json.loads(response.read(1 << 20))
        offered = {
            file["key"]: (file["links"]["self"], file["checksum"].removeprefix("md5:")) for file in record["files"]
        }
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"cannot download mini-ImageNet ({error}): {_ADVICE}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{RECORD} does not list its files as it used to ({error!r}): {_ADVICE}") from error
    for name in missing:
        if name not in offered:
            raise UserError(f"{RECORD} no longer has {name}: {_ADVICE}")
        url, md5 = offered[name]
        fetch(url, folder / name, md5)


def _is_sequence(value: object) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _read(path: Path) -> tuple[list[str], torch.Tensor]:
    """The names of the classes in a file, sorted, and their images: uint8 (classes, images, 3, 84, 84)."""
    try:
        with open_file(path, MAX_PICKLED_BYTES) as file:
            value = read_pickle(file, path, os.fstat(file.fileno()).st_size)
    except Refused as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    value = value if isinstance(value, dict) else {}
    data, rows = value.get("image_data"), value.get("class_dict")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (SIZE, SIZE, 3):
        raise UserError(f"{path} has no `image_data` of uint8 (images, {SIZE}, {SIZE}, 3)")
    if (
        not isinstance(rows, dict)
        or not rows
        or not all(isinstance(name, str) and _is_sequence(members) for name, members in rows.items())
    ):
        raise UserError(f"{path} has no `class_dict` of rows by the names of classes")
    if sum(len(members) for members in rows.values()) > len(data):
        raise UserError(f"{path} lists more rows in its classes than it has images, which are {len(data)}")
    names = sorted(rows)
    images = []
    for name in names:
        members = rows[name]
        if not all(isinstance(row, int | np.integer) and 0 <= row < len(data) for row in members):
            raise UserError(f"{path} lists for class {shown(name)} something other than rows of its {len(data)} images")
        if len(members) != len(rows[names[0]]):
            raise UserError(
                f"{path} has {len(members)} images of {shown(name)} but {len(rows[names[0]])} of {shown(names[0])}: "
                "every class must have as many"
            )
        images.append(data[np.asarray(members, dtype=np.int64)].transpose(0, 3, 1, 2))
    return names, torch.from_numpy(np.stack(images))
