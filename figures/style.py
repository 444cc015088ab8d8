"""How things look: the style file, and the one table of each method's name, colour and marker."""

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path

from figures.errors import FigureError

STYLE_FILE = Path(__file__).with_name("adaptlens.mplstyle")
TEXT_WIDTH = 5.5  # inches, a single column
CAPTION_SIZE = 7.5  # points
_CAPTION_LINE = 0.135  # inches
_LINE_WORDS = 64  # that a line of a caption has at most
_LOST_LINE = 1.2  # a line in sizes of its letters
_CAPTION_FILL = 0.95  # of the width: pixels make letters a little wider than their outlines


@dataclass(frozen=True)
class Look:
    """How a method is drawn, everywhere."""

    name: str
    colour: str
    marker: str


# Colours are those of Okabe and Ito (2008), which stay apart for colour-blind readers, and two darker ones in place of
# their yellow and black. A colour belongs to the method, whatever model it trains, so that no subset of methods
# recolours the others; LinNet is LR with depth as its method, and has its own.
_METHODS = {
    "maml": Look("", "#4d4d4d", "o"),
    "klin": Look("KLin", "#e69f00", "^"),
    "kfc": Look("KFC", "#009e73", "D"),
    "meta_sgd": Look("Meta-SGD", "#cc79a7", "v"),
    "meta_curvature": Look("Meta-Curvature", "#56b4e9", "P"),
    "cholesky": Look("Cholesky", "#d55e00", "X"),
    "linear": Look("linear", "#7a6a1f", "*"),
    "anil": Look("ANIL", "#7b3014", "<"),
    "boil": Look("BOIL", "#004d40", ">"),
    "fomaml": Look("FOMAML", "#9a9a9a", "h"),
    "reptile": Look("Reptile", "#6a3d9a", "p"),
    "alpha_maml": Look("Alpha MAML", "#e7298a", "d"),
}
_MODELS = {"lr": "LR", "linnet": "LinNet", "cnn": "CNN"}
_OWN = "own:"  # what the names of networks and tasks from outside begin with
LOOKS: dict[tuple[str, str], Look] = {
    (model, method): Look(f"{shown} w/ {look.name}" if look.name else shown, look.colour, look.marker)
    for model, shown in _MODELS.items()
    for method, look in _METHODS.items()
} | {("linnet", "maml"): Look("LinNet", "#0072b2", "s")}

DATASETS = {
    "synthetic": "Synthetic",
    "omniglot": "Omniglot",
    "omniglot_small": "Omniglot, small archives",
    "glyphs": "Glyphs",
    "cifar_fs": "CIFAR-FS",
    "mini_imagenet": "mini-ImageNet",
}

# What belongs to no method.
CHANCE: dict[str, Any] = {"color": "#888888", "linestyle": (0, (4, 3)), "linewidth": 0.9}
CEILINGS: dict[str, dict[str, Any]] = {
    "mean classifier": {"color": "#9b2d5e", "linestyle": (0, (1, 1.2)), "linewidth": 1.2},
    "bayes": {"color": "#9b2d5e", "linestyle": (0, (5, 1.5, 1, 1.5)), "linewidth": 0.9},
}
CEILING_NAMES = {"mean classifier": "mean classifier", "bayes": "Bayes classifier"}
LOST: dict[str, Any] = {"color": "#b00020", "fontsize": 7.5}  # words on what diverged or failed
# A star, hollow: the markers of the methods that the paper has are others.
PAPER: dict[str, Any] = {
    "marker": "*", "markersize": 8.5, "markerfacecolor": "white", "markeredgecolor": "black", "markeredgewidth": 0.9,
    "linestyle": "none",
}  # fmt: skip


def look_of(model: str, method: str) -> Look:
    """Name, colour and marker of a method.

    Raises:
        FigureError: for a pair that has none.
    """
    if model.startswith(_OWN) and method in _METHODS:
        shown, look = model.removeprefix(_OWN), _METHODS[method]
        return Look(f"{shown} w/ {look.name}" if look.name else shown, look.colour, look.marker)
    if (model, method) not in LOOKS:
        known = ", ".join(f"{m}/{k}" for m, k in LOOKS)
        raise FigureError(f"no colour for model and method {model}/{method}; known: {known}")
    return LOOKS[model, method]


def name_of(model: str, method: str, layers: int | None = None) -> str:
    """A model and method's name on paper, with the number of convolutional layers: CNN-2 w/ KFC.

    Raises:
        FigureError: for a pair that has none.
    """
    name = look_of(model, method).name
    return name if layers is None else name.replace(_MODELS[model], f"{_MODELS[model]}-{layers}", 1)


def model_name(model: str) -> str:
    """The model's name on paper, without its method."""
    return _MODELS.get(model, model)


def method_name(method: str) -> str:
    """The method's name on paper, without its model; what is no method keeps its words."""
    look = _METHODS.get(method)
    return method.replace("_", " ") if look is None else look.name or "MAML"


def layer_colours(num_layers: int) -> list[Any]:
    """A colour a layer, from the first (dark) to the last (light): their order can be seen."""
    return [plt.get_cmap("viridis")(x) for x in np.linspace(0.0, 0.88, num_layers)]


def dataset_name(dataset: str) -> str:
    """The data set's name on paper."""
    return DATASETS.get(dataset, dataset.replace(_OWN, "own ", 1))


def plain(text: str) -> str:
    """A name as it is, for where text with dollars in it would be taken for mathematics."""
    return text.replace("$", r"\$")


def legend(figure: Figure, handles: Sequence[Any], title: str, ncols: int) -> None:
    """A legend above the panels, under the title of the figure."""
    figure.legend(
        handles=handles, title=plain(title), loc="upper center", ncols=ncols, borderaxespad=0.2, title_fontsize=9.5
    )


def context() -> AbstractContextManager[None]:
    """The style, for a `with` statement around drawing and around saving."""
    return plt.style.context(["default", str(STYLE_FILE)])


def panels(
    num_panels: int,
    *,
    height: float,
    caption: Sequence[str],
    top: float = 0.0,
    widths: Sequence[float] | None = None,
    width: float = TEXT_WIDTH,
    num_rows: int = 1,
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side and a caption in small print below them.

    Args:
        num_panels: panels in a row.
        height: of all rows with their labels, in inches.
        caption: paragraphs; long ones are broken into lines.
        top: room above the panels for a legend, in inches.
        widths: of the panels, relative to one another; None: equal.
        width: of the figure, in inches; by default that of a column of text.
        num_rows: rows of panels.

    Returns:
        The figure and the panels' axes, left to right, row by row.
    """
    with context():
        lines = [line for paragraph in caption for line in _wrapped(paragraph, width)]
    below = _CAPTION_LINE * len(lines) + 0.12 if lines else 0.0
    total = height + below + top
    figure = plt.figure(figsize=(width, total))
    plt.close(figure)  # it lives on with its caller; a notebook would show what pyplot knows a second time
    room = (0, below / total, 1, height / total)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=room, w_pad=0.06, h_pad=0.03))
    figure.text(
        0.012, 0.04 / total, "\n".join(lines), fontsize=CAPTION_SIZE, va="bottom", ha="left", color="#333333",
        linespacing=1.25, parse_math=False,
    )  # fmt: skip
    axes = figure.subplots(num_rows, num_panels, squeeze=False, width_ratios=widths)
    return figure, list(axes.flat)


def head(ax: Axes, title: str, lost: Sequence[str]) -> None:
    """A panel's title and, between it and the panel, what is missing from it: within, curves might pass through it."""
    ax.set_title(title, pad=5 + 72 * head_room(lost), linespacing=1.1)
    if lost:
        ax.annotate(
            "\n".join(lost), (0.5, 1), xytext=(0, 3), xycoords="axes fraction", textcoords="offset points",
            ha="center", va="bottom", linespacing=1.1, **LOST,
        )  # fmt: skip


def head_room(lost: Sequence[str]) -> float:
    """Height of what `head` says is missing, in inches."""
    return float(LOST["fontsize"]) * _LOST_LINE * len(lost) / 72


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line of text in inches; call it inside the style, which has the font."""
    font = FontProperties(size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def _wrapped(paragraph: str, width: float) -> list[str]:
    """Lines that fit, by the width of the letters: a count of characters would be right for one font only."""
    words, lines = paragraph.split(), []
    while words:
        fitting = _fitting(words, width * _CAPTION_FILL)
        lines.append(" ".join(words[:fitting]))
        words = words[fitting:]
    return lines


def _fitting(words: Sequence[str], room: float) -> int:
    """The most words that a line holds, one at least; to look at one more at a time would measure as often."""
    numbers = range(2, min(len(words), _LINE_WORDS) + 1)
    return 1 + bisect_right(numbers, room, key=lambda number: text_width(" ".join(words[:number]), CAPTION_SIZE))
