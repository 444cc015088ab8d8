"""The data set that is drawn from fonts."""

import subprocess
import sys
import unicodedata
import warnings

import numpy as np
import pytest

from core.errors import UserError
from core.tasks import cache
from core.tasks import glyphs as glyphs_function
from core.tasks.glyphs import SCRIPTS, glyph_images, glyphs

module = sys.modules["core.tasks.glyphs"]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    """A cache of this test run's own, so that what is tested was drawn by the code under test."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def drawn(cache_dir):
    return glyph_images(cache_dir)


@pytest.fixture
def few_letters(monkeypatch):
    """Draw a handful of letters only."""
    letters = module._letters
    monkeypatch.setattr(module, "_letters", lambda covered: letters(covered & {0x41, 0x42, 0x391, 0x394, 0x5D0}))


def letter(name: str) -> str:
    return chr(int(name.split("/U+")[1], 16))


def test_there_are_enough_classes_of_twenty_samples(drawn):
    count = len(drawn["names"])
    assert count >= 1600
    assert drawn["images"].shape == (count, 20, 1, 28, 28)
    assert drawn["images"].dtype == np.uint8
    assert len(set(drawn["names"].tolist())) == count
    assert {name.split("/")[0] for name in drawn["names"].tolist()} == {script.name for script in SCRIPTS}
    assert all(unicodedata.category(letter(name)).startswith("L") for name in drawn["names"].tolist())


def test_no_glyph_is_empty_full_or_cut_off(drawn):
    images = drawn["images"][:, :, 0].astype(float) / 255
    assert images.max((2, 3)).min() > 0.8
    ink = images.mean((2, 3))
    assert ink.min() > 0.01
    assert ink.max() < 0.6
    # A drawing that ran over the edge would put full ink on it; one that ends there leaves at most half a pixel.
    border = np.concatenate([images[:, :, [0, -1]].reshape(-1), images[:, :, :, [0, -1]].reshape(-1)])
    assert border.max() < 0.6


def test_no_class_is_the_box_for_missing_letters(drawn):
    """A font's box for what it lacks would come out the same for many letters; no two classes are alike."""
    middle = drawn["images"].mean(1).reshape(len(drawn["names"]), -1)
    squares = (middle**2).sum(1)
    relative = (squares[:, None] + squares - 2 * middle @ middle.T) / np.sqrt(np.outer(squares, squares))
    np.fill_diagonal(relative, 1)
    assert relative.min() > 0.05**2


def test_samples_of_a_class_all_differ(drawn):
    for samples in drawn["images"]:
        assert len({sample.tobytes() for sample in samples}) == 20


def test_splits_share_no_script_and_keep_their_proportions(cache_dir, drawn):
    source = glyphs(5, 1, cache_dir=cache_dir)
    counts = {split: len(names) for split, names in source.class_names.items()}
    assert sum(counts.values()) == len(drawn["names"])
    assert 0.7 < counts["train"] / sum(counts.values()) < 0.8
    assert 0.03 < counts["validation"] / sum(counts.values()) < 0.08
    assert 0.15 < counts["test"] / sum(counts.values()) < 0.25
    used = {split: {name.split("/")[0] for name in names} for split, names in source.class_names.items()}
    assert "Latin" in used["train"]
    assert "Greek" in used["validation"]
    assert "Hebrew" in used["test"]
    assert not used["train"] & used["validation"] | used["train"] & used["test"] | used["validation"] & used["test"]


@pytest.mark.parametrize(
    "same",
    [
        "A\N{GREEK CAPITAL LETTER ALPHA}\N{CYRILLIC CAPITAL LETTER A}",
        "Oo0\N{GREEK SMALL LETTER OMICRON}\N{CYRILLIC SMALL LETTER O}\N{ARMENIAN CAPITAL LETTER OH}",
        "T\N{GREEK CAPITAL LETTER TAU}\N{CYRILLIC CAPITAL LETTER TE}\N{LISU LETTER TA}",
        "Xx\N{GREEK CAPITAL LETTER CHI}\N{CYRILLIC CAPITAL LETTER HA}",
        "\N{CYRILLIC CAPITAL LETTER EF}\N{GREEK CAPITAL LETTER PHI}",
        "ŬǓŨŪÙÚ",
        "O\N{TIFINAGH LETTER YAR}\N{TIFINAGH LETTER YA}",
        "b\N{ARMENIAN SMALL LETTER ECH}",
        "\N{CANADIAN SYLLABICS FINAL PLUS}\N{TIFINAGH LETTER YAT}",
    ],
)
def test_letters_that_look_alike_are_one_class(drawn, same):
    assert sum(letter(name) in same for name in drawn["names"].tolist()) == 1


def test_letters_that_differ_are_kept_apart(drawn):
    letters = {letter(name) for name in drawn["names"].tolist()}
    assert set("ABDEFGHKLMNPRTaeghkЖДЯψξשלდფᐃᐅᐊᑎ") <= letters


def test_drawing_is_deterministic(few_letters, tmp_path):
    one = glyph_images(tmp_path / "one")
    two = glyph_images(tmp_path / "two")
    # Greek Alpha is a Latin A, Delta is not.
    assert one["names"].tolist() == ["Latin/U+0041", "Latin/U+0042", "Greek/U+0394", "Hebrew/U+05D0"]
    assert np.array_equal(one["images"], two["images"])


def test_letters_are_drawn_only_from_fonts_that_have_them(few_letters, tmp_path, monkeypatch):
    """A font draws a box for each letter that it lacks."""
    fonts = {}
    draw = module._draw_samples
    monkeypatch.setattr(
        module, "_draw_samples", lambda letter, found: fonts.update({letter: found}) or draw(letter, found)
    )
    glyph_images(tmp_path)
    assert [path.stem for path in fonts["A"]] == list(module.FONTS)
    hebrew = {path.stem for path in fonts["\N{HEBREW LETTER ALEF}"]}
    assert "DejaVuSans" in hebrew
    assert "DejaVuSerif" not in hebrew
    assert all(ord(letter) in module._covered(path) for letter, found in fonts.items() for path in found)


def test_drawing_one_letter_does_not_depend_on_the_others(drawn, few_letters, tmp_path):
    (row,) = np.flatnonzero(drawn["names"] == "Latin/U+0042")
    assert np.array_equal(glyph_images(tmp_path)["images"][1], drawn["images"][row])


def test_images_are_read_from_the_cache_and_drawn_again_if_it_is_damaged(few_letters, tmp_path, monkeypatch):
    calls = []
    draw = module._draw_all
    monkeypatch.setattr(module, "_draw_all", lambda fonts: calls.append(1) or draw(fonts))
    images = glyph_images(tmp_path)["images"]
    assert np.array_equal(glyph_images(tmp_path)["images"], images)
    assert len(calls) == 1
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for damaged in (whole[: len(whole) // 2], b"", b"<html>", bytes(flipped)):
        calls.clear()
        file.write_bytes(damaged)
        assert np.array_equal(glyph_images(tmp_path)["images"], images)
        assert len(calls) == 1
        assert file.read_bytes()[:2] == b"PK"
    assert list(tmp_path.iterdir()) == [file]


def test_an_unwritable_cache_warns_once_and_draws_in_memory(few_letters, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(glyph_images(blocked / "cache")["names"]) == 4
        assert len(glyph_images(blocked / "cache")["names"]) == 4
    assert len(caught) == 1
    assert "every process will make this data again" in str(caught[0].message)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("ADAPTLENS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "adaptlens"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache.cache_folder()) == "/x/adaptlens"
    monkeypatch.setenv("ADAPTLENS_CACHE", "/own")
    assert str(cache.cache_folder()) == "/own"
    assert cache.cache_folder(tmp_path) == tmp_path


def test_without_the_fonts_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the fonts inside matplotlib"):
        glyph_images()


def test_drawing_does_not_import_matplotlib():
    code = "import sys, core.tasks.glyphs as g; assert g is not None; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sampling_episodes(cache_dir, drawn):
    episodes = glyphs(5, 1, seed=3, cache_dir=cache_dir).sample("train", 32)
    assert episodes.support_x.shape == (32, 5, 1, 28, 28)
    assert 0.05 < episodes.support_x.mean() < 0.3
    assert glyphs_function is glyphs
    assert glyphs(5, 1, endless=True, cache_dir=cache_dir).pool_sizes is None
    assert len(glyphs(5, 1, rotations=True, cache_dir=cache_dir).class_names["train"]) % 4 == 0
