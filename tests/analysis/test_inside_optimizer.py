"""What is inside a learned meta-optimizer, against dense algebra and a loop over single tasks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd import grad
from torch.func import functional_call

import core
from analysis import inside_optimizer as module
from analysis.errors import StudyError
from analysis.inside_optimizer import inside_optimizer
from analysis.schemas import INSIDE_QUANTITIES
from analysis.store import _to_arrow
from analysis.tasks import draw_test_tasks
from core import TrainConfig, make_optimizer, meta_train
from core.losses import task_accuracies
from tests.naive import NaiveRule, adapt_task, leaves, task_loss

LR = {"dataset": "synthetic", "model": "lr", "points": 20, "input_scale": 0.3}
CNN = {
    "dataset": "glyphs", "model": "cnn", "depth": 1, "filters": 3, "norm_mode": "instance", "ways": 3, "shots": 2,
    "endless": True,
}  # fmt: skip
CASES = {
    "lr klin": {**LR, "method": "klin"},
    "lr kfc": {**LR, "method": "kfc", "rule_depth": 2},
    "lr cholesky": {**LR, "method": "cholesky", "rule_rank": 3},
    "lr linear": {**LR, "method": "linear"},
    "lr alpha_maml": {**LR, "method": "alpha_maml"},
    "lr meta_sgd": {**LR, "method": "meta_sgd"},
    "cnn kfc": {**CNN, "method": "kfc", "rule_depth": 2, "unit_norm": True},
    "cnn klin": {**CNN, "method": "klin", "rule_bias": True},
    "cnn meta_curvature": {**CNN, "method": "meta_curvature"},
}
ADAPTING = [name for name in CASES if name not in ("lr meta_sgd", "cnn meta_curvature")]
NAIVE = {
    "lr kfc": {"depth": 2}, "lr cholesky": {"rank": 3}, "cnn kfc": {"depth": 2, "unit_norm": True},
    "cnn klin": {"bias": True},
}  # fmt: skip
LR_RATE = 0.5
BLIND = "C1.conv.bias"  # comes before a norm that takes it away: it has no gradient


def make_run(case, **changes):
    """A run that is barely trained, but whose xi is random and so symmetric in nothing."""
    settings = {
        "steps": 3, "adapt_lr": LR_RATE, "first_order": False, "meta_optimizer": "adam", "meta_lr": 0.01,
        "iterations": 1, "tasks_per_iteration": 1, "eval_tasks": 1, **CASES.get(case, {}), **changes,
    }  # fmt: skip
    run = meta_train(TrainConfig(**settings), results=None, progress=False)
    noise = torch.Generator().manual_seed(7)
    return replace(run, xi={k: t + 0.1 * torch.randn(t.shape, generator=noise) for k, t in run.xi.items()})


def naive_rule(case):
    method = case.split()[1]
    if method == "alpha_maml":
        return NaiveRule("meta_sgd", adapts=True)
    return NaiveRule(method, **NAIVE.get(case, {}))


@pytest.fixture
def in_float64(monkeypatch):
    """Makes a run double, and the study's episodes with it."""
    monkeypatch.setattr(module, "draw_test_tasks", lambda *a: draw_test_tasks(*a).to(dtype=torch.float64))

    def double(run):
        return replace(
            run, theta={k: t.double() for k, t in run.theta.items()}, xi={k: t.double() for k, t in run.xi.items()}
        )

    return double


def of(table, **chosen):
    for name, value in chosen.items():
        table = table[table[name] == value]
    return table


def numbers(table, adaptation):
    """Loss and accuracy (task, step, set, measure) of one adaptation."""
    rows = of(table, aspect="comparison", adaptation=adaptation)
    wide = rows.pivot(index=["task", "step", "split"], columns="quantity", values="value").sort_index()
    wide = wide.loc[:, ["loss", "accuracy"]]
    order = wide.reset_index().sort_values(["task", "step", "split"], ascending=[True, True, False])
    tasks = order["task"].nunique()
    return order[["loss", "accuracy"]].to_numpy(float).reshape(tasks, -1, 2, 2)


def single(table, part, quantity, tensor):
    return of(table, aspect="factor", tensor=tensor, part=part, quantity=quantity)["value"].tolist()


@pytest.mark.parametrize("case", CASES)
def test_every_rule_fills_its_table(case):
    run = make_run(case)
    table = inside_optimizer(run, num_tasks=2, seed=1)
    _to_arrow("inside_optimizer", table)
    assert set(table["quantity"]) <= set(INSIDE_QUANTITIES)
    factors = of(table, aspect="factor")
    keys = {f"{row.tensor}.{row.part}" for row in factors.itertuples() if "(x)" not in row.part}
    assert keys == set(run.xi)
    key = ["aspect", "tensor", "part", "adaptation", "task", "step", "split", "quantity", "index"]
    assert not table.duplicated(key).any()
    assert list(dict.fromkeys(factors["tensor"])) == list(run.theta)


@pytest.mark.parametrize(
    ("case", "tensor"), [("lr kfc", "fc.weight"), ("cnn kfc", "FC.weight"), ("cnn klin", "FC.bias")]
)
def test_spectra_are_those_of_the_dense_kronecker_matrix(case, tensor):
    run = make_run(case)
    table = inside_optimizer(run, num_tasks=1)
    for number in ("",) if "klin" in case else ("0", "1"):
        left, right = (run.xi[f"{tensor}.{side}{number}"].double().numpy() for side in "LR")
        dense = np.kron(right.T, left)
        spectra = [single(table, f"{side}{number}", "singular value", tensor) for side in "LR"]
        products = np.sort(np.outer(*spectra).ravel())[::-1]
        np.testing.assert_allclose(products, np.linalg.svd(dense, compute_uv=False), atol=1e-12)
        for part, matrix in ((f"L{number}", left), (f"R{number}", right), (f"R{number}^T (x) L{number}", dense)):
            eye = np.eye(len(matrix))
            best = min(np.linalg.lstsq(eye.reshape(-1, 1), matrix.ravel(), rcond=None)[0])
            expected = {
                "distance from the start": np.linalg.norm(matrix - eye) / np.linalg.norm(eye),
                "best multiple": best,
                "distance beyond a rate": np.linalg.norm(matrix - best * eye) / np.linalg.norm(eye),
            }
            for quantity, value in expected.items():
                # The product's distances are differences of squares: half of the digits where they are near zero.
                assert single(table, part, quantity, tensor) == [pytest.approx(value, abs=1e-7)], (part, quantity)


@pytest.mark.parametrize("rank", [3, 100])
def test_cholesky_is_told_by_the_matrix_that_it_stands_for(rank):
    run = make_run("lr cholesky", rule_rank=rank)
    table = inside_optimizer(run, num_tasks=1)
    l_factor = run.xi["fc.weight.L"].double().numpy()
    dense, start = l_factor @ l_factor.T, np.diag([1.0] * rank + [0.0] * (100 - rank))
    eigenvalues = np.linalg.eigvalsh(dense)[::-1][:rank]
    np.testing.assert_allclose(single(table, "L", "eigenvalue", "fc.weight"), eigenvalues, atol=1e-12)
    distance = np.linalg.norm(dense - start) / np.linalg.norm(start)
    assert single(table, "L", "distance from the start", "fc.weight") == [pytest.approx(distance)]
    beyond = single(table, "L", "distance beyond a rate", "fc.weight")
    if rank == 100:
        multiple = np.trace(dense) / 100
        assert beyond == [pytest.approx(np.linalg.norm(dense - multiple * start) / 10)]
    else:
        assert not beyond


def test_rates_are_sorted_and_biases_have_a_norm():
    run = make_run("lr meta_sgd")
    table, rate = inside_optimizer(run, num_tasks=1), run.xi["fc.weight.rate"].double().numpy().ravel()
    np.testing.assert_allclose(single(table, "rate", "rate", "fc.weight"), np.sort(rate)[::-1])
    assert single(table, "rate", "best multiple", "fc.weight") == [pytest.approx(rate.mean())]
    assert single(table, "rate", "distance from the start", "fc.weight") == [
        pytest.approx(np.linalg.norm(rate - 1) / 10)
    ]
    assert single(table, "rate", "distance beyond a rate", "fc.weight") == [pytest.approx(rate.std())]
    biased = make_run("cnn klin")
    norm = single(inside_optimizer(biased, num_tasks=1), "b", "norm", "FC.weight")
    assert norm == [pytest.approx(biased.xi["FC.weight.b"].norm().item())]


def test_a_mere_change_of_rate_has_no_distance_beyond_it():
    run = make_run("lr klin", steps=1)
    run = replace(run, xi={key: 3 * torch.eye(len(tensor)) for key, tensor in run.xi.items()})
    table = inside_optimizer(run, num_tasks=1)
    for part, rate in (("L", 3), ("R", 3), ("R^T (x) L", 9)):
        assert single(table, part, "best multiple", "fc.weight") == [pytest.approx(rate)]
        assert single(table, part, "distance from the start", "fc.weight") == [pytest.approx(rate - 1)]
        assert single(table, part, "distance beyond a rate", "fc.weight") == [pytest.approx(0, abs=1e-7)]
    cosine = of(table, quantity="cosine")["value"]
    np.testing.assert_allclose(cosine, 1, rtol=1e-6)
    np.testing.assert_allclose(of(table, quantity="norm ratio")["value"], 9, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_as_trained_and_theta_only_and_plain_steps_are_evaluations_bit_for_bit(case):
    run = make_run(case)
    table = inside_optimizer(run, num_tasks=3, seed=2)
    episodes = draw_test_tasks(run.tasks(seed=2), 3)
    fixed = make_optimizer(
        run.rule.name, adapts=False, **{k: v for k, v in vars(run.rule).items() if k not in ("adapts",)}
        if run.rule.name not in ("klin", "meta_curvature") else {"bias": True} if case == "cnn klin" else {},
    )  # fmt: skip
    of_rules = {"theta only": (fixed, run.xi), "plain steps": (make_optimizer("sgd"), {})}
    if run.rule.adapts:
        of_rules["both"] = (run.rule, run.xi)
        assert not np.array_equal(numbers(table, "both"), numbers(table, "theta only"))
    for name, (rule, xi) in of_rules.items():
        expected = core.evaluate(run.model, rule, run.theta, xi, episodes, steps=3, lr=LR_RATE)
        np.testing.assert_array_equal(
            numbers(table, name), expected[["loss", "accuracy"]].to_numpy().reshape(3, 4, 2, 2), name
        )
    for name, whole in (("neither", "theta only"), ("one plain step", "plain steps")):
        np.testing.assert_array_equal(numbers(table, name), numbers(table, whole)[:, :2])


@pytest.mark.parametrize("case", ADAPTING)
@pytest.mark.parametrize("lr_scope", ["both", "xi"])
def test_xi_only_is_a_loop_over_single_tasks(case, lr_scope, in_float64):
    run = in_float64(make_run(case, lr_scope=lr_scope))
    rule = naive_rule(case)
    found = numbers(inside_optimizer(run, num_tasks=2, seed=3), "xi only")
    episodes = draw_test_tasks(run.tasks(seed=3), 2).to(dtype=torch.float64)
    for task in range(2):
        sets = [
            (episodes.support_x[task], episodes.support_y[task]), (episodes.query_x[task], episodes.query_y[task])
        ]  # fmt: skip

        def loss_of(theta, x, y):
            return task_loss(functional_call(run.model, theta, (x,)), y, episodes.kind)

        theta_0, xi = leaves(run.theta), leaves(run.xi)
        g_0 = dict(zip(theta_0, grad(loss_of(theta_0, *sets[0]), list(theta_0.values())), strict=True))
        theta = theta_0
        for step in range(4):
            for i, (x, y) in enumerate(sets):
                outputs = functional_call(run.model, theta, (x,)).detach()
                accuracy = task_accuracies(outputs[None], y[None], episodes.kind)[0]
                expected = [loss_of(theta, x, y).item(), accuracy.item()]
                np.testing.assert_allclose(found[task, step, i], expected, atol=1e-10)
            updates = rule.update(xi, g_0)
            scale = LR_RATE if lr_scope == "both" else 1.0
            theta = {name: theta_0[name].detach() - scale * updates[name] for name in theta_0}
            slopes = grad(loss_of(theta, *sets[0]), list(xi.values()), materialize_grads=True, allow_unused=True)
            xi = leaves({k: t - LR_RATE * slope for (k, t), slope in zip(xi.items(), slopes, strict=True)})


@pytest.mark.parametrize("case", ["cnn kfc", "cnn klin"])
def test_theta_only_in_a_layer_is_a_loop_over_single_tasks(case, in_float64):
    run = in_float64(make_run(case))
    rule = naive_rule(case)
    table = inside_optimizer(run, num_tasks=2, seed=3)
    episodes = draw_test_tasks(run.tasks(seed=3), 2).to(dtype=torch.float64)
    for layer in ("C1", "FC"):
        found = numbers(table, f"theta only in {layer}")
        for task in range(2):
            x, y = episodes.support_x[task], episodes.support_y[task]
            theta, xi = leaves(run.theta), leaves(run.xi)
            for step in range(4):
                loss = task_loss(functional_call(run.model, theta, (x,)), y, episodes.kind)
                np.testing.assert_allclose(found[task, step, 0, 0], loss.item(), atol=1e-10)
                g = dict(zip(theta, grad(loss, list(theta.values()), retain_graph=True), strict=True))
                if step > 0:  # equation 4, through the last update alone, but for the layer's own xi
                    slopes = grad(loss, list(xi.values()), materialize_grads=True, allow_unused=True)
                    xi = leaves(
                        {
                            key: tensor if key.startswith(f"{layer}.") else tensor - LR_RATE * slope
                            for (key, tensor), slope in zip(xi.items(), slopes, strict=True)
                        }
                    )
                start = {name: tensor.detach() for name, tensor in theta.items()}
                gradient = {name: tensor.detach() for name, tensor in g.items()}
                updates = rule.update(xi, gradient)
                theta = {name: start[name] - LR_RATE * updates[name] for name in theta}


@pytest.mark.parametrize("case", CASES)
def test_alignment_is_that_of_gradients_taken_one_task_at_a_time(case, in_float64):
    run = in_float64(make_run(case))
    rule = naive_rule(case)
    table = of(inside_optimizer(run, num_tasks=2, seed=4), aspect="alignment")
    episodes = draw_test_tasks(run.tasks(seed=4), 2).to(dtype=torch.float64)
    for task in range(2):
        x, y = episodes.support_x[task], episodes.support_y[task]
        for step in (1, 2, 3):
            # What the state before the step is, and what the step did, told by loops of different lengths.
            before, after = (
                adapt_task(
                    run.model, rule, leaves(run.theta), leaves(run.xi), x, y, episodes.kind, steps=n, lr=LR_RATE
                )[0]
                for n in (step - 1, step)
            )
            theta = leaves(before)
            loss = task_loss(functional_call(run.model, theta, (x,)), y, episodes.kind)
            g = dict(zip(theta, grad(loss, list(theta.values())), strict=True))
            u = {name: (before[name] - after[name]).detach() / LR_RATE for name in theta}
            pairs = {name: (u[name].flatten(), g[name].flatten()) for name in theta}
            if len(pairs) > 1:
                pairs["all"] = tuple(torch.cat([pair[i] for pair in pairs.values()]) for i in (0, 1))
            for name, (update, gradient) in pairs.items():
                rows = of(table, task=task, step=step, tensor=name).set_index("quantity")
                if name == BLIND:
                    assert rows["value"]["gradient norm"] == 0
                    continue
                assert (rows["status"] == "ok").all()
                inner = (update @ gradient).item()
                norms = update.norm().item(), gradient.norm().item()
                expected = {
                    "cosine": inner / (norms[0] * norms[1]), "norm ratio": norms[0] / norms[1],
                    "descent": float(inner > 0), "gradient norm": norms[1],
                }  # fmt: skip
                assert rows["value"].to_dict() == pytest.approx(expected, rel=1e-7)
    assert set(table["tensor"]) == set(pairs)


@pytest.mark.parametrize(
    ("case", "steps", "names"),
    [
        ("lr klin", 0, ["both", "plain steps"]),
        ("lr klin", 1, ["both", "plain steps"]),
        ("lr klin", 2, ["both", "theta only", "xi only", "neither", "plain steps", "one plain step"]),
        (
            "cnn kfc",
            2,
            [
                "both",
                "theta only",
                "theta only in C1",
                "theta only in FC",
                "xi only",
                "neither",
                "plain steps",
                "one plain step",
            ],
        ),
        ("lr meta_sgd", 1, ["theta only", "plain steps"]),
        ("lr meta_sgd", 2, ["theta only", "neither", "plain steps", "one plain step"]),
    ],
)
def test_what_would_repeat_another_is_left_out(case, steps, names):
    table = of(inside_optimizer(make_run(case, steps=steps), num_tasks=1), aspect="comparison")
    assert list(dict.fromkeys(table["adaptation"])) == names
    for name in names:
        last = 1 if name in ("neither", "one plain step") else steps
        assert sorted(set(of(table, adaptation=name)["step"])) == list(range(last + 1))


def test_chunks_of_tasks_give_the_same_table(monkeypatch, in_float64):
    run = in_float64(make_run("cnn kfc"))
    whole = inside_optimizer(run, num_tasks=5)
    monkeypatch.setattr(module, "default_chunk", lambda *_: 2)
    parts = inside_optimizer(run, num_tasks=5)
    np.testing.assert_allclose(parts["value"], whole["value"], rtol=1e-8)
    assert parts.drop(columns="value").equals(whole.drop(columns="value"))


def test_tensors_that_do_not_adapt_have_no_part_in_it():
    run = make_run("cnn klin", adapted=("FC",))
    table = inside_optimizer(run, num_tasks=1)
    assert set(table["layer"]) == {"FC", "all", ""}
    assert set(of(table, layer="FC")["tensor"]) == {"FC.weight", "FC.bias"}


def test_what_does_not_exist_is_said_and_not_measured():
    run = make_run("lr klin", steps=1)
    still = replace(run, xi={key: torch.zeros_like(tensor) for key, tensor in run.xi.items()})
    rows = of(inside_optimizer(still, num_tasks=1), aspect="alignment").set_index("quantity")
    assert rows["status"].to_dict() == {
        "cosine": "failed: the update is zero", "norm ratio": "ok", "descent": "ok", "gradient norm": "ok"
    }  # fmt: skip
    assert rows["value"]["norm ratio"] == rows["value"]["descent"] == 0
    # A vector before batch norm that is added to all examples alike: no gradient at all, but for rounding.
    blind = make_run("cnn klin", steps=1)
    blind = replace(blind, theta={k: torch.zeros_like(t) if k == "FC.weight" else t for k, t in blind.theta.items()})
    rows = of(inside_optimizer(blind, num_tasks=1), aspect="alignment", tensor="C1.conv.weight").set_index("quantity")
    assert rows["status"]["gradient norm"] == "ok"
    assert rows["value"]["gradient norm"] == 0
    assert set(rows["status"].drop("gradient norm")) == {"failed: the gradient is zero"}


def test_a_diverged_run_and_a_diverged_task_have_no_numbers():
    run = make_run("lr klin")
    for lost in (
        replace(run, status="diverged at iteration 2"),
        replace(run, theta={"fc.weight": torch.full((1, 100), torch.nan)}),
    ):
        table = inside_optimizer(lost, num_tasks=1)
        measured = table if lost.status != "ok" else table[table["aspect"] != "factor"]
        assert (measured["status"] == "diverged").all()
        assert measured["value"].isna().all()


def test_a_rule_without_parameters_has_no_inside():
    run = meta_train(
        TrainConfig(**{**make_run("lr klin").config.__dict__, "method": "maml"}), results=None, progress=False
    )
    with pytest.raises(StudyError, match="the rule of maml has no parameters"):
        inside_optimizer(run, num_tasks=1)


def test_a_tensor_has_its_own_numbers_whatever_the_layers_are_called():
    run = make_run("cnn kfc", depth=2)
    by_name = inside_optimizer(run, num_tasks=1).set_index(["tensor", "step", "quantity", "aspect"])["value"]
    of_groups = inside_optimizer(run.with_layers({"norms": "*.norm.*", "last": "FC"}), num_tasks=1)
    found = of_groups[of_groups["aspect"].eq("alignment")].set_index(["tensor", "step", "quantity", "aspect"])["value"]
    assert found.to_dict() == pytest.approx(by_name[found.index].to_dict(), nan_ok=True)
    assert len(set(found.xs("gradient norm", level="quantity").round(12))) > 3


def test_of_a_regression_losses_alone_are_compared():
    settings = {"dataset": "sinusoid", "shots": 5, "ways": None, "points": None, "input_scale": None, "adapt_lr": 1e-3}
    run = make_run("lr klin", **settings)
    table = inside_optimizer(run, num_tasks=2)
    assert set(of(table, aspect="comparison")["quantity"]) == {"loss"}
    assert of(table, aspect="comparison")["value"].notna().all()
