"""Arrays that are dear to make and the same every time, kept between processes."""

import io
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from bounds import MAX_CACHE_BYTES, open_file
from bounds.tensors import open_zip
from core.errors import UserError
from core.files import write_atomically

Arrays = dict[str, np.ndarray]

_unwritable: set[Path] = set()


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """`cache_dir`, else `$ADAPTLENS_CACHE`, else `$XDG_CACHE_HOME/adaptlens`, else `~/.cache/adaptlens`."""
    if cache_dir is not None:
        return Path(cache_dir)
    if own := os.environ.get("ADAPTLENS_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "adaptlens"
    return Path.home() / ".cache" / "adaptlens"


def cached_arrays(
    name: str,
    keys: Collection[str],
    make: Callable[[], Arrays],
    cache_dir: str | os.PathLike[str] | None = None,
    fits: Callable[[Arrays], bool] = lambda arrays: True,
) -> Arrays:
    """What `make` returns, read from the cache if it was made before.

    Args:
        name: name of the file; it has to contain a digest of everything that the arrays depend on, because a file of
            this name is taken for the answer.
        keys: the names of the arrays that `make` returns.
        make: makes the arrays. It is called again where the cached file is damaged; where the folder cannot be
            written, each process calls it for itself, and one warning says so.
        cache_dir: see `cache_folder`.
        fits: whether arrays of the right names are what `make` could have made; others count as damaged.

    Returns:
        The arrays by name.
    """
    path = cache_folder(cache_dir) / f"{name}.npz"
    if (found := _read(path, keys)) is not None and fits(found):
        return found
    arrays = make()

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stubs take a key for an option

    try:
        write_atomically(path, write)
    except UserError as error:
        if path.parent not in _unwritable:
            _unwritable.add(path.parent)
            warnings.warn(f"{error}; every process will make this data again", stacklevel=2)
    return arrays


def are_drawings(arrays: Arrays) -> bool:
    """Whether these are "images", uint8 (classes, images, 1, 28, 28), and "names", a word for each class."""
    images, names = arrays["images"], arrays["names"]
    return (
        images.dtype == np.uint8
        and images.ndim == 5
        and images.shape[2:] == (1, 28, 28)
        and images.size > 0
        and names.dtype.kind == "U"
        and names.shape == images.shape[:1]
    )


def _read(path: Path, keys: Collection[str]) -> Arrays | None:
    """The arrays in a file, or None if they cannot be had from it, for whatever reason."""
    try:
        with open_file(path, MAX_CACHE_BYTES) as file, open_zip(file, path) as archive:
            return {key: _read_array(archive, f"{key}.npy") for key in keys}
    except Exception:  # a damaged header is read as Python, and fails in whatever it happens to say
        return None


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an archive.

    Raises:
        ValueError: if it is no array of numbers or words, or has another size than it says.
    """
    # As a whole: reading a part to its end makes the zip reader check its CRC-32.
    content = io.BytesIO(archive.read(name))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError("a version that is not written here")
    shape, _, dtype = np.lib.format.read_array_header_1_0(content)
    if dtype.hasobject or dtype.itemsize * math.prod(shape) != len(content.getbuffer()) - content.tell():
        raise ValueError("more or fewer bytes than are announced")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)
