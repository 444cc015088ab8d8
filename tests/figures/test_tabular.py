"""What all tables share."""

from itertools import pairwise

import pytest

from figures import tabular
from figures.tabular import Cell, Column, Trace


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("a_b", r"a\_b"),
        ("5 %", r"5 \%"),
        ("[1, 2]", "{[}1, 2{]}"),
        ("a & #", r"a \& \#"),
        ("−1 × 2 ± 3", r"$-$1 $\times$ 2 $\pm$ 3"),
    ],
)
def test_special_characters_are_escaped(plain, escaped):
    assert tabular.escape(plain) == escaped


@pytest.fixture
def trace():
    one = Column("Shared", "first (of two)", (Cell("1.0", "[0.5, 1.5]"), Cell("2.0")))
    two = Column("Shared", "second", (Cell("", lost="1 of 1 diverged"), Cell("not stated")), width=2.0)
    alone = Column("", "alone", (Cell("7"), Cell("8")))
    return Trace(("a", "b"), (1,), (one, two, alone), ("A note.",), label="tab:x")


def test_a_column_without_a_group_has_its_own_heading_only(trace):
    assert tabular.markdown(trace) == (
        "|  | Shared: first (of two) | Shared: second | alone |\n|---|---|---|---|\n"
        "| a | 1.0 [0.5, 1.5] | 1 of 1 diverged | 7 |\n| b | 2.0 | not stated | 8 |\n\n- A note.\n"
    )
    text = tabular.latex(trace)
    assert r"\cmidrule(lr){2-3}" in text
    assert text.count("cmidrule") == 1
    assert text.count(r"\midrule") == 2  # below the heads, and above row b
    assert r"\label{tab:x}" in text


def test_columns_are_as_wide_as_they_say_and_share_the_whole_width(trace):
    _, axes = tabular.draw(trace)
    places = {text.get_text(): text.get_position()[0] for text in axes["table"].texts}
    unit = (1 - trace.first) / 4
    for entry, middle in (("2.0", 0.5), ("not stated", 2), ("8", 3.5)):
        assert places[entry] == pytest.approx(trace.first + unit * middle)


def test_headings_and_small_print_of_neighbours_stay_apart():
    columns = [
        Column("", "small archives", (Cell("1", "paper: 112,586"),)),
        Column("", "paper (full Omniglot)", (Cell("2", "paper: 267,451"),)),
    ] * 4  # fmt: skip
    figure, axes = tabular.draw(Trace(("a",), (), tuple(columns), (), label="x"))
    figure.draw_without_rendering()
    for size in (8.0, 7.0):
        boxes = [
            text.get_window_extent() for text in axes["table"].texts if text.get_text() and text.get_size() == size
        ]
        assert len(boxes) == 8
        assert all(b.x0 - a.x1 > 0.1 * a.width for a, b in pairwise(boxes))
