"""A user's own network and tasks as a run: looked at, trained, saved and loaded."""

import copy
import warnings

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core import (
    Episodes,
    list_runs,
    load_run,
    load_weights,
    make_optimizer,
    make_tasks,
    meta_gradient,
    meta_train,
    meta_train_many,
    run_from_module,
)
from core.errors import UserError
from core.models.conv import CNN
from core.modules import not_random, reinitialised
from core.runs import module_digest
from core.tasks import TaskSource, as_tasks, own
from tests.core.own_modules import WithEverything, by_hand, episodes


@pytest.fixture
def module():
    torch.manual_seed(0)
    return WithEverything()


def mlp():
    return nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))


def sinusoid_config(tiny_config, **changes):
    return tiny_config(
        dataset="sinusoid", model="own:mlp", method="maml", points=None, shots=5, adapt_lr=0.01, steps=1, **changes
    )


def test_a_run_of_a_module_adapts_as_the_module_does_by_hand(module):
    run = run_from_module(module, episodes(dtype=torch.float32), steps=2, adapt_lr=0.3)
    table = run.evaluate(run.tasks().sample("test", 4, 0))
    query = table[table["split"] == "query"]
    module.drop.eval()  # as the run has it
    for task in range(4):
        part = episodes(dtype=torch.float32)[task : task + 1]
        losses, _ = by_hand(copy.deepcopy(module), part, steps=2, lr=0.3)
        assert query[query["task"] == task]["loss"].tolist() == pytest.approx(losses, rel=1e-5)


def test_the_callers_module_is_left_alone_and_the_copy_keeps_its_mode(module):
    module.norm.eval()
    before = copy.deepcopy(module.state_dict())
    run = run_from_module(module, episodes(dtype=torch.float32), steps=2, adapt_lr=0.3)
    run.evaluate(run.tasks().sample("test", 2, 0))
    assert module.drop.training
    assert not run.model.drop.training
    assert not run.model.norm.training
    assert run.model.encode.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("ending", ["pt", "safetensors", "checkpoint.pth", "mapping"])
def test_weights_come_from_a_file_or_a_state_dict(module, tmp_path, ending):
    torch.manual_seed(1)
    other = WithEverything()
    other.norm.running_mean.uniform_()
    state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    path = tmp_path / f"net.{ending}"
    match ending:
        case "pt":
            torch.save(state, path)
        case "safetensors":
            save_file(state, path)
        case "checkpoint.pth":
            torch.save({"epoch": 3, "model": state, "lr": 0.1}, path)
    weights = state if ending == "mapping" else path
    run = run_from_module(module, episodes(dtype=torch.float32), steps=1, adapt_lr=0.3, weights=weights)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


class Opened:
    def __reduce__(self):
        return (print, ("carried out",))


def test_a_file_that_would_carry_something_out_is_not_opened(tmp_path, capsys):
    torch.save({"weight": Opened()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad.pt is damaged, or holds more than tensors, and is not opened"):
        load_weights(tmp_path / "bad.pt")
    assert "carried out" not in capsys.readouterr().out


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.pt", lambda p: None, "a.pt does not exist, or is no file"),
        ("a.pt", lambda p: (torch.save({"a": torch.ones(9)}, p), cut(p)), "a.pt is damaged"),
        ("a.pt", lambda p: p.write_bytes(b""), "a.pt is damaged"),
        ("a.pt", lambda p: p.write_text("<html>"), "a.pt is damaged"),
        ("a.safetensors", lambda p: (save_file({"a": torch.ones(9)}, p), cut(p)), "a.safetensors is damaged"),
        ("a.pt", lambda p: torch.save([1, 2], p), "a.pt holds 0 state dicts, not one"),
        ("a.pt", lambda p: torch.save({k: {"w": torch.ones(1)} for k in "ab"}, p), "holds 2 state dicts"),
        ("a.pt", lambda p: torch.save({"w": torch.ones(1), 0: torch.ones(1)}, p), "a.pt holds 0 state dicts, not one"),
    ],
)  # fmt: skip
def test_damaged_weights_are_told_in_one_sentence(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        load_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_named(module, tmp_path):
    torch.save({**module.state_dict(), "extra": torch.ones(1)}, tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"net.pt has extra, which WithEverything does not know"):
        run_from_module(module, episodes(), steps=1, adapt_lr=0.3, weights=tmp_path / "net.pt")


def test_something_random_is_told():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.randn(())

    with pytest.raises(UserError, match="Noisy answers differently when it is asked twice"):
        run_from_module(Noisy(6, 3), episodes(dtype=torch.float32), steps=1, adapt_lr=0.3)


def test_a_network_without_parameters_is_told():
    with pytest.raises(UserError, match="Flatten has no parameters that could adapt"):
        run_from_module(nn.Flatten(), episodes(), steps=1, adapt_lr=0.3)


def test_layers_get_the_names_one_gives_them(module):
    run = run_from_module(
        module, episodes(dtype=torch.float32), steps=1, adapt_lr=0.3, layers={"body": ["encode", "norm", "middle"]}
    )
    assert list(run.layers) == ["scale", "body", "head"]
    assert run.layers["body"][-1] == "middle.weight"


def test_the_id_tells_weights_tasks_and_settings_apart(module):
    def run(module, part, **options):
        return run_from_module(module, part, steps=1, adapt_lr=0.3, **options).id

    part = episodes(dtype=torch.float32)
    torch.manual_seed(1)
    ids = [
        run(module, part), run(WithEverything(), part), run(module, episodes(seed=1, dtype=torch.float32)),
        run(module, part, name="net"), run(module, part, adapted=("head",)),
        run(module, part, layers={"body": ["encode", "norm"]}), run(module, part, initial=module.state_dict()),
    ]  # fmt: skip
    assert len(set(ids)) == 7
    assert run(module, part) == ids[0]
    assert ids[0].startswith("own.tasks-own.WithEverything-maml-s0-")


def test_tasks_of_ours_keep_their_name_and_settings():
    tasks = make_tasks("glyphs", ways=3, shots=2)
    run = run_from_module(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), tasks, steps=1, adapt_lr=0.1, method="kfc", rule_depth=2
    )
    assert (run.config.dataset, run.config.ways, run.config.shots) == ("glyphs", 3, 2)
    assert run.rule.name == "kfc"
    assert "1.weight.L1" in run.xi
    assert run.config.task_options() == {"ways": 3, "shots": 2}, "all else is the default"


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        ("synthetic", {"points": 20, "input_scale": 1.0, "same_points": False}),
        ("glyphs", {"ways": 3, "shots": 2, "query_shots": 4, "rotations": True, "endless": True}),
        ("sinusoid", {"shots": 3, "query_shots": 5}),
    ],
)
def test_a_run_on_tasks_of_ours_says_how_they_are_made(dataset, options):
    tasks = make_tasks(dataset, **options)
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(tasks.num_outputs))
    network(torch.zeros(1, *tasks.example_shape))
    run = run_from_module(network, tasks, steps=1, adapt_lr=0.1)
    assert run.config.task_options() == options
    assert make_tasks(dataset, **run.config.task_options()).fingerprint() == tasks.fingerprint()
    with pytest.raises(UserError, match=f"the tasks of {run.id} were given as they are: shots cannot be changed"):
        run.tasks(shots=1)


def test_the_untrained_network_is_random_and_the_same_for_a_seed(module):
    state = torch.random.get_rng_state()
    first, second, other = reinitialised(module, 0), reinitialised(module, 0), reinitialised(module, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.encode.weight, second.encode.weight)
    assert not torch.equal(first.encode.weight, other.encode.weight)
    assert not torch.equal(first.encode.weight, module.encode.weight)
    initial = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
    run = run_from_module(module, episodes(dtype=torch.float32), steps=1, adapt_lr=0.3, initial=initial)
    assert not run.blank_model().encode.weight.any()


def test_what_no_layer_resets_is_told_where_a_random_network_is_asked_for():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.ones(1, 1, 4))
            self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = torch.cat([self.token.expand(len(x), -1, -1), x.unflatten(1, (-1, 2)).repeat(1, 1, 2)], 1)
            return self.head(self.attn(x, x, x, need_weights=False)[0][:, 0])

    network = Attends()
    assert not_random(network) == ["token"]
    assert not torch.equal(reinitialised(network, 0).attn.in_proj_weight, network.attn.in_proj_weight)
    part = episodes(dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = run_from_module(network, part, steps=1, adapt_lr=0.1)
        run.evaluate(part)
        run_from_module(network, part, steps=1, adapt_lr=0.1, initial=network.state_dict()).blank_model()
    with pytest.warns(UserWarning, match="has the trained token, as no layer has a reset_parameters"):
        run.blank_model()


def test_training_learns_and_starts_with_the_modules_weights(tiny_config):
    torch.manual_seed(0)
    module = mlp()
    config = sinusoid_config(tiny_config, iterations=60, eval_every=0, eval_tasks=50)
    run = meta_train(config, model=module, results=None, progress=False)
    losses = run.curve[run.curve["split"] == "test"]["loss"].tolist()
    assert losses[1] < 0.9 * losses[0]
    start = meta_train(
        sinusoid_config(tiny_config, iterations=0), model=module, results=None, progress=False, device="cpu"
    )
    for name, parameter in module.named_parameters():
        assert torch.equal(start.theta[name], parameter)
    assert run.curve["accuracy"].isna().all()  # regression has none


def test_training_is_that_of_the_same_model_of_ours(tiny_config):
    ours = meta_train(tiny_config(), results=None, progress=False)
    module = ours.blank_model()
    own = meta_train(tiny_config(model="own:lr"), model=module, results=None, progress=False)
    for name in ours.theta:
        torch.testing.assert_close(own.theta[name], ours.theta[name], rtol=1e-4, atol=1e-6)
    pd.testing.assert_frame_equal(own.curve, ours.curve, check_exact=False, rtol=1e-4)


def test_own_tasks_are_trained_on_and_a_missing_validation_split_is_not_measured(tiny_config):
    pools = {"train": episodes(8, dtype=torch.float32), "test": episodes(4, seed=1, dtype=torch.float32)}
    config = tiny_config(dataset="own:mine", model="own:net", method="maml", points=None)
    run = meta_train(config, model=Small(), tasks=pools, results=None, progress=False)
    assert set(run.curve["split"]) == {"train", "test"}
    assert run.tasks().sample("test", 4, 0).num_tasks == 4


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.first(x).tanh())


def test_a_saved_run_is_loaded_with_the_module_and_is_found_again(tiny_config, tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    module[1].running_mean.fill_(0.3)
    module.eval()
    config = sinusoid_config(tiny_config)
    run = meta_train(config, model=module, results=tmp_path, progress=False)
    other = copy.deepcopy(module)
    other[1].running_mean.zero_()
    loaded = load_run(run.path, model=other)
    part = run.tasks(seed=1).sample("test", 3, 0)
    pd.testing.assert_frame_equal(loaded.evaluate(part), run.evaluate(part))
    assert loaded.id == run.id
    assert list_runs(tmp_path)["status"].tolist() == ["ok"]
    again = meta_train(config, model=module, results=tmp_path, progress=False)
    assert again.info == loaded.info  # loaded, not repeated
    assert meta_train(config, model=other, results=tmp_path, progress=False).id != run.id


def test_seeds_are_trained_together_from_a_function_of_the_seed(tiny_config):
    def make(seed):
        torch.manual_seed(seed)
        return mlp()

    configs = [sinusoid_config(tiny_config, seed=seed) for seed in range(2)]
    together = meta_train_many(configs, model=make, results=None, progress=False)
    alone = meta_train(configs[1], model=make, results=None, progress=False)
    assert [run.info["trained_together"] for run in together] == [2, 2]
    for name in alone.theta:
        torch.testing.assert_close(together[1].theta[name], alone.theta[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({}, {}, "model 'own:mlp' is your own: pass it as model="),
        ({"model": "lr"}, {"model": nn.Linear(1, 1)}, "model= is given, but the configuration's model is 'lr'"),
        ({}, {"model": nn.Linear(1, 1), "tasks": episodes()}, "tasks= is given, but .* dataset is 'sinusoid'"),
        ({}, {"model": lambda seed: 3}, "a model of your own must be an nn.Module, not 3"),
        ({}, {"model": nn.Linear}, "model= must be an nn.Module, or a function of a seed that makes one, not <class"),
        ({"own": "0123"}, {"model": nn.Linear(1, 1)}, "began with another module, other weights or other tasks"),
        ({"depth": 3}, {"model": nn.Linear(1, 1)}, "model 'own:mlp' is your own: leave out depth"),
        ({"model": "own:a b"}, {}, r"unknown model 'own:a b'; known: cnn, linnet, lr, own:<name>"),
    ],
)
def test_what_does_not_fit_together_is_told(tiny_config, changes, given, message):
    settings = {"dataset": "sinusoid", "model": "own:mlp", "shots": 5, "points": None, **changes}

    def train():
        return meta_train(tiny_config(**settings), results=None, progress=False, **given)

    with pytest.raises(UserError, match=message):
        train()


def test_a_loaded_run_says_if_its_start_is_another(tiny_config, tmp_path):
    def make(seed):
        torch.manual_seed(seed)
        return mlp()

    run = meta_train(sinusoid_config(tiny_config, seed=3), model=make, results=tmp_path, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start = dict(run.blank_model().named_parameters())
        loaded = load_run(run.path, model=make)
        for name, parameter in loaded.blank_model().named_parameters():
            assert torch.equal(parameter, start[name]), name
        other = load_run(run.path, model=make(0))
        assert torch.equal(other.model[0].weight, run.theta["0.weight"])
    with pytest.warns(UserWarning, match=rf"training of {run.id} began with other weights than the model= that it was"):
        other.blank_model()


def test_loading_says_what_is_missing(tiny_config, tmp_path):
    config = sinusoid_config(tiny_config)
    run = meta_train(config, model=mlp(), results=tmp_path, progress=False)
    with pytest.raises(UserError, match="is a run of a module of your own, 'own:mlp': pass it as model="):
        load_run(run.path)
    with pytest.raises(UserError, match="theta lacks bias, weight, which model 'own:mlp' needs"):
        load_run(run.path, model=nn.Linear(1, 1))
    ours = meta_train(tiny_config(), results=tmp_path, progress=False)
    with pytest.raises(UserError, match=r"model= is given, but .* is a run with 'lr', which is none of your own"):
        load_run(ours.path, model=mlp())


def test_what_is_missing_of_own_tasks_is_told_when_they_are_asked_for(tiny_config, tmp_path):
    pools = {split: episodes(6, seed=i, dtype=torch.float32) for i, split in enumerate(("train", "test"))}
    config = tiny_config(dataset="own:mine", model="own:net", method="maml", points=None)
    run = meta_train(config, model=Small(), tasks=pools, results=tmp_path, progress=False)
    loaded = load_run(run.path, model=Small())
    with pytest.raises(UserError, match=r"the tasks of own.mine-own.net-.* are your own: load the run with tasks="):
        loaded.tasks()
    assert isinstance(load_run(run.path, model=Small(), tasks=pools).tasks().sample("test", 1), Episodes)


def with_dropout():
    return nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3))


def test_dropout_is_off_in_training_and_after_loading(tiny_config, tmp_path):
    pools = {split: episodes(6, seed=i, dtype=torch.float32) for i, split in enumerate(("train", "test"))}
    config = tiny_config(dataset="own:mine", model="own:net", method="maml", points=None)
    torch.manual_seed(0)
    module = with_dropout()
    run = meta_train(config, model=module, tasks=pools, results=tmp_path, progress=False)
    loaded = load_run(run.path, model=with_dropout(), tasks=pools)
    part = run.tasks().sample("test", 3, 0)
    for each in (run, loaded):
        pd.testing.assert_frame_equal(each.evaluate(part), run.evaluate(part))
    assert module[1].training  # the caller's is left as it was


def test_modes_of_a_module_tell_runs_apart():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    part = episodes(dtype=torch.float32)
    ids = {run_from_module(module.train(mode), part, steps=1, adapt_lr=0.1).id for mode in (True, False)}
    assert len(ids) == 2


def test_what_makes_something_else_each_time_is_refused(tiny_config):
    with pytest.raises(UserError, match="makes something else each time it is called"):
        meta_train(sinusoid_config(tiny_config), model=lambda seed: mlp(), results=None, progress=False)
    with pytest.raises(UserError, match="makes other episodes each time"):
        run_from_module(Small(), lambda split, n, generator: random_episodes(n), steps=1, adapt_lr=0.1)


def random_episodes(num_tasks):
    x = torch.randn(num_tasks, 9, 6)
    y = torch.arange(3).repeat(3).expand(num_tasks, -1)
    return Episodes(x, y, -x, y)


def test_other_tasks_are_not_those_of_a_run(tiny_config, tmp_path):
    pools = {split: episodes(6, seed=i, dtype=torch.float32) for i, split in enumerate(("train", "test"))}
    config = tiny_config(dataset="own:mine", model="own:net", method="maml", points=None)
    run = meta_train(config, model=Small(), tasks=pools, results=tmp_path, progress=False)
    others = {split: episodes(6, seed=2 + i, dtype=torch.float32) for i, split in enumerate(("train", "test"))}
    with pytest.raises(UserError, match=r"tasks= are not those of .*; for others, there is run.evaluate"):
        load_run(run.path, model=Small(), tasks=others)


def test_what_adapts_may_be_named_by_layers_of_ones_own():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    part = episodes(dtype=torch.float32)
    run = run_from_module(network, part, steps=1, adapt_lr=0.1, layers={"head": ["2.*", "4.*"]}, adapted=("head",))
    assert run.adapted == ("2.weight", "2.bias", "4.weight", "4.bias")


def test_a_network_with_too_few_outputs_is_told_at_once():
    with pytest.raises(UserError, match=r"Linear gives \(2,\) for an example, and the tasks have 3 classes"):
        run_from_module(nn.Linear(6, 2), episodes(dtype=torch.float32), steps=1, adapt_lr=0.1)


def test_regression_of_ours_has_no_ways():
    run = run_from_module(mlp(), make_tasks("sinusoid", shots=5), steps=1, adapt_lr=0.01)
    assert (run.config.ways, run.config.shots) == (None, 5)


class Attention(nn.Module):
    """Attention, and a recurrence, with dropout of their own."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True)
        self.recurrent = nn.LSTM(4, 5, num_layers=2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        tokens = self.encoder(x.repeat(1, 2).view(len(x), 3, 4))
        return self.head(self.recurrent(tokens)[0][:, -1])


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.filterwarnings("ignore:Attention cannot be mapped", "ignore:There is a performance drop")
def test_attention_and_recurrence_go_through_by_hand_and_to_second_order(mode, tiny_config):
    torch.manual_seed(0)
    module = Attention().train(mode)
    part = episodes(dtype=torch.float32)
    run = run_from_module(module, part, steps=1, adapt_lr=0.1)
    query = run.evaluate(part).query("split == 'query'")
    plain = copy.deepcopy(module).train()  # plain formulas, with gradients
    for layer in plain.modules():
        if isinstance(layer, nn.Dropout | nn.MultiheadAttention):
            layer.eval()
    plain.recurrent.dropout = 0.0
    for task in range(2):
        losses, _ = by_hand(copy.deepcopy(plain), part[task : task + 1], steps=1, lr=0.1)
        assert query[query["task"] == task]["loss"].tolist() == pytest.approx(losses, rel=1e-4)
    config = tiny_config(dataset="own:mine", model="own:net", method="maml", points=None, iterations=1, eval_tasks=1)
    pools = {"train": part, "test": episodes(seed=1, dtype=torch.float32)}
    trained = meta_train(config, model=module, tasks=pools, results=None, progress=False)
    assert trained.status == "ok"


def test_a_loaded_run_has_the_modes_that_it_was_trained_in(tiny_config, tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    pools = {split: episodes(6, seed=i, dtype=torch.float32) for i, split in enumerate(("train", "test"))}
    config = tiny_config(dataset="own:mine", model="own:net", method="maml", points=None)
    run = meta_train(config, model=module, tasks=pools, results=tmp_path, progress=False)
    loaded = load_run(run.path, model=copy.deepcopy(module).train(), tasks=pools)
    part = run.tasks().sample("test", 3, 0)
    pd.testing.assert_frame_equal(loaded.evaluate(part), run.evaluate(part))


def test_requires_grad_decides_nothing_and_that_is_said():
    module = Small()
    module.first.requires_grad_(False)
    with pytest.warns(UserWarning, match="requires_grad is off for first.weight, first.bias: they adapt and"):
        run_from_module(module, episodes(dtype=torch.float32), steps=1, adapt_lr=0.1)


def test_a_run_is_shown_in_a_line():
    run = run_from_module(Small(), episodes(dtype=torch.float32), steps=1, adapt_lr=0.1)
    assert repr(run) == f"Run({run.id!r}, 'ok', 43 parameters, path=None)"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear, "a model of your own must be an nn.Module, not <class"),
        (nn.LazyLinear(3), "weight has no shape yet: call the module once on an example"),
        (nn.Linear(6, 3, dtype=torch.complex64), "weight is of torch.complex64: only parameters of floating-point"),
        (nn.Linear(7, 3), r"Linear, with parameters of type float32, does not take support examples of shape \(6,\)"),
        (nn.Linear(6, 3).double(), "parameters of type float64, does not take support examples of .* type float32"),
    ],
)
def test_a_network_that_does_not_fit_is_told_of_in_a_sentence(network, message):
    with pytest.raises(UserError, match=message) as caught:
        run_from_module(network, episodes(dtype=torch.float32), steps=1, adapt_lr=0.1)
    assert "\n" not in str(caught.value)


def test_an_argument_that_there_is_not_is_told():
    for name, value in (("weigths", {}), ("iterations", 5)):
        with pytest.raises(UserError, match=rf"unknown argument '{name}'; known: adapt_lr, .*rule_depth, .*weights"):
            run_from_module(nn.Linear(6, 3), episodes(dtype=torch.float32), steps=1, adapt_lr=0.1, **{name: value})
    part, layers = episodes(dtype=torch.float32), {"head": "weight"}
    with pytest.raises(UserError, match="adapted must be a list of words, got 'head'"):
        run_from_module(nn.Linear(6, 3), part, steps=1, adapt_lr=0.1, adapted="head", layers=layers)


def empty_query(part):
    return Episodes(part.support_x, part.support_y, part.query_x[:, :0], part.query_y[:, :0])


@pytest.mark.parametrize("change", [lambda part: part[:0], empty_query], ids=["no task", "no query"])
def test_empty_episodes_are_refused(change):
    part = episodes(dtype=torch.float32)
    with pytest.raises(UserError, match="episodes are empty: "):
        run_from_module(nn.Linear(6, 3), change(part), steps=1, adapt_lr=0.1)
    run = run_from_module(nn.Linear(6, 3), part, steps=1, adapt_lr=0.1)
    with pytest.raises(UserError, match="episodes are empty: "):
        run.evaluate(change(part))


def test_a_function_that_takes_something_else_is_told_what_it_is_given():
    with pytest.raises(UserError, match=r"is called with \(split, num_tasks, generator\)"):
        run_from_module(nn.Linear(6, 3), lambda: episodes(), steps=1, adapt_lr=0.1)


def with_norm(**options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, **options), nn.Linear(4, 3)).eval()


def test_a_module_with_other_buffers_than_the_runs_is_refused(tiny_config, tmp_path):
    config = tiny_config(
        dataset="own:tasks", model="own:net", method="maml", points=None, iterations=1, tasks_per_iteration=2,
        eval_tasks=2,
    )  # fmt: skip
    pools = {"train": episodes(4, dtype=torch.float32), "test": episodes(4, seed=1, dtype=torch.float32)}
    run = meta_train(config, model=with_norm(), tasks=pools, results=tmp_path, progress=False, device="cpu")
    load_run(run.path, model=with_norm(), tasks=pools)
    with pytest.raises(UserError, match=r"buffers has 1.num_batches_tracked, 1.running_mean, 1.running_var"):
        load_run(run.path, model=with_norm(track_running_stats=False), tasks=pools)


def test_buffers_that_are_not_saved_must_not_differ_by_seed(tiny_config):
    def make(seed):
        network = nn.Linear(6, 3)
        network.register_buffer("features", torch.full((2,), float(seed)), persistent=False)
        nn.init.zeros_(network.weight)
        nn.init.zeros_(network.bias)
        return network

    configs = [
        tiny_config(
            dataset="own:tasks", model="own:net", method="maml", points=None, iterations=1, tasks_per_iteration=2,
            eval_tasks=2, seed=seed,
        )
        for seed in (0, 1)
    ]  # fmt: skip
    pools = {"train": episodes(4, dtype=torch.float32), "test": episodes(4, seed=1, dtype=torch.float32)}
    with pytest.raises(UserError, match="other buffers for other seeds"):
        meta_train_many(configs, model=make, tasks=pools, results=None, progress=False, device="cpu")


def test_a_module_that_computes_something_else_is_another(tiny_config, tmp_path):
    """Weights, names and shapes are those of a run that is there."""

    def network(activation):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 8), activation, nn.Linear(8, 1))

    config = sinusoid_config(tiny_config, iterations=2)
    run = meta_train(config, model=network(nn.ReLU()), results=tmp_path, progress=False, device="cpu")
    again = meta_train(config, model=network(nn.ReLU()), results=tmp_path, progress=False, device="cpu")
    assert torch.equal(again.theta["0.weight"], run.theta["0.weight"])
    with pytest.raises(UserError, match=r"computes something else, .*model='own:<name>'"):
        meta_train(config, model=network(nn.Tanh()), results=tmp_path, progress=False, device="cpu")
    with pytest.warns(UserWarning, match="may compute something else"):
        load_run(run.path, model=network(nn.Tanh()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_run(run.path, model=network(nn.ReLU()))
    tasks = make_tasks("sinusoid", shots=5)
    ids = [run_from_module(network(kind()), tasks, steps=1, adapt_lr=0.1).id for kind in (nn.ReLU, nn.ReLU, nn.Tanh)]
    assert ids[0] == ids[1] != ids[2]


def test_networks_of_ours_are_known_as_earlier_versions_knew_them():
    """By digests that an earlier version made."""
    assert module_digest(CNN(1, 5)) == "58e216b77e9d773a5abfb74528ad463d"
    other = CNN(3, 5, depth=2, downsample="max_pool", norm_mode="instance")
    assert module_digest(other) == "bf1f18b4107fd22a3075d4f57f108b1a"


def test_functions_in_a_module_do_not_make_it_another_in_each_process():
    class Called(nn.Module):
        def extra_repr(self):
            return repr(lambda x: x)

    assert module_digest(Called()) == module_digest(Called())
    assert module_digest(Called()) != module_digest(nn.Sequential(Called()))


def test_regression_on_zeros_and_ones_is_no_binary_task():
    part = episodes(dtype=torch.float32)
    y = (part.support_y > 0).float()
    regression, binary = (
        as_tasks(Episodes(part.support_x, y, part.query_x, y, kind)).fingerprint() for kind in ("regression", "binary")
    )
    assert regression != binary


def test_tasks_of_ours_tell_their_points(tmp_path):
    source = make_tasks("synthetic", points=20)
    run = run_from_module(nn.Sequential(nn.Linear(100, 1)), source, steps=1, adapt_lr=0.1)
    assert (run.config.ways, run.config.points) == (None, 20)
    assert run.evaluate(source.sample("test", 2, 0)).attrs["differs"] == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8])
def test_a_model_of_ours_on_own_tasks_of_another_type_leaves_no_run(tiny_config, tmp_path, dtype):
    def change(x):
        return (50 * x + 128).to(dtype)

    made = make_tasks("synthetic", points=7)
    pools = {split: made.sample(split, 4, 0) for split in ("train", "test")}
    pools = {
        split: Episodes(change(part.support_x), part.support_y, change(part.query_x), part.query_y, part.kind, True)
        for split, part in pools.items()
    }
    config = tiny_config(dataset="own:mine", points=None, eval_tasks=2)
    with pytest.raises(UserError, match=r"float64|uint8"):
        meta_train(config, tasks=pools, results=tmp_path, progress=False, device="cpu")
    assert not list(tmp_path.glob("runs/*/config.json"))


def test_training_without_tasks_to_train_on_leaves_no_run(tiny_config, tmp_path):
    part = make_tasks("synthetic", points=7).sample("test", 4, 0)
    config = tiny_config(dataset="own:mine", points=None, eval_tasks=2)
    with pytest.raises(UserError, match="no train episodes of own:tasks to train on, only test"):
        meta_train(config, tasks=part, results=tmp_path, progress=False, device="cpu")
    assert not list(tmp_path.glob("runs/*/config.json"))


def test_a_module_that_keeps_its_precision_is_told_before_there_is_a_run(tiny_config, tmp_path):
    config = sinusoid_config(tiny_config, inner_dtype="bfloat16")
    module = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    with pytest.raises(UserError, match="cannot be computed in"):
        meta_train(config, model=module, results=tmp_path, progress=False, device="cpu")
    assert not list(tmp_path.glob("runs/*/config.json"))


class Counting(TaskSource):
    """A source of tasks as a user may write one: neither hashable, nor with a torch.device."""

    __hash__ = None
    kind = "binary"
    name = "own:counting"
    num_outputs = 1
    example_shape = (100,)
    device = "cpu"

    def __init__(self, seed=0):
        self.seed = seed

    def draw(self, split, num_tasks, index):
        return make_tasks("synthetic", points=7, seed=self.seed).sample(split, num_tasks, index)

    def fingerprint(self):
        return "0123456789abcdef"


def test_a_source_of_ones_own_trains(tiny_config):
    config = tiny_config(dataset="own:mine", points=None, iterations=2)
    assert meta_train(config, tasks=Counting(), results=None, progress=False, device="cpu").status == "ok"


def test_own_episodes_are_looked_through_once(tiny_config, monkeypatch):
    made = make_tasks("synthetic", points=7)
    pools = {split: made.sample(split, 4, 0) for split in ("train", "test")}
    looked = []
    digest = own._add
    monkeypatch.setattr(own, "_add", lambda *given: looked.append(1) or digest(*given))
    configs = [tiny_config(dataset="own:mine", points=None, eval_tasks=2, iterations=1, seed=s) for s in range(3)]
    meta_train_many(configs, tasks=pools, results=None, progress=False, device="cpu")
    assert len(looked) == 2  # a pool each


def test_half_precision_gives_losses_in_single_precision_for_whole_numbers_as_examples():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Flatten(1), nn.Linear(8, 3))
    theta = {name: p.detach() for name, p in model.named_parameters()}
    x, y = torch.randint(6, (2, 5, 2)), torch.randint(3, (2, 5))
    rule = make_optimizer("sgd")
    loss, _ = meta_gradient(
        model, rule, theta, rule.init(theta), Episodes(x, y, x, y), steps=1, lr=0.1, first_order=False,
        dtype=torch.bfloat16,
    )  # fmt: skip
    assert loss.dtype == torch.float32
