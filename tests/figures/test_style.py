"""The style file renders, and the table of methods is complete."""

from itertools import combinations

import matplotlib.colors
import pytest
from matplotlib.figure import Figure

from core.methods import METHODS
from core.models import MODELS
from figures import style
from figures.errors import FigureError

FOLDER = style.STYLE_FILE.parent


def test_every_model_and_method_of_the_engine_has_a_look():
    for model in MODELS:
        for method in METHODS:
            look = style.look_of(model, method)
            assert look.name
            assert matplotlib.colors.is_color_like(look.colour)


def test_names_are_the_papers():
    pairs = [("lr", "maml"), ("linnet", "maml"), ("lr", "klin"), ("lr", "kfc"), ("cnn", "maml"), ("cnn", "kfc")]
    names = [style.look_of(*pair).name for pair in pairs]
    assert names == ["LR", "LinNet", "LR w/ KLin", "LR w/ KFC", "CNN", "CNN w/ KFC"]


def test_networks_and_tasks_from_outside_have_their_own_names():
    assert style.name_of("own:ResNet", "maml") == "ResNet"
    assert style.name_of("own:ResNet", "kfc") == "ResNet w/ KFC"
    assert style.look_of("own:ResNet", "kfc").colour == style.look_of("cnn", "kfc").colour
    assert style.dataset_name("own:tasks") == "own tasks"


def test_no_two_methods_look_alike():
    looks = [look for (model, _), look in style.LOOKS.items() if model == "lr"] + [style.look_of("linnet", "maml")]
    assert len({look.marker for look in looks}) == len(looks)
    for a, b in combinations(looks, 2):
        apart = [abs(x - y) for x, y in zip(*(matplotlib.colors.to_rgb(k.colour) for k in (a, b)), strict=True)]
        assert max(apart) > 0.15, (a, b)


def test_the_papers_values_look_like_no_method_of_the_paper():
    methods = ("maml", "klin", "kfc", "meta_sgd", "meta_curvature")
    looks = [style.look_of("cnn", method) for method in methods] + [style.look_of("linnet", "maml")]
    assert style.PAPER["marker"] not in {look.marker for look in looks}


def test_dollars_in_a_name_are_no_mathematics():
    text = Figure().text(0, 0, style.plain(r"a$\frac$b$"))
    assert text._preprocess_math(text.get_text()) == (r"a$\frac$b$", False)


def test_a_method_without_a_look_is_refused():
    with pytest.raises(FigureError, match="no colour for model and method lr/magic"):
        style.look_of("lr", "magic")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.mplstyle")), ids=lambda path: path.name)
def test_every_style_file_renders(file, tmp_path):
    import matplotlib.pyplot as plt

    with plt.style.context(["default", file]):
        figure, ax = plt.subplots()
        ax.plot([0, 1], label="a")
        ax.set_title("$x^2$ − 1")
        ax.legend()
        figure.savefig(tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000


@pytest.mark.parametrize("num_panels", [1, 2])
def test_captions_are_broken_to_fit_and_lie_below_the_panels(num_panels):
    long = "Synthetic: 2 classes, 1,000 points a task; WWWW " * 8
    with style.context():
        figure, axes = style.panels(num_panels, height=2.0, caption=[long, "short_with $ signs $"])
        for ax in axes:
            ax.set_xlabel("x")
        figure.draw_without_rendering()
        (text,) = figure.texts
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 >= 0
        assert box.y1 <= min(ax.get_tightbbox().y0 for ax in axes)
    assert " ".join(text.get_text().split()) == f"{long.strip()} short_with $ signs $"


def test_models_and_methods_have_names_of_their_own():
    assert [style.method_name(m) for m in ("maml", "meta_sgd", "upper_bound")] == ["MAML", "Meta-SGD", "upper bound"]
    assert [style.model_name(m) for m in ("linnet", "cnn", "")] == ["LinNet", "CNN", ""]
