"""Table 1: exact text of small tables."""

import pytest

from figures import table1, tabular
from figures.errors import MissingTable


@pytest.fixture
def trace(results):
    # Equal values in every task, so that the intervals have no length and the text is known.
    for seed, value in enumerate((0.50, 0.52)):
        results.measured("synthetic", "lr", "maml", seed, {"same": [value] * 3, "fresh": [value - 0.01] * 3})
    results.measured("synthetic", "lr", "kfc", 0, {"same": [0.9] * 3, "fresh": [0.88] * 3})
    results.measured("synthetic", "lr", "kfc", 1, {"same": [0] * 3, "fresh": [0] * 3}, status="diverged")
    results.measured("glyphs", "lr", "klin", 0, [0] * 3, status="diverged")
    results.measured("glyphs", "linnet", "maml", 0, [0.625] * 2)
    results.ceilings({("bayes", "fresh"): [0.94, 0.94]})
    (found,) = table1.traces(results.folder).values()
    return found


MARKDOWN = """\
|  | Synthetic, 1 step: own points | Synthetic, 1 step: fresh points | Synthetic, 1 step: paper \
| Characters, 5-way 1-shot, 2 steps: Glyphs | Characters, 5-way 1-shot, 2 steps: paper (full Omniglot) |
|---|---|---|---|---|---|
| LR | 51.0 ± 1.4 | 50.0 ± 1.4 | 50 | not measured | 45 |
| LinNet | not measured | not measured | 92 | 62.5 (one seed) | 70 |
| LR w/ KLin | not measured | not measured | table lost | 1 of 1 diverged | table lost |
| LR w/ KFC | 90.0 (one seed) (1 of 2 diverged) | 88.0 (one seed) (1 of 2 diverged) \
| table lost | not measured | table lost |
| Bayes classifier |  | 94.0 |  |  |  |

- Accuracy on test tasks in percent: mean ± standard deviation over seeds.
- Synthetic: 2 classes, 1,000 points a task, standard normal times 0.1 (paper: 1); 1 adaptation step; \
30,000 iterations (as in the paper); 2 seeds; \
3 test tasks.
- Glyphs: 5-way 1-shot, 2 adaptation steps; 600 iterations (reduced; paper: 60,000); 1 seed; 2 test tasks (paper: 600).
- Own points are those that were adapted to, fresh points are new ones of the same tasks.
- Mean and Bayes classifier are made from a task's support points, without any run; the former is the ceiling of one \
step by a rule that favours no direction.
- Paper: the values that its prose states (LR on synthetic tasks: "chance"); its Table 1 was a picture and is lost.
- Not averaged in: synthetic-lr-kfc-s1-30000 (diverged), glyphs-lr-klin-s0-600 (diverged).
"""


def test_the_markdown_word_for_word(trace):
    assert tabular.markdown(trace) == MARKDOWN


def test_intervals_stand_in_brackets_and_are_named(results):
    results.measured("glyphs", "lr", "maml", 0, [0.2, 0.4, 0.6, 0.8])
    (trace,) = table1.traces(results.folder).values()
    value, interval = trace.columns[0].cells[0].value, trace.columns[0].cells[0].interval
    assert value == "50.0 (one seed)"
    low, high = (float(end) for end in interval.strip("[]").split(", "))
    assert 20 < low < 50 < high < 80
    assert "in brackets, 95 % BCa bootstrap interval over test tasks" in trace.notes[0]


def test_data_sets_never_share_a_column(results):
    for dataset, value in (("omniglot_small", 0.5), ("glyphs", 0.75), ("omniglot", 0.25)):
        results.measured(dataset, "lr", "maml", 0, [value] * 2)
    (trace,) = table1.traces(results.folder).values()
    assert [(c.head, c.cells[0].value) for c in trace.columns] == [
        ("Omniglot", "25.0 (one seed)"),
        ("Omniglot, small archives", "50.0 (one seed)"),
        ("Glyphs", "75.0 (one seed)"),
        ("paper (full Omniglot)", "45"),
    ]


def test_the_latex_is_well_formed(trace):
    text = tabular.latex(trace)
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0].replace(r"\midrule", "")
    rows = [row for row in body.split("\\\\\n") if row.strip()]
    assert len(rows) == 5 + 2  # the models, the ceiling, and two lines of lost runs
    assert {row.count("&") for row in rows} == {5}
    assert text.count("{") == text.count("}")
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    assert r"\usepackage{booktabs}" in text
    assert r"51.0 $\pm$ 1.4" in text
    assert "±" not in text
    assert not any(line.lstrip().startswith("[") for line in text.splitlines())


def test_the_picture_shows_every_entry(trace):
    _, axes = tabular.draw(trace)
    shown = [text.get_text() for text in axes["table"].texts]
    for row in trace.rows:
        assert row in shown
    for column in trace.columns:
        for cell in column.cells:
            assert cell.value in shown
            assert cell.lost in shown or not cell.lost


def test_without_linear_models_the_table_says_what_makes_them(results):
    results.measured("glyphs", "cnn", "maml", 0, [0.5])
    with pytest.raises(MissingTable, match="python -m analysis post_adaptation"):
        table1.traces(results.folder)
