"""mini-ImageNet from files in the format that the community shares."""

import hashlib
import io
import json
import pickle
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.tasks import make_tasks
from core.tasks.base import SPLITS
from core.tasks.mini_imagenet import FILES, mini_imagenet

module = sys.modules["core.tasks.mini_imagenet"]
POOLS = {"train": 10, "validation": 10, "test": 10}
CLASSES = {"train": 4, "validation": 3, "test": 3}
IMAGES = 4

pytestmark = pytest.mark.filterwarnings("ignore:.*of mini-ImageNet; results are not comparable")


def content(split: str, **changed) -> dict:
    """Classes of images of one colour, their rows shuffled: red is the class, green the image, blue the split."""
    order = np.random.default_rng(0).permutation(CLASSES[split] * IMAGES)
    data = np.empty((len(order), 84, 84, 3), np.uint8)
    rows: dict[str, list[int]] = {}
    for row, which in enumerate(order.tolist()):
        data[row] = (which // IMAGES, which % IMAGES, SPLITS.index(split))
        data[row, 3, 5] = 255  # so that rows and columns are told apart
        rows.setdefault(f"n{SPLITS.index(split)}{which // IMAGES:07}", []).append(row)
    return {"image_data": data, "class_dict": rows} | changed


def write(folder: Path, **changed) -> Path:
    folder.mkdir(exist_ok=True)
    for split in SPLITS:
        (folder / FILES[split][-1]).write_bytes(pickle.dumps(changed.get(split, content(split)), 2))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("mini"))


@pytest.mark.parametrize("split", SPLITS)
def test_episodes_hold_the_pixels_of_their_classes(folder, split):
    tasks = mini_imagenet(3, 1, 2, root=folder, pool_sizes=POOLS)
    assert tasks.example_shape == (3, 84, 84)
    episodes = tasks.draw(split, 6, 0)
    assert episodes.query_x.shape == (6, 6, 3, 84, 84)
    colours = (episodes.query_x * 255).round().int()
    assert (colours[..., 3, 5] == 255).all()
    colours[..., 3, 5] = colours[..., 0, 0]
    assert (colours == colours[..., :1, :1]).all()
    assert (colours[:, :, 2] == SPLITS.index(split)).all()
    for task in range(6):
        of_way = [colours[task, :, 0, 0, 0][episodes.query_y[task] == way].unique().tolist() for way in range(3)]
        assert sorted(map(len, of_way)) == [1, 1, 1]
        assert len({each[0] for each in of_way}) == 3


def test_both_names_of_the_validation_file(folder, tmp_path):
    write(tmp_path)
    (tmp_path / FILES["validation"][1]).rename(tmp_path / FILES["validation"][0])
    one, other = (
        make_tasks("mini_imagenet", ways=2, shots=1, root=root, pool_sizes=POOLS) for root in (folder, tmp_path)
    )
    assert one.fingerprint() == other.fingerprint()


def test_says_when_it_is_not_the_real_data(folder):
    with pytest.warns(UserWarning, match="classes of 4 images, not the"):
        mini_imagenet(2, 1, root=folder, pool_sizes=POOLS)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ([], "no `image_data`"),
        ({"class_dict": {}}, "no `image_data`"),
        (content("test", image_data=np.zeros((12, 84, 84, 3))), "no `image_data`"),
        (content("test", image_data=np.zeros((12, 3, 84, 84), np.uint8)), "no `image_data`"),
        (content("test", class_dict={}), "no `class_dict`"),
        (content("test", class_dict={"a": 3}), "no `class_dict`"),
        (content("test", class_dict={"a": np.array(3)}), "no `class_dict`"),
        (content("test", class_dict={"a": np.zeros((2, 1), int)}), "no `class_dict`"),
        (content("test", class_dict={"a": [0, 12]}), "something other than rows of its 12 images"),
        (content("test", class_dict={"a": [0, -1]}), "something other than rows of its 12 images"),
        (content("test", class_dict={"a": [0.5]}), "something other than rows of its 12 images"),
        (content("test", class_dict={"a": [0, 1], "b": [2]}), "every class must have as many"),
        (content("test", class_dict={"n00000000": [0, 1], "b": [2, 3], "c": [4, 5]}), "in both train and test"),
        (content("test", image_data=print), "no part of arrays"),
    ],
)
def test_files_of_another_format_are_refused(tmp_path, changed, match):
    write(tmp_path, test=changed)
    with pytest.raises(UserError, match=match):
        mini_imagenet(2, 1, 1, root=tmp_path)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match="not part of adaptlens: get mini-imagenet-cache-train"):
        mini_imagenet(2, 1)
    with pytest.raises(UserError, match="there is no folder"):
        mini_imagenet(2, 1, root=tmp_path / "absent")
    write(tmp_path)
    path = tmp_path / FILES["train"][0]
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="get it again"):
        mini_imagenet(2, 1, root=tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"does not hold mini-imagenet-cache-train\.pkl: get"):
        mini_imagenet(2, 1, root=tmp_path)


class _Response(io.BytesIO):
    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def record(files: dict[str, str]) -> bytes:
    listed = [
        {"key": name, "checksum": f"md5:{md5}", "links": {"self": f"https://example.org/{name}"}}
        for name, md5 in files.items()
    ]
    return json.dumps({"files": listed}).encode()


def test_downloads_what_is_missing_and_checks_it(folder, tmp_path, monkeypatch):
    served = {names[0]: (folder / names[-1]).read_bytes() for names in FILES.values()}
    listing = record({name: hashlib.md5(data).hexdigest() for name, data in served.items()})
    monkeypatch.setattr(module.urllib.request, "urlopen", lambda url, timeout: _Response(listing))
    fetched = []

    def fetch(url, path, md5):
        assert hashlib.md5(served[path.name]).hexdigest() == md5
        fetched.append(url)
        path.write_bytes(served[path.name])

    monkeypatch.setattr(module, "fetch", fetch)
    root = tmp_path / "root"
    root.mkdir()
    (root / FILES["test"][0]).write_bytes(served[FILES["test"][0]])
    for _ in range(2):
        mini_imagenet(2, 1, root=root, download=True, pool_sizes=POOLS)
    assert fetched == [f"https://example.org/{FILES[split][0]}" for split in ("train", "validation")]


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (urllib.error.URLError("no network"), "cannot download mini-ImageNet"),
        (b"<html>", "does not list its files"),
        (b'{"files": [{}]}', "does not list its files"),
        (b'{"files": []}', "no longer has"),
    ],
)
def test_a_download_that_cannot_be_says_so(tmp_path, monkeypatch, answer, match):
    def urlopen(url, timeout):
        if isinstance(answer, Exception):
            raise answer
        return _Response(answer)

    monkeypatch.setattr(module.urllib.request, "urlopen", urlopen)
    with pytest.raises(UserError, match=match):
        mini_imagenet(2, 1, root=tmp_path, download=True)


def test_a_row_listed_again_and_again_takes_no_memory(tmp_path):
    path = tmp_path / "mini-imagenet-cache-train.pkl"
    data = np.zeros((2, 84, 84, 3), np.uint8)
    path.write_bytes(pickle.dumps({"image_data": data, "class_dict": {"a": [0] * 10**5, "b": [1] * 10**5}}, 2))
    with pytest.raises(UserError, match="lists more rows in its classes than it has images, which are 2"):
        module._read(path)
