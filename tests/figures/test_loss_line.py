"""The figure of the loss line says what is in its table."""

import numpy as np
import pandas as pd
import pytest

from figures import loss_line

POSITIONS = (-0.5, 0.0, 1.0, 2.0)
TASKS = 4


def loss_of(position, split, task):
    return (position - 1) ** 2 + 0.1 * task + (split == "query")


def rows(status="ok"):
    frame = pd.DataFrame(
        [(task, p, split, loss_of(p, split, task), (task + p + 1) / 10) for task in range(TASKS)
         for p in reversed(POSITIONS) for split in ("support", "query")],
        columns=["task", "position", "split", "loss", "accuracy"],
    )  # fmt: skip
    if status != "ok":
        frame[["loss", "accuracy"]] = np.nan
    return frame.assign(status=status)


def test_every_point_is_the_mean_over_tasks_in_order_of_the_positions(results):
    results.studied("loss_line", rows())
    trace = loss_line.traces(results.folder)["loss_line_glyphs_cnn4_maml"]
    figure, axes = loss_line.draw(trace)
    for name, lines, value in (
        ("loss", trace.loss, loss_of), ("accuracy", trace.accuracy, lambda p, split, task: 10 * (task + p + 1))
    ):  # fmt: skip
        assert list(lines) == ["support", "query"]
        drawn = [line for line in axes[name].lines if list(line.get_xdata()) == list(POSITIONS)]
        for line, (split, points) in zip(drawn, lines.items(), strict=True):
            assert list(points) == list(POSITIONS)
            by_hand = [np.mean([value(p, split, task) for task in range(TASKS)]) for p in POSITIONS]
            assert [over.mean for over in points.values()] == pytest.approx(by_hand)
            assert list(line.get_ydata()) == pytest.approx(by_hand)
            assert line.get_color() == loss_line.COLOURS[split]
    assert [text.get_text() for text in axes["loss"].texts] == ["before", "after"]
    assert [text.xy[0] for text in axes["loss"].texts] == [0, 1]
    assert "chance" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(("factor", "scale"), [(0.0, "log"), (1.0, "linear")])
def test_losses_of_many_sizes_have_a_logarithmic_axis(results, factor, scale):
    frame = rows()
    frame["loss"] = frame["loss"].where(frame["position"] != 1, 0.001 + factor)
    _, axes = loss_line.draw(loss_line.from_table(results.studied("loss_line", frame, write=False)))
    assert axes["loss"].get_yscale() == scale


def test_regression_has_a_loss_alone(results):
    table = results.studied("loss_line", rows().assign(accuracy=np.nan), ways=None, shots=None, write=False)
    trace = loss_line.from_table(table)
    assert trace.accuracy == {}
    _, axes = loss_line.draw(trace)
    assert list(axes) == ["loss"]


def test_a_run_that_diverged_leaves_an_empty_figure_that_says_so(results):
    trace = loss_line.from_table(results.studied("loss_line", rows("diverged"), write=False))
    assert trace.loss == {}
    assert any("(diverged)." in text for text in trace.caption)
    loss_line.draw(trace)


def test_a_loss_that_explodes_beyond_adaptation_takes_that_position_alone(results):
    frame = rows()
    frame.loc[frame["position"].eq(2) & frame["task"].eq(1), ["loss", "accuracy", "status"]] = [
        np.nan,
        np.nan,
        "diverged",
    ]
    table = results.studied("loss_line", frame, write=False)
    trace = loss_line.from_table(table)
    assert list(trace.loss["query"]) == [-0.5, 0, 1]
    assert f"Not averaged in: {table['run'].iloc[0]} at 2 (diverged on 1 of 4 tasks)." in trace.caption
