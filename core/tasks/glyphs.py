"""`glyphs`: letters of many scripts, drawn from the fonts that matplotlib brings along.

A stand-in for handwriting that needs no download. A class is a letter; its 20 samples differ by font, where several
fonts have the letter, and by a random affine map and stroke thickness. Test letters come from scripts that
are never seen in training or validation.
"""

import functools
import hashlib
import importlib.util
import math
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import fontTools
import numpy as np
import PIL
import torch
from fontTools import unicodedata as scripts
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features

from core.errors import UserError
from core.tasks.base import SPLITS
from core.tasks.cache import Arrays, are_drawings, cached_arrays
from core.tasks.images import POOL_SIZES, ImageTasks

SIZE = 28
SAMPLES = 20


class Script(NamedTuple):
    """A script by its ISO 15924 code, and the split that has all of its letters."""

    code: str
    name: str
    split: str


# The class split: about 78 % / 4 % / 18 % of the classes. Earlier scripts keep a shape that later ones share, so
# nothing that training shows is left in validation or test. Old Italic is in no split: it is the Latin alphabet's
# ancestor, and its B, F and T differ from Latin ones by no more than two fonts do.
SCRIPTS = (
    Script("Latn", "Latin", "train"),
    Script("Cyrl", "Cyrillic", "train"),
    Script("Arab", "Arabic", "train"),
    Script("Cans", "Canadian syllabics", "train"),
    Script("Grek", "Greek", "validation"),
    Script("Copt", "Coptic", "validation"),
    Script("Lisu", "Lisu", "validation"),
    Script("Geor", "Georgian", "test"),
    Script("Armn", "Armenian", "test"),
    Script("Hebr", "Hebrew", "test"),
    Script("Laoo", "Lao", "test"),
    Script("Tfng", "Tifinagh", "test"),
    Script("Nkoo", "N'Ko", "test"),
    Script("Ogam", "Ogham", "test"),
)

# The first one has nearly every letter that any has; it decides which letters exist and which look alike.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
)  # fmt: skip

_COMPARED = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono")

_VERSION = 1  # of the drawing; part of the cached file's name
_DRAWN = 44  # pixels of a letter's longer side as the font draws it, about twice the final size
# Relative distances below which two drawings are one shape (see `_distinct_shapes`), chosen by looking at the pairs
# on either side: within a split o and O go and o with a hook stays, between splits a slightly wider A goes, too.
_LOOK_ALIKE = 0.37
_LOOK_ALIKE_ROUGHLY = 0.28


def glyphs(
    ways: int,
    shots: int,
    query_shots: int | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    rotations: bool = False,
    endless: bool = False,
    pool_sizes: Mapping[str, int] = POOL_SIZES,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ImageTasks:
    """Few-shot tasks of letters, 28 x 28, ink = 1, 20 samples a class, classes split by script (see `SCRIPTS`).

    The images are drawn once, in some seconds, and cached. They do not depend on `seed`, which chooses the tasks.

    Args:
        ways: letters a task.
        shots: support examples a letter.
        query_shots: query examples a letter; `shots` by default.
        seed: seed of the tasks.
        device: where the images live.
        rotations: whether rotated letters are further classes. Off, other than for Omniglot, because a rotated letter
            can equal another letter: many Canadian syllabics are rotations of one another. Turned on,
            some tasks ask for a distinction that does not exist, and a rotated training letter can look like a test
            letter.
        endless: draw tasks for ever, not from pools.
        pool_sizes: tasks of each split, see `ImageTasks`.
        cache_dir: see `core.tasks.cache.cache_folder`.

    Returns:
        The source of tasks. Class names read `Latin/U+0041`.

    Raises:
        UserError: if matplotlib's fonts are not found, or for a task size that the data do not have.
    """
    drawn = glyph_images(cache_dir)
    split_of = {script.name: script.split for script in SCRIPTS}
    names = [str(name) for name in drawn["names"]]
    splits = np.array([split_of[name.split("/")[0]] for name in names])
    rows = {split: np.flatnonzero(splits == split) for split in SPLITS}
    return ImageTasks(
        {split: torch.from_numpy(drawn["images"][rows[split]]) for split in SPLITS},
        ways,
        shots,
        query_shots,
        seed=seed,
        device=device,
        name="glyphs",
        rotations=rotations,
        pool_sizes=None if endless else pool_sizes,
        class_names={split: [names[row] for row in rows[split]] for split in SPLITS},
    )


def glyph_images(cache_dir: str | os.PathLike[str] | None = None) -> Arrays:
    """All letters: "images", uint8 (classes, 20, 1, 28, 28), and "names", such as `Latin/U+0041`, one a class.

    Raises:
        UserError: if matplotlib's fonts are not found.
    """
    fonts = _font_files()
    settings = (
        _VERSION, SCRIPTS, FONTS, _COMPARED, _LOOK_ALIKE, _LOOK_ALIKE_ROUGHLY, PIL.__version__,
        features.version("freetype2"), fontTools.version, unicodedata.unidata_version,
    )  # fmt: skip
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=8)
    for path in fonts:
        digest.update(_file_digest(path))
    name = f"glyphs-{digest.hexdigest()}"
    return cached_arrays(name, ("images", "names"), lambda: _draw_all(fonts), cache_dir, fits=are_drawings)


@functools.cache
def _file_digest(path: Path) -> bytes:
    return hashlib.blake2b(path.read_bytes()).digest()


def _font_files() -> list[Path]:
    """The font files that exist, in the order of `FONTS`, found without importing matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    folders = [Path(place) / "mpl-data" / "fonts" / "ttf" for place in (spec and spec.submodule_search_locations) or ()]
    files = [file for name in FONTS for folder in folders if (file := folder / f"{name}.ttf").is_file()]
    if not files or files[0].stem != FONTS[0]:
        raise UserError(f"the data set glyphs needs the fonts inside matplotlib, and {FONTS[0]}.ttf is not there")
    return files


def _draw_all(fonts: list[Path]) -> Arrays:
    covered = {font: _covered(font) for font in fonts}
    compared = {font: points for font, points in covered.items() if font.stem in _COMPARED}
    letters = _distinct_shapes(_letters(covered[fonts[0]]), compared)
    names = {script.code: script.name for script in SCRIPTS}
    images = [
        _draw_samples(letter, [font for font, points in covered.items() if ord(letter) in points]) for letter in letters
    ]
    return {
        "images": np.stack(images)[:, :, None],
        "names": np.array([f"{names[scripts.script(letter)]}/U+{ord(letter):04X}" for letter in letters]),
    }


def _covered(path: Path) -> set[int]:
    """The code points that a font has a glyph for."""
    with TTFont(path, lazy=True) as font:
        return set(font.getBestCmap())


def _letters(covered: set[int]) -> list[str]:
    """Letters of the scripts in the order of `SCRIPTS`, and within one plain letters before those with a mark.

    Left out are modifier letters, which are small copies of other letters, and letters with two or more marks, of
    which Latin and Greek have hundreds that differ by a pixel or two.
    """
    order = {script.code: place for place, script in enumerate(SCRIPTS)}
    keyed = []
    for point in sorted(covered):
        letter = chr(point)
        script = scripts.script(letter)
        num_marks = len(unicodedata.normalize("NFD", letter)) - 1
        if script in order and unicodedata.category(letter) in ("Lu", "Ll", "Lt", "Lo") and num_marks <= 1:
            keyed.append((order[script], num_marks, point))
    return [chr(point) for *_, point in sorted(keyed)]


def _distinct_shapes(letters: list[str], fonts: Mapping[Path, set[int]]) -> list[str]:
    """The letters that look like no earlier one: Latin A stays, Greek Alpha goes.

    `fonts` maps font files to the code points that they have; the first has all letters.

    Each is drawn in the first of `fonts`, cropped, and scaled to one size, so o and O are one shape. Two are alike if
    |a - b|^2 <= t^2 |a| |b|. Between splits the drawings are made more alike first, nearer to squares and blurred,
    and each is tried in all `fonts`: there, a missed pair would show the test's letters to the training, and what is
    lost is only a class. Pixels are whole numbers and sums of their products exact in float64, so the choice is the
    same on every machine.
    """
    first, *further = fonts
    inks = {letter: ink for letter in letters if (ink := _ink(letter, first, 0)) is not None}
    drawn = np.stack([_framed(ink, 1.0, 0.7) for ink in inks.values()])
    alike = _alike(drawn, drawn, _LOOK_ALIKE)
    rough = np.stack([_framed(ink, 0.4, 1.5, reduce=2) for ink in inks.values()])
    alike_roughly = _alike(rough, rough, _LOOK_ALIKE_ROUGHLY)
    for font in further:
        # A font that lacks a letter would draw its box for missing letters.
        other = [(_ink(letter, font, 0) if ord(letter) in fonts[font] else None) or ink for letter, ink in inks.items()]
        others = np.stack([_framed(ink, 0.4, 1.5, reduce=2) for ink in other])
        mixed = _alike(rough, others, _LOOK_ALIKE_ROUGHLY)
        alike_roughly |= mixed | mixed.T | _alike(others, others, _LOOK_ALIKE_ROUGHLY)
    split_of = {script.code: script.split for script in SCRIPTS}
    splits = np.array([split_of[scripts.script(letter)] for letter in inks])
    clash = alike | (alike_roughly & (splits[:, None] != splits))
    kept: list[int] = []
    for row in range(len(inks)):
        if not clash[row, kept].any():
            kept.append(row)
    return [list(inks)[row] for row in kept]


def _framed(ink: Image.Image, aspect: float, blur: float, reduce: int = 1) -> np.ndarray:
    """A drawing scaled to a frame of 32 x 32 and blurred, float64 (1024 / reduce^2,).

    The power `aspect` of its aspect ratio is kept. `reduce` averages blocks of pixels.
    """
    side, inner = 32, 28
    longer = max(ink.size)
    width, height = (max(1, round(inner * (length / longer) ** aspect)) for length in ink.size)
    frame = Image.new("L", (side, side))
    frame.paste(ink.resize((width, height), Image.Resampling.LANCZOS), ((side - width) // 2, (side - height) // 2))
    return np.asarray(frame.filter(ImageFilter.GaussianBlur(blur)).reduce(reduce), dtype=np.float64).ravel()


def _alike(rows: np.ndarray, columns: np.ndarray, threshold: float) -> np.ndarray:
    """Which of `rows` (n, pixels) are like which of `columns` (m, pixels), bool (n, m); see `_distinct_shapes`."""
    squares, others = (rows**2).sum(1)[:, None], (columns**2).sum(1)
    return squares + others - 2 * (rows @ columns.T) <= threshold**2 * np.sqrt(squares * others)


@functools.cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout draws the glyph of the code point itself and does not depend on an optional shaping library.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _ink(letter: str, path: Path, stroke: int) -> Image.Image | None:
    """A letter cropped to its ink, about `_DRAWN` pixels on its longer side, `stroke` pixels fatter; None if empty."""
    box = _font(path, 64).getmask(letter, mode="L").getbbox()
    if box is None:
        return None
    extent = max(box[2] - box[0], box[3] - box[1])
    # Few sizes, because each is an open font; the exact scale is set afterwards.
    size = min(512, 8 * max(2, round(64 * _DRAWN / extent / 8)))
    font = _font(path, size)
    left, top, right, bottom = font.getbbox(letter, stroke_width=stroke)
    margin = size // 4  # for ink outside the box that the font declares
    canvas = Image.new("L", (math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin))
    ImageDraw.Draw(canvas).text((margin - left, margin - top), letter, fill=255, font=font, stroke_width=stroke)
    return canvas.crop(canvas.getbbox())


def _draw_samples(letter: str, fonts: list[Path]) -> np.ndarray:
    """The samples of one letter, uint8 (20, 28, 28), on a random stream of its own."""
    stream = np.random.default_rng(ord(letter))
    order = stream.permutation(len(fonts))
    inks: dict[tuple[Path, int], Image.Image | None] = {}
    samples = np.empty((SAMPLES, SIZE, SIZE), dtype=np.uint8)
    for i in range(SAMPLES):
        font = fonts[order[i % len(fonts)]]
        thickness, *jitter = stream.uniform(-1, 1, size=7)
        # Bold strokes, fatter still, would close the counters of a letter.
        key = font, int(thickness > 0 and "Bol" not in font.stem)
        if key not in inks:
            inks[key] = _ink(letter, *key)
        ink = inks[key]
        if ink is None:  # a font that maps the letter to an empty glyph
            key = fonts[0], key[1]
            ink = _ink(letter, *key)
            assert ink is not None
        samples[i] = _jittered(ink, jitter)
    return samples


def _jittered(ink: Image.Image, jitter: list[float]) -> np.ndarray:
    """One sample, uint8 (28, 28), of a cropped drawing: whole inside the frame whatever the six numbers in [-1, 1]."""
    turn, slant, size, stretch, right, down = jitter
    cos, sin = math.cos(math.radians(12) * turn), math.sin(math.radians(12) * turn)
    longer = (20 + 3 * size) / max(ink.size)
    wide, high = longer * (1 + 0.12 * stretch), longer * (1 - 0.12 * stretch)
    # Centred input to centred output: scale, then shear, then rotation, as the matrix [[a, b], [c, d]].
    shear = 0.2 * slant
    a, b, c, d = wide * cos, high * (shear * cos - sin), wide * sin, high * (shear * sin + cos)
    half_x = (abs(a) * ink.width + abs(b) * ink.height) / 2
    half_y = (abs(c) * ink.width + abs(d) * ink.height) / 2
    fit = min(1.0, 13 / max(half_x, half_y))
    centre_x = SIZE / 2 + right * min(2.0, SIZE / 2 - 0.5 - half_x * fit)
    centre_y = SIZE / 2 + down * min(2.0, SIZE / 2 - 0.5 - half_y * fit)
    # Drawn at twice the size and averaged down: a plain smooth edge. PIL wants the map from output to input.
    determinant = 2 * fit * (a * d - b * c)
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    coefficients = (
        a, b, ink.width / 2 - 2 * (a * centre_x + b * centre_y),
        c, d, ink.height / 2 - 2 * (c * centre_x + d * centre_y),
    )  # fmt: skip
    large = ink.transform((2 * SIZE, 2 * SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(large.reduce(2))
