"""Table A1: the numbers of Figure 3, word for word."""

import pytest

from figures import captions, fig3, table_a1, tabular

STUDY = "depth_sweep"


@pytest.fixture
def swept(results):
    # Equal values in every task, so that most intervals have no length and the text is known.
    for seed, value in enumerate((0.50, 0.52)):
        results.compared(STUDY, "glyphs", 1, "kfc", seed, [value] * 2, rule_parameters=5000)
    results.compared(STUDY, "glyphs", 2, "kfc", 0, [0.75] * 2, rule_parameters=6000)
    results.compared(STUDY, "glyphs", 2, "kfc", 1, [0, 0], status="diverged", rule_parameters=6000)
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.625] * 2)
    return results


MARKDOWN = """\
|  | accuracy (%): Glyphs | accuracy (%): paper (full Omniglot) | parameters: model | parameters: meta-optimizer \
| measured: seeds | measured: test tasks | trained: iterations × tasks |
|---|---|---|---|---|---|---|---|
| CNN-1 | not measured | 29.20 ± 1.13 |  |  |  |  |  |
| CNN-1 w/ KFC | 51.0 ± 1.4 | 66.45 ± 1.42 | 1,000 | 5,000 | 2 | 2 | 600 × 4 |
| CNN-2 | 62.5 (one seed) | 60.94 ± 1.54 | 2,000 paper: 38,474 | 0 | 1 | 2 | 600 × 4 |
| CNN-2 w/ KFC | 75.0 (one seed) (1 of 2 diverged) | 91.13 ± 0.93 | 2,000 paper: 38,474 | 6,000 paper: 134,171 \
| 1 | 2 | 600 × 4 |
| CNN-3 | not measured | 91.69 ± 0.70 |  |  |  |  |  |
| CNN-3 w/ KFC | not measured | 96.57 ± 0.86 |  |  |  |  |  |
| CNN-4 | not measured | 97.56 ± 0.45 |  |  |  |  |  |
| CNN-4 w/ KFC | not measured | 98.49 ± 0.41 |  |  |  |  |  |
| CNN-1 w/ KFC − CNN-2 | −12.5 | +5.51 |  |  | 1 | 2 |  |

- Accuracy on test tasks in percent: mean ± standard deviation over seeds.
- Last rows: KFC less MAML with one layer more, in points; at zero KFC is worth that layer, above it more.
- CNN-1 w/ KFC − CNN-2: seed 0, which both have.
- Paper: its Table A1, and the parameters that its A.1.2 states.
- Glyphs: 10-way 5-shot, 4 adaptation steps; 600 iterations (paper: not stated); 4 tasks an iteration (reduced; \
paper: 32); CNN-1 w/ KFC 2, CNN-2 1, CNN-2 w/ KFC 2 seeds; 2 test tasks (paper: 600).
- Normalisation: batch norm with the statistics of the batch at hand.
- Not measured: CNN-1, CNN-3, CNN-3 w/ KFC, CNN-4, CNN-4 w/ KFC.
- Not averaged in: glyphs-cnn2-kfc-s1-600 (diverged).
"""


def test_the_markdown_word_for_word(swept):
    (trace,) = table_a1.traces(swept.folder).values()
    assert tabular.markdown(trace) == MARKDOWN


def test_the_numbers_are_those_of_the_figure_and_of_the_picture(results):
    for layers in (1, 2):
        for method in fig3.METHODS:
            results.compared(STUDY, "omniglot", layers, method, 0, [0.31 * layers, 0.4, 0.2 * layers])
    (figure,) = fig3.traces(results.folder).values()
    found = table_a1.traces(results.folder)
    assert list(found) == ["table_a1_omniglot"]
    trace = found["table_a1_omniglot"]
    _, axes = tabular.draw(trace)
    shown = [text.get_text() for text in axes["table"].texts]
    text = tabular.markdown(trace)
    for point in figure.points:
        mean = f"{point.estimate.mean:.1f} (one seed)"
        ends = f"[{point.estimate.low:.1f}, {point.estimate.high:.1f}]"
        assert mean in shown
        assert ends in shown
        assert f"| {mean} {ends} |" in text
    (gap,) = figure.gaps
    assert captions.signed(gap.mean) in shown
    assert f"| CNN-1 w/ KFC − CNN-2 | {gap.text} | +5.51 |" in text
    assert [column.head for column in trace.columns][:2] == ["Omniglot", "paper"]
    assert "paired by task" in trace.notes[1]


def test_the_latex_is_well_formed(swept):
    (trace,) = table_a1.traces(swept.folder).values()
    text = tabular.latex(trace)
    rows = [line for line in text.splitlines() if line.startswith("CNN-")]
    assert len(rows) == 9
    assert {row.count("&") for row in rows} == {7}
    assert text.count("{") == text.count("}")
    assert r"CNN-1 w/ KFC $-$ CNN-2 & $-$12.5 & +5.51" in text
    assert r"600 $\times$ 4" in text
    assert not set("±×−") & set(text)
