"""Table 2: exact text of a small table, and the upper bound recomputed from its own."""

import numpy as np
import pytest

from analysis.store import read_study
from figures import data, table2, tabular
from figures.errors import FigureError, MissingTable

STUDY = "optimizer_comparison"


@pytest.fixture
def compared(results):
    # Equal values in every task, so that the intervals have no length and the text is known.
    for seed, value in enumerate((0.50, 0.52)):
        results.compared(STUDY, "glyphs", 2, "maml", seed, [value] * 3)
    results.compared(STUDY, "glyphs", 2, "kfc", 0, [0.875] * 3)
    results.compared(STUDY, "glyphs", 2, "kfc", 1, [0] * 3, status="diverged")
    results.compared(STUDY, "glyphs", 2, "meta_sgd", 0, [0] * 3, status="diverged")
    results.bound("glyphs", 2, [0.9, 0.9, 0.9, 0.1], steps=[10, 20, 60, 500], unconverged=[2], lost_tasks=[3])
    results.compared(STUDY, "cifar_fs", 2, "meta_curvature", 0, [0.5] * 2, iterations=60_000, tasks_per_iteration=32)
    return results


MARKDOWN = """\
|  | 10-way 5-shot, 4 steps: Glyphs | 10-way 5-shot, 4 steps: paper (full Omniglot) \
| 10-way 3-shot, 2 steps: CIFAR-FS | 10-way 3-shot, 2 steps: paper |
|---|---|---|---|---|
| upper bound | 90.0 (1 of 4 tasks diverged) | 95.09 ± 2.32 | not measured | 63.94 ± 3.89 |
| CNN-2 | 51.0 ± 1.4 | 60.94 ± 1.54 | not measured | 38.44 ± 0.87 |
| CNN-2 w/ Meta-SGD | 1 of 1 diverged | 69.25 ± 0.81 | not measured | 45.96 ± 1.73 |
| CNN-2 w/ Meta-Curvature | not measured | 85.70 ± 0.91 | 50.0 (one seed) | 52.89 ± 1.43 |
| CNN-2 w/ KFC | 87.5 (one seed) (1 of 2 diverged) | 91.13 ± 0.93 | not measured | 52.94 ± 1.33 |
| seeds | 0 to 2 | not stated | 1 | not stated |
| test tasks | 3 | 600 | 2 | 600 |
| iterations | 600 | not stated | 60,000 | not stated |
| tasks an iteration | 4 | 32 | 32 | not stated |

- Accuracy on test tasks in percent: mean ± standard deviation over seeds. CNN-2 alone is under MAML.
- Upper bound on Glyphs: the network trained from scratch on each of 3 tasks alone, on 15 images a class (the paper \
does not say on how many); 2 converged, after 10 to 20 steps (median 15); \
not converged, and measured after 60 steps: 1; diverged, and not averaged in: 1; mean over tasks.
- Glyphs: 10-way 5-shot, 4 adaptation steps; 600 iterations (paper: not stated); 4 tasks an iteration (reduced; paper: \
32); CNN-2 2, CNN-2 w/ Meta-SGD 1, CNN-2 w/ KFC 2 seeds; 3 test tasks (paper: 600).
- Not measured on Glyphs: CNN-2 w/ Meta-Curvature.
- CIFAR-FS: 10-way 3-shot, 2 adaptation steps; 60,000 iterations (paper: not stated); 32 tasks an iteration (paper: \
not stated); 1 seed; 2 test tasks (paper: 600).
- Not measured on CIFAR-FS: upper bound, CNN-2, CNN-2 w/ Meta-SGD, CNN-2 w/ KFC.
- Not measured: mini-ImageNet.
- Normalisation: batch norm with the statistics of the batch at hand.
- Paper: its Table 2; it does not say what its deviations are over.
- Not averaged in: glyphs-cnn2-meta_sgd-s0-600 (diverged), glyphs-cnn2-kfc-s1-600 (diverged).
"""


def test_the_markdown_word_for_word(compared):
    (trace,) = table2.traces(compared.folder).values()
    assert tabular.markdown(trace) == MARKDOWN


def test_the_numbers_are_those_of_the_tables_and_of_the_picture(results):
    values = {
        "maml": [0.5, 0.6, 0.8],
        "meta_sgd": [0.6, 0.7, 0.7],
        "meta_curvature": [0.7, 0.7, 0.9],
        "kfc": [0.9, 1, 1],
    }
    for method, accuracies in values.items():
        for seed in (0, 1):
            results.compared(STUDY, "omniglot_small", 2, method, seed, [value - 0.1 * seed for value in accuracies])
    results.bound("omniglot_small", 2, [0.9, 0.95, 1.0])
    (trace,) = table2.traces(results.folder).values()
    rows = read_study(results.folder, STUDY)
    rows = rows[rows["split"].eq("query") & rows["step"].eq(rows["steps"])]
    ours = dict(zip(trace.rows, trace.columns[0].cells, strict=True))
    for method, name in zip(table2.METHODS, trace.rows[1:5], strict=True):
        means = [100 * rows[rows["method"].eq(method) & rows["seed"].eq(s)]["accuracy"].mean() for s in (0, 1)]
        assert ours[name].value == f"{np.mean(means):.1f} ± {np.std(means, ddof=1):.1f}"
        low, high = (float(end) for end in ours[name].interval.strip("[]").split(", "))
        assert low < np.mean(means) < high
    assert (ours["upper bound"].value, ours["upper bound"].interval[:4]) == ("95.0", "[90.")
    assert "in brackets, 95 % BCa bootstrap interval over test tasks." in trace.notes[0]
    _, axes = tabular.draw(trace)
    shown = [text.get_text() for text in axes["table"].texts]
    for column in trace.columns:
        for cell in column.cells:
            assert cell.value in shown
            assert cell.interval in shown
    assert trace.rows == (
        "upper bound", "CNN-2", "CNN-2 w/ Meta-SGD", "CNN-2 w/ Meta-Curvature", "CNN-2 w/ KFC",
        "seeds", "test tasks", "iterations", "tasks an iteration",
    )  # fmt: skip


def test_the_upper_bound_of_another_network_is_not_that_of_the_runs(results):
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.5])
    results.bound("glyphs", 4, [0.9], id="deeper")
    results.bound("glyphs", 2, [0.9], id="other norm", norm_mode="instance")
    (trace,) = table2.traces(results.folder).values()
    assert trace.columns[0].cells[0].value == "not measured"
    assert any(note.startswith("Not measured on Glyphs: upper bound") for note in trace.notes)


def test_an_upper_bound_is_of_the_network_and_the_tasks_that_it_names(results):
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.5])
    results.bound("glyphs", 2, [0.9], id="of the runs", stated={"model": "cnn", "depth": 2, "ways": 10, "shots": 5})
    for i, other in enumerate(({"filters": 8}, {"downsample": "max_pool"}, {"query_shots": 3}, {"rotations": True})):
        stated = {"model": "cnn", "depth": 2, "ways": 10, "shots": 5, **other}
        results.bound("glyphs", 2, [0.1], id=f"other {i}", stated=stated)
    (trace,) = table2.traces(results.folder).values()
    assert trace.columns[0].cells[0].value == "90.0"


def test_what_the_runs_have_and_the_bound_or_the_table_has_not_is_said(results):
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.5] * 3)
    results.bound("glyphs", 2, [0.9, 0.9])
    (trace,) = table2.traces(results.folder).values()
    assert trace.columns[0].cells[trace.rows.index("test tasks")].value == "3 (bound: 2)"
    assert "Not measured: CIFAR-FS, mini-ImageNet." in trace.notes


def test_two_upper_bounds_of_the_same_tasks_are_never_mixed(results):
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.5])
    results.bound("glyphs", 2, [0.9], id="wide")
    results.bound("glyphs", 2, [0.1], id="narrow")
    with pytest.raises(FigureError, match="hold a task of glyphs twice for CNN-2"):
        table2.traces(results.folder)


def test_if_every_task_of_the_upper_bound_diverged_it_has_no_value(results):
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.5])
    results.bound("glyphs", 2, [0.9, 0.9], lost_tasks=[0, 1])
    (trace,) = table2.traces(results.folder).values()
    assert trace.columns[0].cells[0].line == "2 of 2 tasks diverged"


def test_methods_of_other_lengths_are_never_mixed(compared):
    compared.compared(STUDY, "glyphs", 2, "meta_curvature", 0, [0.5] * 3, iterations=7)
    with pytest.raises(FigureError, match=r"differ in iterations .*--where glyphs:iterations=VALUE"):
        table2.traces(compared.folder)


def test_other_depths_are_left_out(compared):
    compared.compared(STUDY, "glyphs", 4, "maml", 0, [0.99] * 3, iterations=7)
    (trace,) = table2.traces(compared.folder).values()
    assert tabular.markdown(trace) == MARKDOWN


def test_a_wide_table_gets_a_wide_picture_in_which_no_entries_touch(results):
    for dataset in ("omniglot", "omniglot_small", "glyphs", "cifar_fs", "mini_imagenet"):
        results.compared(STUDY, dataset, 2, "kfc", 0, [0.5, 0.75, 0.9])
        results.compared(STUDY, dataset, 2, "kfc", 1, [0.6, 0.7, 0.8])
        results.compared(STUDY, dataset, 2, "maml", 0, [0, 0, 0], status="diverged")
    (trace,) = table2.traces(results.folder).values()
    figure, axes = tabular.draw(trace)
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in axes["table"].texts if t.get_text()]
    touching = [
        (a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a.shrunk(1, 0.5).overlaps(b.shrunk(1, 0.5))
    ]
    assert not touching
    assert figure.get_figwidth() > 5.5
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_the_latex_is_well_formed(compared):
    (trace,) = table2.traces(compared.folder).values()
    text = tabular.latex(trace)
    assert text.count("{") == text.count("}")
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}" in text
    assert {line.count("&") for line in text.splitlines() if line.startswith("CNN-2")} == {4}


def test_without_its_networks_the_table_says_what_makes_them(results):
    with pytest.raises(MissingTable, match="python -m analysis optimizer_comparison"):
        table2.traces(results.folder)
    results.compared(STUDY, "glyphs", 4, "maml", 0, [0.5])
    with pytest.raises(MissingTable, match=r"no CNN-2 was measured .* core experiment glyphs_optimizers"):
        table2.traces(results.folder)


def test_the_upper_bound_is_of_the_data_of_the_runs(results, monkeypatch):
    results.compared(STUDY, "glyphs", 2, "maml", 0, [0.5])
    results.bound("glyphs", 2, [0.9])
    read = data.read_named
    config = {"norm_mode": "batch", "dataset_fingerprint": "a"}
    for fingerprint in ("a", "b"):
        monkeypatch.setattr(
            data, "read_named", lambda *given, f=fingerprint: read(*given).assign(dataset_fingerprint=f)
        )
        frame = table2.read_bounds(results.folder)
        if fingerprint == config["dataset_fingerprint"]:
            assert table2.bound(frame, "glyphs", config).mean == pytest.approx(90)
        else:
            with pytest.raises(FigureError, match="upper_bound of glyphs is of other data than the runs"):
                table2.bound(frame, "glyphs", config)
