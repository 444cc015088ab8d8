"""Reading Omniglot from archives and folders, and what is said when that cannot be."""

import hashlib
import io
import sys
import tracemalloc
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.tasks.base import SPLITS
from core.tasks.omniglot import ARCHIVES, omniglot, omniglot_small, split_characters

module = sys.modules["core.tasks.omniglot"]

REAL = Path(__file__).parents[4] / "shared" / "data" / "omniglot"
needs_real = pytest.mark.skipif(
    not (REAL / "images_background_small1.zip").is_file(), reason="the small archives are not beside the checkout"
)
POOLS = {"train": 20, "validation": 10, "test": 10}


def png(code: int = 0, size: int = 105) -> bytes:
    """A white page with a black block whose place depends on `code`."""
    page = Image.new("1", (size, size), 1)
    page.paste(0, (code % 60, code % 50, code % 60 + 30, code % 50 + 30))
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def characters(alphabets: dict[str, int], drawings: int = 4) -> dict[str, bytes]:
    """PNG bytes by path below an archive's or a data set's folder."""
    return {
        f"{alphabet}/character{c:02}/{c:04}_{d:02}.png": png(17 * c + d + sum(alphabet.encode()))
        for alphabet, count in alphabets.items()
        for c in range(1, count + 1)
        for d in range(1, drawings + 1)
    }


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/", "")
        for name, content in files.items():
            archive.writestr(f"{path.stem}/{name}", content)


def write_tree(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


@pytest.fixture
def archives(tmp_path, monkeypatch) -> Path:
    """Tiny archives under the names of the large ones, 36 characters in all."""
    monkeypatch.setitem(module.CHARACTERS, "omniglot", 36)
    write_zip(tmp_path / "data" / "images_background.zip", characters({"Alpha": 16, "Beta": 9}))
    write_zip(tmp_path / "data" / "images_evaluation.zip", characters({"Gamma": 11}))
    return tmp_path / "data"


@pytest.fixture
def load(tmp_path):
    """`omniglot` or `omniglot_small` with a cache of the test's own."""

    def call(make, root, **options):
        options = {"ways": 2, "shots": 1, "pool_sizes": POOLS, "cache_dir": tmp_path / "cache"} | options
        return make(root=root, **options)

    return call


@needs_real
def test_real_handwriting(load):
    source = load(omniglot_small, REAL, ways=5)
    names = {split: source.class_names[split] for split in SPLITS}
    assert {split: len(names[split]) // 4 for split in SPLITS} == {"train": 179, "validation": 15, "test": 48}
    plain = {split: {name for name in names[split] if "rotated" not in name} for split in SPLITS}
    assert len(set.union(*plain.values())) == 242
    assert len({name.split("/")[0] for name in set.union(*plain.values())}) == 8
    episodes = source.sample("test", 10)
    assert episodes.support_x.shape == (10, 5, 1, 28, 28)
    assert source.example_shape == (1, 28, 28)
    assert source.name == "omniglot_small"
    images = source._images["train"]
    assert images.shape[1] == 20
    # Ink is the small part of a page, and is high.
    assert 0.03 < images.float().mean() / 255 < 0.15
    assert images.amax((2, 3, 4)).min() > 100
    assert load(omniglot_small, REAL, ways=5).fingerprint() == source.fingerprint()


@needs_real
def test_the_small_archives_are_not_taken_for_the_whole(load):
    with pytest.raises(UserError, match=r"holds the files of the data set omniglot_small, not of omniglot"):
        load(omniglot, REAL)


@needs_real
def test_the_small_archives_have_the_digests_that_downloads_are_checked_against():
    for archive, sha256 in ARCHIVES["omniglot_small"].items():
        assert hashlib.sha256((REAL / archive).read_bytes()).hexdigest() == sha256


def test_archives_folders_and_torchvisions_layout_give_the_same_data(load, archives, tmp_path):
    from_zips = load(omniglot, archives)
    write_tree(tmp_path / "tree", characters({"Alpha": 16, "Beta": 9, "Gamma": 11}))
    write_tree(tmp_path / "parts" / "images_background", characters({"Alpha": 16, "Beta": 9}))
    write_tree(tmp_path / "parts" / "images_evaluation", characters({"Gamma": 11}))
    (tmp_path / "tv").mkdir()
    archives.rename(tmp_path / "tv" / "omniglot-py")
    prints = {load(omniglot, tmp_path / root).fingerprint() for root in ("tree", "parts", "tv")}
    assert prints == {from_zips.fingerprint()}
    assert {s: len(n) for s, n in from_zips.class_names.items()} == {"train": 108, "validation": 8, "test": 28}


def test_drawings_are_scaled_and_inverted(load, archives):
    source = load(omniglot, archives, rotations=False)
    row = source.class_names["train"].index("Alpha/character03")
    page = Image.open(io.BytesIO(characters({"Alpha": 3})["Alpha/character03/0003_02.png"])).convert("L")
    expected = 255 - np.asarray(page.resize((28, 28), Image.Resampling.LANCZOS))
    assert np.array_equal(source._images["train"][row, 1, 0].numpy(), expected)
    assert expected.max() == 255
    assert expected[-1, -1] == 0


def test_characters_are_split_once_for_all():
    names = [f"{alphabet}/{c}" for alphabet in "abc" for c in range(541)]
    rows = split_characters(names)
    assert {split: len(members) for split, members in rows.items()} == {"train": 1200, "validation": 100, "test": 323}
    assert sorted(row for members in rows.values() for row in members) == list(range(1623))
    # A change of the shuffle would compare new results with old ones on other characters.
    assert [names[row] for row in rows["validation"][:3]] == ["c/307", "b/236", "b/365"]
    backwards = names[::-1]
    assert {backwards[row] for row in split_characters(backwards)["test"]} == {names[row] for row in rows["test"]}


def test_the_split_does_not_depend_on_the_seed(load, archives):
    assert load(omniglot, archives, seed=1).class_names == load(omniglot, archives, seed=2).class_names


def test_the_same_character_in_both_small_archives_counts_once(load, tmp_path, monkeypatch):
    monkeypatch.setitem(module.CHARACTERS, "omniglot_small", 36)
    write_zip(tmp_path / "images_background_small1.zip", characters({"Greek": 16, "Korean": 9}))
    write_zip(tmp_path / "images_background_small2.zip", characters({"Greek": 16, "Tagalog": 11}))
    source = load(omniglot_small, tmp_path, rotations=False)
    assert sum(len(names) for names in source.class_names.values()) == 36
    other = characters({"Greek": 16, "Tagalog": 11})
    other["Greek/character02/0002_03.png"] = png(1)
    write_zip(tmp_path / "images_background_small2.zip", other)
    with pytest.raises(UserError, match=r"has another Greek/character02/0002_03.png"):
        load(omniglot_small, tmp_path)


def test_a_folder_of_another_size_warns(load, tmp_path):
    write_tree(tmp_path / "mine", characters({"Runes": 30}))
    with pytest.warns(UserWarning, match="holds 30 characters, not the 1623 of omniglot"):
        load(omniglot, tmp_path / "mine")


def test_a_folder_of_the_other_data_set_is_refused(load, tmp_path):
    write_tree(tmp_path / "small", characters({"Greek": 20}))
    with pytest.raises(UserError, match="only alphabets of the small archives: ask for the data set omniglot_small"):
        load(omniglot, tmp_path / "small")
    write_tree(tmp_path / "large", characters({"Greek": 20, "Futurama": 3}))
    with pytest.raises(UserError, match="more than the alphabets of the small archives: ask for the data set omniglot"):
        load(omniglot_small, tmp_path / "large")


def test_the_large_archives_are_not_taken_for_the_small(load, archives):
    with pytest.raises(UserError, match="files of the data set omniglot, not of omniglot_small"):
        load(omniglot_small, archives)


def test_a_folder_that_is_called_like_an_archive_is_none(load, archives):
    (archives / "images_evaluation.zip").unlink()
    (archives / "images_evaluation.zip").mkdir()
    with pytest.raises(UserError, match=r"has images_background.zip but not images_evaluation.zip: get "):
        load(omniglot, archives)


def test_half_of_the_archives_is_not_enough(load, archives):
    (archives / "images_evaluation.zip").unlink()
    with pytest.raises(UserError, match=r"has images_background.zip but not images_evaluation.zip: get "):
        load(omniglot, archives)


def test_missing_data_say_what_to_do(load, tmp_path):
    with pytest.raises(
        UserError, match=r"not part of adaptlens: get images_background.zip and .* from https://.*--data-dir"
    ):
        load(omniglot, None)
    with pytest.raises(UserError, match=r"there is no folder .*nowhere: get images_background_small1.zip and"):
        load(omniglot_small, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no Omniglot archives and no alphabet/character"):
        load(omniglot, tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], "images_evaluation.zip is not a whole zip archive"),
        (lambda whole: b"", "images_evaluation.zip is not a whole zip archive"),
        (lambda whole: b"\n<!DOCTYPE html><title>404</title>", "images_evaluation.zip is an HTML page, not a zip"),
        (lambda whole: whole.replace(b"IDAT", b"IDAX", 1), "images_evaluation.zip is not a whole zip archive .Bad CRC"),
    ],
)
def test_damaged_archives_are_refused_and_left_alone(load, archives, damage, message):
    path = archives / "images_evaluation.zip"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    for download in (False, True):
        with pytest.raises(UserError, match=message):
            load(omniglot, archives, download=download)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Gamma/character01/0001_01.png", b"not a picture", "Gamma/character01/0001_01.png is not a readable PNG"),
        ("Gamma/character01/0001_01.png", png()[:-30], "Gamma/character01/0001_01.png is not a readable PNG"),
        (
            "Gamma/character01/0001_01.png",
            b"x" * (1 << 18) + b"x",
            "has 262,145 bytes, more than the 262,144",
        ),
        ("Gamma/character01/0001_01.png", png(size=2100), "has 2,100 pixels a side"),
        ("Gamma/character01/extra.png", png(), "Alpha/character01 has 4 drawings where others have 5"),
    ],
)
def test_bad_drawings_are_refused(load, archives, name, content, message):
    write_zip(archives / "images_evaluation.zip", characters({"Gamma": 11}) | {name: content})
    with pytest.raises(UserError, match=message):
        load(omniglot, archives)


def test_names_in_an_archive_never_become_paths(load, archives, tmp_path):
    escaping = {"../../../../escaped/character01/0001_01.png": png(), "__MACOSX/Gamma/character01/._0001_01.png": b""}
    files = characters({"Gamma": 10}) | characters({"../../../../escaped": 1}) | escaping
    write_zip(archives / "images_evaluation.zip", files)
    before = set(tmp_path.parent.rglob("*escaped*"))
    source = load(omniglot, archives, rotations=False)
    assert sum(len(names) for names in source.class_names.values()) == 36
    assert set(tmp_path.parent.rglob("*escaped*")) == before


def test_downloads_are_checked_and_kept(load, archives, tmp_path, monkeypatch):
    contents = {path.name: path.read_bytes() for path in sorted(archives.iterdir())}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setitem(module.ARCHIVES, "omniglot", digests)
    asked = []

    def fetch(url):
        asked.append(url)
        return contents[url.rsplit("/", 1)[1]]

    monkeypatch.setattr(module, "_fetch", fetch)
    for _ in range(2):
        assert load(omniglot, tmp_path / "new", download=True).fingerprint() == load(omniglot, archives).fingerprint()
    assert asked == [f"{module.URL}/images_background.zip", f"{module.URL}/images_evaluation.zip"]
    load(omniglot, None, download=True)
    assert (tmp_path / "cache" / "omniglot" / "images_evaluation.zip").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK something else", "has SHA-256 .* and was not kept"),
        (b"<html>sign in</html>", "images_background.zip is an HTML page, not a zip archive"),
    ],
)
def test_wrong_downloads_are_not_kept(load, tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(module, "_fetch", lambda url: content)
    with pytest.raises(UserError, match=message):
        load(omniglot, tmp_path / "new", download=True)
    assert not (tmp_path / "new").exists()


def test_without_a_network_one_sentence_says_what_to_do(load, tmp_path, monkeypatch):
    def fetch(url):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(module, "_fetch", fetch)
    with pytest.raises(UserError, match=r"cannot download images_background.zip .*no route.*: get "):
        load(omniglot, tmp_path, download=True)


def test_decoded_images_are_cached_by_content(load, archives, monkeypatch):
    calls = []
    decode = module._decode
    monkeypatch.setattr(module, "_decode", lambda drawings: calls.append(1) or decode(drawings))
    one = load(omniglot, archives).fingerprint()
    assert load(omniglot, archives).fingerprint() == one
    assert len(calls) == 1
    write_zip(archives / "images_evaluation.zip", characters({"Gamma": 11}) | {"Gamma/character01/0001_01.png": png(3)})
    assert load(omniglot, archives).fingerprint() != one
    assert len(calls) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"images": np.zeros((0, 4, 1, 28, 28), np.uint8), "names": np.zeros(0, "U1")},
        {"images": np.zeros(3, np.uint8)},
        {"images": np.array(0, np.uint8)},
        {"images": np.zeros((4, 4, 1, 28, 28))},
        {"images": np.zeros((4, 4, 1, 28, 27), np.uint8)},
        {"names": np.array(["a"])},
        {"names": np.array("a")},
        {"names": np.array([1, 2, 3, 4])},
    ],
)
def test_cached_arrays_of_other_shapes_are_made_again(load, archives, tmp_path, changed):
    one = load(omniglot, archives).fingerprint()
    (cached,) = (tmp_path / "cache").glob("*.npz")
    with np.load(cached) as arrays:
        whole = dict(arrays)
    np.savez(cached, **{**whole, **changed})
    assert load(omniglot, archives).fingerprint() == one
    with np.load(cached) as arrays:
        assert np.array_equal(arrays["images"], whole["images"])


def test_a_drawing_that_unpacks_to_more_than_it_says_is_refused_before_it_does(archives, load):
    name, told, size = "images_evaluation/Gamma/character01/0001_01.png", 1000, 1 << 28
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    content = sink.getvalue().replace(size.to_bytes(4, "little"), told.to_bytes(4, "little"))
    assert len(content) < 1 << 19
    (archives / "images_evaluation.zip").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"images_evaluation\.zip is not a whole zip archive"):
            load(omniglot, archives)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ("MAX_DRAWINGS", "images_background.zip has .* files in it, more than the 3"),
        ("MAX_DRAWINGS_BYTES", "images_background.zip has .* bytes unpacked, more than the 3"),
        ("MAX_OMNIGLOT_ARCHIVE", "images_background.zip has .* bytes, more than the 3"),
    ],
)
def test_archives_have_bounds(archives, load, monkeypatch, bound, message):
    monkeypatch.setattr(module, bound, 3)
    with pytest.raises(UserError, match=message):
        load(omniglot, archives)


def test_names_in_an_archive_are_no_paths(tmp_path):
    archive = tmp_path / "data" / "x.zip"
    write_zip(archive, {"../../../a/b/../c.png": png(), "/tmp/y/z.png": png()})
    drawings: dict = {}
    module._read_archive(archive, archive.read_bytes(), drawings)
    assert set(drawings) == {"b/..", "tmp/y"}
    assert {path.name for path in tmp_path.rglob("*")} == {"data", "x.zip"}


def test_other_compressions_are_refused(archives, load):
    with zipfile.ZipFile(archives / "images_evaluation.zip", "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images_evaluation/Gamma/character01/0001_09.png", png())
    with pytest.raises(UserError, match="is compressed otherwise than Omniglot's archives are"):
        load(omniglot, archives)
