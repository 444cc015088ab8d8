"""CIFAR-FS from files in CIFAR-100's format."""

import io
import json
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.tasks import make_tasks
from core.tasks.base import SPLITS
from core.tasks.cifar_fs import CLASSES, MEAN, STD, cifar_fs

module = sys.modules["core.tasks.cifar_fs"]
LISTS = Path(__file__).parents[4] / "shared" / "data" / "splits"
NAMES = sorted(name for names in CLASSES.values() for name in names)
POOLS = {"train": 20, "validation": 10, "test": 10}

pytestmark = pytest.mark.filterwarnings("ignore:.*not the 600 of CIFAR-100")


def pixel(label: int, image: int) -> tuple[int, int, int]:
    """The red, green and blue of every pixel of an image, so that it is known again."""
    return label, image, 200


def part(first: int, count: int) -> dict:
    """Images `first`, ... of every class, classes in turn, as CIFAR-100's files have them."""
    labels = [label for _ in range(count) for label in range(100)]
    numbers = [first + i for i in range(count) for _ in range(100)]
    rows = [np.repeat(np.array(pixel(*each), np.uint8), 1024) for each in zip(labels, numbers, strict=True)]
    for row in rows:
        row.reshape(3, 32, 32)[:, 3, 5] = 255  # so that rows and columns are told apart
    return {
        "filenames": [f"{n}.png" for n in numbers],
        "batch_label": "part",
        "fine_labels": labels,
        "coarse_labels": [label // 5 for label in labels],
        "data": np.stack(rows),
    }


def files(**changed) -> dict[str, dict]:
    meta = {"fine_label_names": NAMES, "coarse_label_names": [f"group {i}" for i in range(20)]}
    return {"meta": meta, "train": part(0, 3), "test": part(3, 1)} | changed


def write_folder(folder: Path, content: dict) -> Path:
    folder.mkdir(parents=True)
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value, 2))
    return folder


def write_archive(folder: Path, content: dict) -> Path:
    folder.mkdir(parents=True)
    with tarfile.open(folder / module.ARCHIVE, "w:gz") as archive:
        for name, value in content.items():
            data = pickle.dumps(value, 2)
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("cifar") / "cifar-100-python", files()).parent


def test_class_lists_are_those_of_bertinetto():
    if not LISTS.is_dir():
        pytest.skip("the lists of classes are not beside the checkout")
    for split, short in {"train": "train", "validation": "val", "test": "test"}.items():
        published = json.loads((LISTS / f"cifar_fs_{short}.json").read_text())
        assert sorted(CLASSES[split]) == sorted(fine for _, fine in published)
    assert [len(CLASSES[split]) for split in SPLITS] == [64, 16, 20]


def test_episodes_hold_the_pixels_of_their_classes(folder):
    tasks = cifar_fs(10, 2, 2, root=folder, normalize=False, pool_sizes=POOLS)
    assert tasks.example_shape == (3, 32, 32)
    for split in SPLITS:
        episodes = tasks.draw(split, 5, 0)
        assert episodes.support_x.shape == (5, 20, 3, 32, 32)
        seen = (episodes.support_x * 255).round()
        assert (seen[..., 3, 5] == 255).all()
        seen[..., 3, 5] = seen[..., 0, 0]
        assert (seen == seen[..., :1, :1]).all(), "all other pixels have one colour"
        labels, numbers = seen[:, :, 0, 0, 0].int(), seen[:, :, 1, 0, 0].int()
        assert (seen[:, :, 2] == 200).all()
        assert {NAMES[label] for label in labels.flatten().tolist()} <= set(CLASSES[split])
        assert set(numbers.flatten().tolist()) == {0, 1, 2, 3}, "images of both files are drawn"
        for task in range(5):
            for way in range(10):
                assert labels[task][episodes.support_y[task] == way].unique().numel() == 1


def test_normalisation_is_that_of_a_channel(folder):
    plain = cifar_fs(5, 1, root=folder, normalize=False, pool_sizes=POOLS)
    normalised = cifar_fs(5, 1, root=folder, pool_sizes=POOLS)
    x = plain.draw("test", 3, 0).query_x
    got = normalised.draw("test", 3, 0).query_x
    for channel in range(3):
        expected = (x[:, :, channel].double() - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(got[:, :, channel].double(), expected, rtol=1e-5, atol=1e-6)
    assert plain.fingerprint() != normalised.fingerprint()


def test_archive_and_folder_are_the_same_data(folder, tmp_path):
    archive = write_archive(tmp_path / "data", files())
    fingerprints = {
        cifar_fs(5, 1, root=root, pool_sizes=POOLS).fingerprint()
        for root in (folder, folder / "cifar-100-python", archive)
    }
    assert len(fingerprints) == 1


def test_by_name_with_the_setting_of_a_run(folder):
    tasks = make_tasks("cifar_fs", ways=10, shots=1, root=str(folder), normalize=False, pool_sizes=POOLS)
    assert tasks.name == "cifar_fs"
    assert tasks.num_outputs == 10


def test_says_when_it_is_not_the_real_data(folder):
    with pytest.warns(UserWarning, match="4 images a class, not the 600"):
        cifar_fs(5, 1, root=folder, pool_sizes=POOLS)


def _without(part: dict, key: str) -> dict:
    return {name: value for name, value in part.items() if name != key}


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"meta": {"fine_label_names": [*NAMES[1:], "unicorn"]}}, "does not name the 100 classes"),
        ({"meta": [1]}, "it holds a list"),
        ({"train": _without(part(0, 1), "data")}, "no `data` of uint8"),
        ({"train": part(0, 1) | {"data": np.zeros((100, 3072))}}, "no `data` of uint8"),
        ({"train": part(0, 1) | {"fine_labels": [0]}}, "one of `fine_labels` for each"),
        ({"train": part(0, 1) | {"fine_labels": [100] * 100}}, "whole numbers from 0 to 99"),
        ({"train": part(0, 1) | {"fine_labels": [0] * 100}}, "every class must have as many"),
        ({"train": print}, "no part of arrays"),
    ],
)
def test_files_of_another_format_are_refused(tmp_path, changed, match):
    write_folder(tmp_path / "cifar-100-python", files(**changed))
    with pytest.raises(UserError, match=match):
        cifar_fs(5, 1, root=tmp_path)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match="not part of adaptlens: get cifar-100-python"):
        cifar_fs(5, 1)
    with pytest.raises(UserError, match="there is no folder"):
        cifar_fs(5, 1, root=tmp_path / "absent")
    with pytest.raises(UserError, match="holds neither"):
        cifar_fs(5, 1, root=tmp_path)
    archive = write_archive(tmp_path / "data", files()) / module.ARCHIVE
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"<!DOCTYPE html>", b""):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match="get it again"):
            cifar_fs(5, 1, root=archive.parent)
    other = write_archive(tmp_path / "other", {"meta": files()["meta"]})
    with pytest.raises(UserError, match="does not hold CIFAR-100"):
        cifar_fs(5, 1, root=other)


def test_download_is_used_once(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    calls = []

    def served(url, path, md5):
        calls.append((url, path.name, md5))
        path.parent.mkdir(parents=True)
        path.write_bytes((write_archive(tmp_path / "served", files()) / module.ARCHIVE).read_bytes())

    monkeypatch.setattr(module, "fetch", served)
    for _ in range(2):
        cifar_fs(5, 1, download=True, cache_dir=tmp_path / "cache", pool_sizes=POOLS)
    ((url, name, md5),) = calls
    assert url.endswith(name)
    assert len(md5) == 32


def archive_of(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name, size=0, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(f"cifar-100-python/{name}")
    info.size, info.type, info.linkname = size, kind, link
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([(member("a"), b"")] * 1200, "files or more in it, more than the 1,000 that are read"),
        ([(member("x", 1 << 21), bytes(1 << 21))], "cannot read .*bytes are announced where"),
        ([(member("meta", kind=tarfile.SYMTYPE, link="meta"), b"")], "meta in .* is no file"),
        ([(member("meta", kind=tarfile.LNKTYPE, link="cifar-100-python/meta"), b"")], "meta in .* is no file"),
        ([(member("meta", kind=tarfile.FIFOTYPE), b"")], "meta in .* is no file"),
        ([(member("../meta"), b"")], "does not hold CIFAR-100: it lacks cifar-100-python/meta"),
    ],
    ids=["many", "large", "link", "hard link", "pipe", "elsewhere"],
)
def test_archives_have_bounds(tmp_path, monkeypatch, members, message):
    monkeypatch.setattr(module, "MAX_CIFAR_BYTES", 1 << 20)
    with pytest.raises(UserError, match=message):
        module._read(archive_of(tmp_path / "cifar-100-python.tar.gz", members))
    assert {path.name for path in tmp_path.rglob("*")} == {"cifar-100-python.tar.gz"}


@pytest.mark.parametrize("kind", ["L", "K", "x", "g", "X"])
def test_large_headers_before_a_file_are_refused(tmp_path, kind):
    """They are read by searches that take days in old versions of Python."""
    header = member("meta", 1 << 19, kind.encode())
    with pytest.raises(UserError, match=r"it has a header of 524,288 bytes before a file"):
        module._read(archive_of(tmp_path / "cifar-100-python.tar.gz", [(header, bytes(1 << 19))]))


@pytest.mark.parametrize("how", ["old", "0.0", "0.1", "1.0"])
def test_sparse_files_are_refused(tmp_path, how):
    """One of a few bytes has any size."""
    sparse = member("meta", 512, b"S" if how == "old" else tarfile.REGTYPE)
    sparse.pax_headers = {
        "old": {},
        "0.0": {"GNU.sparse.size": "9", "GNU.sparse.offset": "0", "GNU.sparse.numbytes": "1"},
        "0.1": {"GNU.sparse.map": "0,1"},
        "1.0": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    }[how]
    with pytest.raises(UserError, match="it has a sparse file"):
        module._read(archive_of(tmp_path / "cifar-100-python.tar.gz", [(sparse, bytes(512))]))


def test_small_headers_before_a_file_are_read(tmp_path):
    """As tar writes them for times, owners and long names."""
    named = member("a" * 200)
    named.mtime = 1.5
    with pytest.raises(UserError, match="does not hold CIFAR-100: it lacks"):
        module._read(archive_of(tmp_path / "cifar-100-python.tar.gz", [(named, b"")]))


def test_too_many_headers_before_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_TAR_MEMBERS", 3)
    members = [(member("a" * 200 + str(i)), b"") for i in range(5)]
    with pytest.raises(UserError, match="before a file, or too many"):
        module._read(archive_of(tmp_path / "cifar-100-python.tar.gz", members))
