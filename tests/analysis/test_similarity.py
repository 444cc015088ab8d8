"""The study of similarity: layers before against after adaptation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.engine import intervene
from analysis.errors import StudyError
from analysis.representations import debiased_cka, linear_cka, pwcca, svcca
from analysis.similarity import similarity
from analysis.store import _to_arrow
from analysis.tasks import draw_test_tasks
from core import TrainConfig, adapt, meta_train
from core.models.layers import stages


@pytest.fixture(scope="module")
def run():
    config = TrainConfig(
        dataset="glyphs", model="cnn", depth=2, filters=4, norm_mode="batch", method="maml", steps=2, adapt_lr=0.5,
        first_order=False, meta_optimizer="adam", meta_lr=0.01, iterations=3, tasks_per_iteration=2, ways=3, shots=2,
        endless=True, eval_tasks=2,
    )  # fmt: skip
    return meta_train(config, results=None, progress=False)


def of(table, **chosen):
    for name, value in chosen.items():
        table = table[table[name] == value]
    return table


def test_values_are_those_of_the_layers_cut_out_of_the_network(run):
    table = similarity(run, num_tasks=2, seed=3)
    _to_arrow("similarity", table)
    episodes = draw_test_tasks(run.tasks(seed=3), 2)
    params = adapt(run.model, run.rule, run.theta, run.xi, episodes, steps=2, lr=0.5).params
    untrained = dict(run.blank_model().named_parameters())
    for task in range(2):
        sets = (episodes.support_x[task], episodes.query_x[task])
        others = {"adapted": {name: tensor[task] for name, tensor in params.items()}, "untrained": untrained}
        for compared, other in others.items():
            for stop, layer in ((1, "C1"), (2, "C2"), (4, "FC")):
                outputs = []
                for theta in (run.theta, other):
                    part = stages(run.blank_model(), 0, stop)
                    part.load_state_dict({name: theta[name] for name, _ in part.named_parameters()})
                    outputs.append(torch.cat([part(x) for x in sets]).detach())
                found = of(table, task=task, layer=layer, compared=compared).set_index("measure")["value"]
                assert found["cka"] == pytest.approx(linear_cka(*(x.flatten(1) for x in outputs)), abs=1e-5)
                assert found["debiased cka"] == pytest.approx(debiased_cka(*(x.flatten(1) for x in outputs)), abs=1e-5)
                if layer != "FC":
                    by_position = [x.permute(0, 2, 3, 1).reshape(-1, 4) for x in outputs]
                    assert found["pwcca"] == pytest.approx(pwcca(*by_position), abs=1e-5)
                    assert found["svcca"] == pytest.approx(svcca(*by_position), abs=1e-5)
                    if compared == "untrained":
                        assert found.nunique() == 4, "four measures, and not one by four names"


def test_too_few_examples_are_said_and_not_measured(run):
    table = similarity(run, num_tasks=1)
    head = of(table, layer="FC", measure="svcca")
    assert head["value"].isna().all()
    assert head["status"].str.startswith("failed: 12 examples are too few, at least 15").all()
    assert (table["status"] == "ok").sum() == len(table) - 4


def test_without_adaptation_nothing_changes(run):
    still = meta_train(run.config.from_dict({**run.config.__dict__, "steps": 0}), results=None, progress=False)
    table = of(similarity(still, num_tasks=2), compared="adapted", status="ok")
    np.testing.assert_allclose(table["value"], 1, atol=1e-6)


def test_a_diverged_run_has_no_similarity(run):
    lost = meta_train(run.config.from_dict({**run.config.__dict__, "adapt_lr": 1e30}), results=None, progress=False)
    table = similarity(lost, num_tasks=1)
    assert (table["status"] == "diverged").all()
    assert table["value"].isna().all()


def test_a_task_whose_loss_exploded_diverged_as_in_other_studies(run):
    exploded = replace(run, theta=run.theta | {"FC.weight": 1e10 * run.theta["FC.weight"]})
    assert set(intervene(exploded, {"none": None}, num_tasks=2)["status"]) == {"diverged"}
    assert set(similarity(exploded, num_tasks=2)["status"]) == {"diverged"}


def test_other_networks_are_compared_with_before_adaptation(run):
    other = meta_train(run.config.from_dict({**run.config.__dict__, "seed": 1}), results=None, progress=False)
    table = similarity(run, others={"seed 1": other, "itself": run}, num_tasks=1)
    _to_arrow("similarity", table)
    assert list(dict.fromkeys(table["compared"])) == ["adapted", "untrained", "seed 1", "itself"]
    np.testing.assert_allclose(of(table, compared="itself", status="ok")["value"], 1, atol=1e-6)
    part = draw_test_tasks(run.tasks(seed=0), 1)
    x, y = (stages(each.model, 0, 1) for each in (run, other))
    x, y = (torch.cat([f(s[0]) for s in (part.support_x, part.query_x)]).detach().flatten(1) for f in (x, y))
    found = of(table, compared="seed 1", layer="C1", measure="cka")["value"].item()
    assert found == pytest.approx(linear_cka(x, y), abs=1e-5)
    with pytest.raises(StudyError, match="another network cannot be called adapted, untrained: there is such"):
        similarity(run, others={"untrained": other, "adapted": other, "mine": other}, num_tasks=1)
    with pytest.raises(StudyError, match="renamed has no layer C1; it has first, C2, FC"):
        similarity(run, others={"renamed": other.with_layers({"first": "C1"})}, num_tasks=1)
