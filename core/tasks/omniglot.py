"""Omniglot (Lake et al., Science 2015): handwritten characters, 20 drawings each.

Two data sets that never stand in one row: `omniglot`, all 1,623 characters, and `omniglot_small`, the 242 characters
of the official small archives.
"""

import functools
import hashlib
import http.client
import io
import os
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from bounds import (
    MAX_DRAWING_BYTES,
    MAX_DRAWING_SIDE,
    MAX_DRAWINGS,
    MAX_DRAWINGS_BYTES,
    MAX_NAME,
    MAX_OMNIGLOT_ARCHIVE,
    Refused,
    check,
    read_bytes,
)
from bounds.tensors import check_zip_directory
from bounds.words import one_line, shown
from core.errors import UserError
from core.files import write_atomically
from core.tasks.cache import Arrays, are_drawings, cache_folder, cached_arrays
from core.tasks.images import POOL_SIZES, ImageTasks

SIZE = 28
SPLIT_SEED = 0

# The data set's official repository, where torchvision gets the large archives, too.
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"

# By data set: its archives with their SHA-256.
ARCHIVES = {
    "omniglot": {
        "images_background.zip": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        "images_evaluation.zip": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
    },
    "omniglot_small": {
        "images_background_small1.zip": "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
        "images_background_small2.zip": "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
    },
}
CHARACTERS = {"omniglot": 1623, "omniglot_small": 242}
SMALL_ALPHABETS = frozenset(
    ("Balinese", "Early_Aramaic", "Greek", "Japanese_(katakana)", "Korean", "Latin", "Sanskrit", "Tagalog")
)

# The paper's 1,200 training and 100 validation characters leave 323 of 1,623 for testing.
TRAIN_SHARE = 1200 / 1623
VALIDATION_SHARE = 100 / 1623

_VERSION = 1  # of the decoding; part of the cached file's name

Drawings = dict[str, dict[str, bytes]]
"""PNG bytes by character (`Greek/character01`) and by file name."""


def omniglot(
    ways: int,
    shots: int,
    query_shots: int | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    rotations: bool = True,
    endless: bool = False,
    pool_sizes: Mapping[str, int] = POOL_SIZES,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ImageTasks:
    """Few-shot tasks of Omniglot, 28 x 28, ink = 1: 1,200 characters for training, 100 for validation, 323 for test.

    The paper says 423 for test, which does not add up to 1,623. Which character goes where does not depend on `seed`.
    A folder with another number of characters is split in the same proportions, with a warning.

    Args:
        ways: characters a task.
        shots: support examples a character.
        query_shots: query examples a character; `shots` by default.
        root: folder that holds `images_background.zip` and `images_evaluation.zip` (also one that torchvision's
            downloader filled), or `alphabet/character/*.png`.
        download: fetch the archives into `root` (by default the cache folder) if they are not there.
        seed: seed of the tasks.
        device: where the images live.
        rotations: whether characters rotated by 90, 180 and 270 degrees are further classes of the same split.
        endless: draw tasks for ever, not from pools.
        pool_sizes: tasks of each split, see `ImageTasks`.
        cache_dir: where the decoded images are kept, see `core.tasks.cache.cache_folder`.

    Returns:
        The source of tasks. Class names read `Greek/character01`.

    Raises:
        UserError: where the files are missing, damaged, of `omniglot_small` only, or cannot be downloaded.
    """
    return _tasks(
        "omniglot", ways, shots, query_shots, root=root, download=download, seed=seed, device=device,
        rotations=rotations, endless=endless, pool_sizes=pool_sizes, cache_dir=cache_dir,
    )  # fmt: skip


def omniglot_small(
    ways: int,
    shots: int,
    query_shots: int | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    rotations: bool = True,
    endless: bool = False,
    pool_sizes: Mapping[str, int] = POOL_SIZES,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ImageTasks:
    """Few-shot tasks of the 242 characters in Omniglot's two small archives, split in the proportions of `omniglot`.

    179 characters are for training, 15 for validation, 48 for test. Greek and Latin are in both archives and count
    once. Arguments, result and errors are those of `omniglot`; `root` holds `images_background_small1.zip` and
    `images_background_small2.zip`, or the same characters as `alphabet/character/*.png`.

    Raises:
        UserError: where the files are missing, damaged, not those of the small archives, or cannot be downloaded.
    """
    return _tasks(
        "omniglot_small", ways, shots, query_shots, root=root, download=download, seed=seed, device=device,
        rotations=rotations, endless=endless, pool_sizes=pool_sizes, cache_dir=cache_dir,
    )  # fmt: skip


def _tasks(
    name: str,
    ways: int,
    shots: int,
    query_shots: int | None,
    *,
    root: str | os.PathLike[str] | None,
    download: bool,
    seed: int,
    device: str | torch.device,
    rotations: bool,
    endless: bool,
    pool_sizes: Mapping[str, int],
    cache_dir: str | os.PathLike[str] | None,
) -> ImageTasks:
    if root is None and not download:
        raise UserError(f"the data set {name} is not part of adaptlens: {_advice(name)}")
    folder = cache_folder(cache_dir) / "omniglot" if root is None else Path(root)
    if download:
        _download(name, folder)
    digest, read = _find(name, folder)
    arrays = cached_arrays(
        f"{name}-{digest}-{_VERSION}-{PIL.__version__}", ("images", "names"), lambda: _decode(read()), cache_dir,
        fits=are_drawings,
    )  # fmt: skip
    names = [str(character) for character in arrays["names"]]
    if len(names) != CHARACTERS[name]:
        warnings.warn(
            f"{folder} holds {len(names)} characters, not the {CHARACTERS[name]} of {name}; they are split in the "
            "same proportions, and results are not comparable with others on this data set",
            stacklevel=3,
        )
    rows = split_characters(names)
    return ImageTasks(
        {split: torch.from_numpy(arrays["images"][members]) for split, members in rows.items()},
        ways,
        shots,
        query_shots,
        seed=seed,
        device=device,
        name=name,
        rotations=rotations,
        pool_sizes=None if endless else pool_sizes,
        class_names={split: [names[row] for row in members] for split, members in rows.items()},
    )


def split_characters(names: list[str]) -> dict[str, list[int]]:
    """The rows of `names` that each split has: 1200 : 100 : 323, rounded, in the order of a fixed shuffle.

    The shuffle sorts by a hash of the name, which no version of a random number generator can change.
    """

    def shuffled(row: int) -> bytes:
        return hashlib.blake2b(f"{SPLIT_SEED}/{names[row]}".encode(), digest_size=8).digest()

    order = sorted(sorted(range(len(names)), key=names.__getitem__), key=shuffled)
    num_train = round(len(names) * TRAIN_SHARE)
    num_validation = round(len(names) * VALIDATION_SHARE)
    return {
        "train": order[:num_train],
        "validation": order[num_train : num_train + num_validation],
        "test": order[num_train + num_validation :],
    }


def _advice(name: str) -> str:
    archives = " and ".join(ARCHIVES[name])
    return (
        f"get {archives} from {URL}, put them into one folder, and name it by --data-dir, DATA_DIR or root=, "
        f"or fetch them by: python -m core download {name} --data-dir FOLDER"
    )


def _download(name: str, folder: Path) -> None:
    """Fetch the archives that are not in `folder`; what is there stays as it is.

    Raises:
        UserError: without a network, for a wrong digest, or an unwritable folder.
    """
    for archive, sha256 in ARCHIVES[name].items():
        if any((place / archive).exists() for place in _places(folder)):
            continue
        try:
            content = _fetch(f"{URL}/{archive}")
        except (OSError, http.client.HTTPException) as error:
            raise UserError(f"cannot download {archive} ({error}): {_advice(name)}") from error
        _refuse_html(content, archive, name)
        if (got := hashlib.sha256(content).hexdigest()) != sha256:
            raise UserError(f"the download of {archive} has SHA-256 {got}, not {sha256}, and was not kept")
        write_atomically(folder / archive, functools.partial(Path.write_bytes, data=content))


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        content: bytes = response.read(MAX_OMNIGLOT_ARCHIVE)
    return content


def _refuse_html(content: bytes, archive: str | Path, name: str) -> None:
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise UserError(f"{archive} is an HTML page, not a zip archive: {_advice(name)}")


def _places(folder: Path) -> list[Path]:
    """Where archives or their contents may lie: torchvision makes a folder `omniglot-py` inside the one it is given."""
    return [folder, folder / "omniglot-py", folder / "omniglot"]


def _find(name: str, folder: Path) -> tuple[str, Callable[[], Drawings]]:
    """The digest of the files of a data set, and a function that reads them."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: {_advice(name)}")
    (other,) = ARCHIVES.keys() - {name}
    archives = list(ARCHIVES[name])
    for place in _places(folder):
        if all((place / archive).is_file() for archive in archives):
            return _open_archives([place / archive for archive in archives], name)
        extracted = [place / Path(archive).stem for archive in archives]
        if all(part.is_dir() for part in extracted):
            return _open_trees(extracted)
        # One of two would pass for the whole.
        if some := [archive for archive in archives if (place / archive).is_file()]:
            (missing,) = set(archives) - set(some)
            raise UserError(f"{place} has {some[0]} but not {missing}: {_advice(name)}")
    for place in _places(folder):
        if alphabets := {file.parts[-3] for file in place.glob("*/*/*.png")}:
            is_small = alphabets <= SMALL_ALPHABETS
            if is_small != (name == "omniglot_small"):
                which = "only alphabets" if is_small else "more than the alphabets"
                raise UserError(
                    f"{place} holds {which} of the small archives: ask for the data set {other}, not {name}"
                )
            return _open_trees([place])
    for place in _places(folder):
        if any((place / archive).exists() or (place / Path(archive).stem).is_dir() for archive in ARCHIVES[other]):
            raise UserError(f"{place} holds the files of the data set {other}, not of {name}: {_advice(name)}")
    raise UserError(f"{folder} holds no Omniglot archives and no alphabet/character/*.png: {_advice(name)}")


def _open_archives(paths: list[Path], name: str) -> tuple[str, Callable[[], Drawings]]:
    digest = hashlib.blake2b(digest_size=8)
    contents = []
    for path in paths:
        try:
            content = read_bytes(path, MAX_OMNIGLOT_ARCHIVE)
        except Refused as error:
            raise UserError(str(error)) from error
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        _refuse_html(content, path, name)
        digest.update(hashlib.blake2b(content).digest())
        contents.append(content)

    def read() -> Drawings:
        drawings: Drawings = {}
        for path, content in zip(paths, contents, strict=True):
            _read_archive(path, content, drawings)
        return drawings

    return digest.hexdigest(), read


def _read_archive(path: Path, content: bytes, drawings: Drawings) -> None:
    """Add the drawings of a zip archive. They are read in memory: names in it never become paths on the disk."""
    try:
        check_zip_directory(io.BytesIO(content), path)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            check(path, len(entries), MAX_DRAWINGS, "files in it")
            check(path, sum(entry.file_size for entry in entries), MAX_DRAWINGS_BYTES, "bytes unpacked")
            for entry in entries:
                parts = entry.filename.split("/")
                if entry.is_dir() or len(parts) < 3:
                    continue
                # Names with a leading dot are what a Mac adds to archives.
                if not parts[-1].lower().endswith(".png") or parts[-1].startswith("."):
                    continue
                where = f"{shown(entry.filename)} in {path}"
                check(where, entry.file_size, MAX_DRAWING_BYTES, "bytes")
                if len(entry.filename) > 4 * MAX_NAME or not entry.filename.isprintable():
                    raise UserError(f"{where} has a name that no file has")
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UserError(f"{where} is compressed otherwise than Omniglot's archives are")
                _add(drawings, f"{parts[-3]}/{parts[-2]}", parts[-1], _unpacked(archive, entry), path)
    except Refused as error:
        raise UserError(str(error)) from error
    except UserError:
        raise
    except Exception as error:  # zipfile has an error of its own for some damage only
        raise UserError(f"{path} is not a whole zip archive ({one_line(error)}): get it again") from error


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The content of a file in an archive. `archive.read` would unpack all that there is, whatever size was announced.

    Raises:
        BadZipFile: if its checksum or its size is another than is announced.
    """
    with archive.open(entry) as file:
        content = b"".join(iter(lambda: file.read(1 << 16), b""))
    if len(content) != entry.file_size:
        raise zipfile.BadZipFile(f"{shown(entry.filename)} is cut off")
    return content


def _add(drawings: Drawings, character: str, file: str, png: bytes, path: Path) -> None:
    """The small archives share two alphabets: the same drawing twice counts once, a different one is an error."""
    if drawings.setdefault(character, {}).setdefault(file, png) != png:
        raise UserError(f"{path} has another {character}/{file} than the archive or folder before it")


def _open_trees(folders: list[Path]) -> tuple[str, Callable[[], Drawings]]:
    drawings: Drawings = {}
    total = 0
    for folder in folders:
        for number, file in enumerate(sorted(folder.glob("*/*/*.png"))):
            if file.name.startswith("."):
                continue
            try:
                content = read_bytes(file, MAX_DRAWING_BYTES)
                total += len(content)
                check(folder, total, MAX_DRAWINGS_BYTES, "bytes of drawings or more")
                check(folder, number, MAX_DRAWINGS, "drawings or more")
            except Refused as error:
                raise UserError(str(error)) from error
            except OSError as error:
                raise UserError(f"cannot read {file}: {error.strerror or error}") from error
            _add(drawings, f"{file.parts[-3]}/{file.parts[-2]}", file.name, content, folder)
    digest = hashlib.blake2b(digest_size=8)
    for character, files in sorted(drawings.items()):
        for name, png in sorted(files.items()):
            digest.update(f"{character}/{name}/{len(png)}/".encode())
            digest.update(png)
    return digest.hexdigest(), lambda: drawings


def _decode(drawings: Drawings) -> Arrays:
    """Arrays by name: `images`, uint8 (characters, drawings, 1, 28, 28) with ink = 255, and `names`, sorted."""
    if not drawings:
        raise UserError("there are no drawings (alphabet/character/*.png) in the archives or folder given")
    names = sorted(drawings)
    most = max(len(files) for files in drawings.values())
    for character, files in drawings.items():
        if len(files) != most:
            raise UserError(f"{character} has {len(files)} drawings where others have {most}")
    images = np.empty((len(names), most, 1, SIZE, SIZE), dtype=np.uint8)
    for row, character in enumerate(names):
        files = drawings[character]
        for column, file in enumerate(sorted(files)):
            images[row, column, 0] = _decode_drawing(files[file], f"{character}/{file}")
    return {"images": images, "names": np.array(names)}


def _decode_drawing(png: bytes, name: str) -> np.ndarray:
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
                check(name, max(image.size), MAX_DRAWING_SIDE, "pixels a side")
                grey = image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    except Refused as error:
        raise UserError(str(error)) from error
    except Exception as error:  # Pillow has no error of its own for a damaged file
        raise UserError(f"{name} is not a readable PNG image ({one_line(error)})") from error
    return 255 - np.asarray(grey)  # black ink on white paper
