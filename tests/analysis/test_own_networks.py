"""Networks from outside go through the studies as ours do."""

import pandas as pd
import pytest
import torch

import figures.adaptation_path
from analysis import StudyError, adapt_only, freeze, intervene, perturb
from analysis.adaptation_path import adaptation_path
from analysis.fc_noise import fc_noise
from analysis.label_permutation import label_permutation
from analysis.layer_roles import layer_roles
from analysis.loss_line import loss_line
from analysis.registry import STUDIES, carry_out
from analysis.similarity import similarity
from analysis.store import _to_arrow, read_table
from core import Episodes, evaluate, load_run, make_tasks, meta_train, run_from_module
from core.errors import UserError
from tests.core.own_modules import HigherOmniglot, Unmappable, WithEverything, episodes

STUDIED = {
    "layer_roles": layer_roles,
    "fc_noise": fc_noise,
    "similarity": similarity,
    "adaptation_path": adaptation_path,
    "loss_line": loss_line,
    "label_permutation": label_permutation,
}
# A network that is changed at random, or that has few layers, may make a study say so; none may fail.


def images(channels, size, num_tasks=2, ways=5):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, num_tasks, 2 * ways, channels, size, size, generator=generator)
    y = torch.arange(ways).repeat(2).expand(num_tasks, -1)
    return Episodes(x[0], y, x[1], y)


def outside(name):
    torch.manual_seed(0)
    if name == "resnet18":
        from torchvision.models import resnet18  # takes longer to load than most files of tests to run

        return run_from_module(resnet18(num_classes=5), images(3, 32), steps=1, adapt_lr=0.01)
    return run_from_module(HigherOmniglot(filters=16), images(1, 28), steps=2, adapt_lr=0.1)


@pytest.mark.parametrize("study", ["layer_roles", "fc_noise", "similarity"])
@pytest.mark.parametrize("name", ["resnet18", "higher"])
def test_a_network_from_outside_goes_through_unchanged(name, study, tmp_path):
    run = outside(name)
    options = {"strengths": (0.0, 1.0), "draws": 1} if study == "fc_noise" else {}
    table = STUDIED[study](run, num_tasks=1, **options)
    _to_arrow(study, table)
    if study == "layer_roles":
        layers = ["conv1", "bn1", *(f"layer{i}.{j}" for i in range(1, 5) for j in range(2)), "fc"]
        assert list(run.layers) == (layers if name == "resnet18" else ["0", "1", "4", "5", "8", "9", "13"])
        assert set(table["layer"]) == {"", *run.layers}
    if study == "similarity":
        same = table[(table["compared"] == "adapted") & (table["measure"] == "cka") & (table["status"] == "ok")]
        assert set(same["layer"]) == set(run.layers)
        assert same["value"].between(0, 1 + 1e-9).all()
    assert table["value" if study == "similarity" else "loss"].notna().any()


@pytest.mark.parametrize("study", STUDIED)
@pytest.mark.parametrize("module", [WithEverything, Unmappable], ids=lambda m: m.__name__)
@pytest.mark.filterwarnings("ignore:Unmappable cannot be mapped", "ignore:the random network that is compared with")
def test_every_study_of_layers_takes_any_module(module, study):
    torch.manual_seed(0)
    run = run_from_module(module(), episodes(dtype=torch.float32), steps=2, adapt_lr=0.3)
    table = STUDIED[study](run, num_tasks=3)
    _to_arrow(study, table)
    assert len(table)
    assert set(table["model"]) == {f"own:{module.__name__}"}
    assert set(table["dataset"]) == {"own:tasks"}


def test_layers_of_ones_own_are_named_in_interventions_and_tables():
    torch.manual_seed(0)
    groups = {"body": ["encode", "norm", "middle", "scale"], "head": "head.*"}
    run = run_from_module(WithEverything(), episodes(dtype=torch.float32), steps=2, adapt_lr=0.3, layers=groups)
    assert set(layer_roles(run, num_tasks=2)["layer"]) == {"", "body", "head"}
    plans = {"group": freeze("head"), "names": freeze("head.weight", "head.bias"), "only": adapt_only("body")}
    table = intervene(run, {**plans, "noise": perturb("body", std=0.1)}, num_tasks=2)
    by_name = {name: part["loss"].tolist() for name, part in table.groupby("intervention")}
    assert by_name["group"] == by_name["names"] == by_name["only"]
    assert by_name["noise"] != by_name["only"]
    with pytest.raises(UserError, match="unknown layer or parameter 'tail'; known: body, head"):
        intervene(run, {"none": freeze("tail")}, num_tasks=2)


def test_what_is_frozen_of_a_module_with_buffers_is_an_evaluation_in_which_the_others_adapt():
    torch.manual_seed(0)
    module = HigherOmniglot(filters=4)
    run = run_from_module(module, images(1, 28), steps=2, adapt_lr=0.1)
    table = intervene(run, {"it": freeze("0", "1", "4", "5")}, num_tasks=2)  # a sequence, cut after these stages
    adapted = [name for name in run.theta if name.split(".")[0] not in ("0", "1", "4", "5")]
    expected = evaluate(
        run.model, run.rule, run.theta, {}, run.tasks().sample("test", 2, 0), steps=2, lr=0.1, adapted=adapted
    )
    found = table[expected.columns].sort_values(["task", "step", "split"]).reset_index(drop=True)
    expected = expected.sort_values(["task", "step", "split"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=2e-5)


def test_tables_of_a_module_are_stored_with_their_provenance(tmp_path):
    torch.manual_seed(0)
    run = run_from_module(WithEverything(), episodes(dtype=torch.float32), steps=1, adapt_lr=0.3, name="mine")
    suited = [name for name, study in STUDIES.items() if study.suits(run.config)]
    assert {"layer_roles", "fc_noise", "similarity", "optimizer_comparison", "post_adaptation"} <= set(suited)
    assert "training_curves" not in suited
    for name in ("layer_roles", "optimizer_comparison"):
        path = carry_out(tmp_path, name, run, num_tasks=2)
        assert path.stem == run.id
        frame = read_table(path)
        assert frame.attrs["provenance"]["config"]["model"] == "own:mine"
        assert frame.attrs["provenance"]["dataset_fingerprint"] == run.tasks().fingerprint()


def test_regression_goes_through_with_losses_and_no_accuracy(tiny):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(1, 10), torch.nn.Tanh(), torch.nn.Linear(10, 1))
    run = run_from_module(module, make_tasks("sinusoid", shots=10), steps=2, adapt_lr=0.01)
    roles = layer_roles(run, num_tasks=3)
    _to_arrow("layer_roles", roles)
    assert roles["loss"].notna().all()
    assert roles["accuracy"].isna().all()
    assert set(roles["status"]) == {"ok"}
    path = adaptation_path(run, num_tasks=3)
    assert "prototype accuracy" not in set(path["probe"])


def test_a_run_of_a_module_trained_here_goes_through_after_loading(tiny, tmp_path):
    config = tiny(dataset="glyphs", ways=3, shots=2, endless=True, model="own:net", method="maml", points=None)
    torch.manual_seed(0)
    module = HigherOmniglot(ways=3, filters=4)
    run = meta_train(config, model=module, results=tmp_path, progress=False)
    loaded = load_run(run.path, model=HigherOmniglot(ways=3, filters=4))
    first, second = (layer_roles(each, num_tasks=1) for each in (run, loaded))
    pd.testing.assert_frame_equal(first, second)


def test_studies_work_whatever_the_callers_mode_of_gradients():
    torch.manual_seed(0)
    run = run_from_module(WithEverything(), episodes(dtype=torch.float32), steps=1, adapt_lr=0.3)
    plain = intervene(run, {"none": None, "frozen": freeze("head")}, num_tasks=2)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            pd.testing.assert_frame_equal(intervene(run, {"none": None, "frozen": freeze("head")}, num_tasks=2), plain)


def test_orders_of_the_classes_hang_on_the_task_alone():
    torch.manual_seed(0)
    part = episodes(6, dtype=torch.float32)
    y = part.support_y % 2  # of tasks with two classes and with three, and classes that only the query set has
    mixed = Episodes(part.support_x, y, part.query_x, part.query_y)
    run = run_from_module(torch.nn.Linear(6, 3), mixed, steps=1, adapt_lr=0.3)
    few, many = (
        label_permutation(run, num_tasks=num_tasks, draws=2).query("task < 2").reset_index(drop=True)
        for num_tasks in (2, 6)
    )
    pd.testing.assert_frame_equal(few, many, check_exact=False, rtol=1e-5)


def test_tokens_have_no_canonical_correlations():
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = torch.nn.Linear(2, 4), torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.embed(x.unflatten(1, (3, 2))).mean(1))

    torch.manual_seed(0)
    run = run_from_module(Tokens(), episodes(dtype=torch.float32), steps=1, adapt_lr=0.3)
    table = similarity(run, num_tasks=1).query("layer == 'embed' and compared == 'adapted'").set_index("measure")
    assert table.loc["svcca", "status"] == "failed: which axis of its outputs has the features is not known"
    assert table.loc["cka", "status"] == "ok"


def test_a_layer_that_starts_at_zero_has_no_relative_distance():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    with torch.no_grad():
        module[2].weight.zero_(), module[2].bias.zero_()
    run = run_from_module(module, episodes(dtype=torch.float32), steps=2, adapt_lr=0.3)
    table = adaptation_path(run, num_tasks=2)
    assert table["value"].notna().all()
    assert set(table.query("probe == 'distance'")["layer"]) == {"0"}
    figures.adaptation_path.from_table(table)


def test_tasks_without_a_test_split_and_names_of_columns_are_told():
    pools = {split: episodes(4, seed=i, dtype=torch.float32) for i, split in enumerate(("train", "validation"))}
    run = run_from_module(torch.nn.Linear(6, 3), pools, steps=1, adapt_lr=0.3)
    with pytest.raises(StudyError, match="there are no test episodes, only train, validation"):
        intervene(run, {"none": None}, num_tasks=1)
    run = run_from_module(torch.nn.Linear(6, 3), episodes(dtype=torch.float32), steps=1, adapt_lr=0.3)
    with pytest.raises(StudyError, match="a probe cannot be called loss: the table has such a column"):
        intervene(run, {"none": None}, probes={"loss": lambda s: None}, num_tasks=1)
