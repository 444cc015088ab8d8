"""A user's own network, and a user's own tasks, as a run."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bounds import Refused
from bounds.tensors import check_safetensors, check_torch
from bounds.words import one_line
from core.adaptation import explained
from core.config import OWN, RULE_FIELDS, TASK_FIELDS, TrainConfig, is_own
from core.errors import UserError, unknown_name
from core.forward import check_forward, without_dropout
from core.inner_loop import LrScope
from core.methods import METHODS
from core.models.layers import Groups, layers_of, select
from core.modules import OwnModel, check_module, fresh_module, not_random, reinitialised, warn_of_frozen
from core.optimizers.base import check_tensors
from core.runs import Run, buffers_of, curve_table, environment, module_digest, modules_in_training
from core.tasks import DATASETS, as_tasks
from core.tasks.base import Episodes, TaskSource, bytes_of
from core.tasks.own import MakeEpisodes
from core.version import code_version

OwnTasks = TaskSource | Episodes | Mapping[str, Episodes] | MakeEpisodes
Weights = str | Path | Mapping[str, Tensor]


def run_from_module(
    module: nn.Module,
    tasks: OwnTasks,
    *,
    steps: int,
    adapt_lr: float,
    weights: Weights | None = None,
    initial: Weights | None = None,
    layers: Groups | None = None,
    adapted: tuple[str, ...] | None = None,
    method: str = "maml",
    xi: Mapping[str, Tensor] | None = None,
    lr_scope: LrScope = "both",
    name: str | None = None,
    seed: int = 0,
    **rule_options: Any,
) -> Run:
    """A network that was trained elsewhere, as a run: what `evaluate`, `intervene` and the studies take.

    The run has a copy of the module, in the mode that the module is in: batch normalisation in training mode uses the
    statistics of the batch at hand, in evaluation mode its running ones, and neither changes them. Dropout is turned
    off in the copy. Everything else about a network is taken from its `forward`, parameters and buffers.

    Args:
        module: a module for one task, called on (examples, *example).
        tasks: its tasks: episodes, episodes by split, a function that makes them, or a source (`core.make_tasks`); see
            `core.tasks.own`.
        steps: adaptation steps within a task.
        adapt_lr: adaptation learning rate.
        weights: parameters and buffers in place of the module's: a state dict, or a file of one (`load_weights`).
        initial: those that its training began with, where they are known: `reset` and `similarity` compare with them.
            By default a random network, by each layer's own `reset_parameters`; what no layer resets in this way, such
            as a class token, keeps its value there, and they warn of it.
        layers: names for groups of parameters, `{"head": "fc.*"}`; by default what holds parameters at the top level.
        adapted: layers, parameters or globs of what adapts within a task; by default what the method says (the head of
            ANIL and BOIL is the last layer by the parameters' names, whatever `layers` says).
        method: name in `core.methods.METHODS`, which says what the update is; `rule_options` are its configuration's,
            such as `rule_depth`.
        xi: parameters of the method's rule; by default at their start.
        lr_scope: what `adapt_lr` scales, see `InnerLoop`.
        name: what to call the network in tables, a word; by default the class of the module.
        seed: seed of the tasks, and of the random network that is compared with.

    Returns:
        A run, trained for 0 iterations here. Its id ends in a digest of the weights, the tasks and the settings.

    Raises:
        UserError: for settings, names, shapes or files that do not fit together.
    """
    check_module(module)
    if unknown := rule_options.keys() - RULE_FIELDS.keys():
        *known, _ = inspect.signature(run_from_module).parameters
        raise unknown_name("argument", min(unknown), [*known, *RULE_FIELDS])
    copy = without_dropout(_with_weights(deepcopy(module), weights))
    warn_of_frozen(copy)
    blank = reinitialised(copy, seed) if initial is None else _with_weights(deepcopy(copy), initial)
    theta = {key: parameter.detach().clone() for key, parameter in copy.named_parameters()}
    if not theta:
        raise UserError(f"{type(module).__name__} has no parameters that could adapt")
    device = next(iter(theta.values())).device
    source = as_tasks(tasks, seed=seed, device=device)
    check_own(copy, source)
    is_ours = source.name in DATASETS
    config = TrainConfig(
        dataset=source.name if is_ours else f"{OWN}tasks",
        model=f"{OWN}{name or type(module).__name__}",
        method=method,
        steps=steps,
        adapt_lr=adapt_lr,
        first_order=METHODS[method].first_order if method in METHODS else False,
        meta_optimizer="sgd",
        meta_lr=0.0,
        iterations=0,
        tasks_per_iteration=1,
        seed=seed,
        lr_scope=lr_scope,
        adapted=adapted,
        **(_options_of(source) if is_ours else {}),
        **rule_options,
    )
    states = [theta, buffers_of(copy), dict(xi or {})]
    words = [", ".join(modules_in_training(copy)), module_digest(copy)]
    # What studies of it hang on beside; only where it is given, so that other runs keep their ids.
    if initial is not None:
        states.append(dict(blank.state_dict()))
    if layers is not None:
        named = layers_of(theta, layers)
        words.append(json.dumps(list(named.items())))
        if config.adapted is not None:
            config = replace(config, adapted=select(list(theta), config.adapted, named))
    config = replace(config, own=_digest(states, words, source))
    rule = config.make_rule()
    xi = rule.init(theta) if xi is None else {key: tensor.detach().to(device) for key, tensor in xi.items()}
    rule.check(theta, xi)
    info = {
        **environment(device),
        "code_version": code_version("core"),
        "example_shape": list(source.example_shape),
        "num_outputs": source.num_outputs,
        "dataset_fingerprint": source.fingerprint(),
    }
    if initial is None and (kept := not_random(copy)):
        info["not_random"] = kept
    run = Run(config, theta, xi, curve_table(), "ok", info, blank=blank, source=source, buffers=buffers_of(copy))
    run.adapted  # noqa: B018  # a misspelt layer is told now
    return run if layers is None else run.with_layers(layers)


def _options_of(source: TaskSource) -> dict[str, Any]:
    """The options of `make_tasks` that make these tasks of one of our data sets; sizes, and what is no default."""
    accepted = inspect.signature(DATASETS[source.name]).parameters
    options = {name: getattr(source, name) for name in TASK_FIELDS if name in accepted}
    # These two depend on other options by default.
    if options.get("query_shots") == options.get("shots"):
        options.pop("query_shots", None)
    if options.get("input_scale") == source.example_shape[0] ** -0.5:
        options.pop("input_scale", None)
    sizes = ("ways", "shots", "points")
    return {name: value for name, value in options.items() if name in sizes or value != accepted[name].default}


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a PyTorch file (.pt, .pth) of a state dict, by name.

    A PyTorch file is read with `weights_only=True`: nothing in it is carried out. Of one that holds a state dict among
    other things, as checkpoints do, the one mapping of names to tensors in it is taken.

    Raises:
        UserError: if the file is missing, damaged, beyond `bounds`, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist, or is no file")
    if path.suffix == ".safetensors":
        try:
            check_safetensors(path)
            return load_file(path)
        except Refused as error:
            raise UserError(str(error)) from error
        except (SafetensorError, OSError, RuntimeError, OverflowError) as error:
            raise UserError(f"{path} is damaged, or no safetensors file: {one_line(error)}") from error
    try:
        check_torch(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Refused as error:
        raise UserError(str(error)) from error
    except Exception as error:  # a damaged pickle fails in whatever its bytes happen to say
        raise UserError(f"{path} is damaged, or no file of PyTorch: {one_line(error)}") from error
    if _is_state_dict(found):
        return dict(found)
    inside = [value for value in found.values() if _is_state_dict(value)] if isinstance(found, dict) else []
    if len(inside) != 1:
        raise UserError(f"{path} holds {len(inside)} state dicts, not one; load it yourself, and give the state dict")
    return dict(inside[0])


def check_own(module: nn.Module, source: TaskSource) -> None:
    """See that a module suits tasks, before the first minute of work.

    Raises:
        UserError: as `check_forward`, and if it does not take the examples.
    """
    part = source.with_seed(source.seed).sample(source.splits[-1], 1, 0)
    with explained(module, dict(module.named_parameters()), part):
        check_forward(module, part.support_x, source.num_outputs if source.kind == "classification" else 0)


def identified(config: TrainConfig, model: OwnModel | None, tasks: OwnTasks | None) -> TrainConfig:
    """The configuration with a digest of what its `own:` names stand for.

    Raises:
        UserError: if it names something that is not given, or something is given that it does not name, or what is
            given is not what a run began with.
    """
    for kind, name, given in (("model", config.model, model), ("tasks", config.dataset, tasks)):
        field = "dataset" if kind == "tasks" else kind
        if is_own(name) and given is None:
            raise UserError(f"{field} {name!r} is your own: pass it as {kind}=")
        if not is_own(name) and given is not None:
            raise UserError(f"{kind}= is given, but the configuration's {field} is {name!r}; call it {OWN}<name> there")
    if model is None and tasks is None:
        return config
    digest, again = (own_digest(config.seed, model, tasks) for _ in range(2))
    if digest != again:
        raise UserError(
            "the function of a seed, or of a generator, makes something else each time it is called: let all its "
            "randomness come from what it is given"
        )
    if config.own not in (None, digest):
        raise UserError(f"run {config.id} began with another module, other weights or other tasks than are given here")
    return replace(config, own=digest)


def own_digest(seed: int, model: OwnModel | None, tasks: OwnTasks | None) -> str:
    """Digest of a module with its parameters, buffers and modes, and of tasks."""
    modules = [] if model is None else [fresh_module(model, seed)]
    states = [dict(module.state_dict()) for module in modules]
    modes = [", ".join(modules_in_training(module)) for module in modules]
    where = getattr(tasks, "device", "cpu")  # a source delivers where it does
    return _digest(states, modes, None if tasks is None else as_tasks(tasks, seed=seed, device=where))


def _digest(states: list[dict[str, Tensor]], modes: list[str], source: TaskSource | None) -> str:
    digest = hashlib.blake2b("; ".join(modes).encode(), digest_size=8)
    for state in states:
        for name, tensor in sorted(state.items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(bytes_of(tensor))
    if source is not None:
        digest.update(source.fingerprint().encode())
    return digest.hexdigest()


def _with_weights(module: nn.Module, weights: Weights | None) -> nn.Module:
    """The module itself, with these parameters and buffers."""
    if weights is None:
        return module
    state = dict(weights) if isinstance(weights, Mapping) else load_weights(weights)
    what = "the state dict" if isinstance(weights, Mapping) else str(weights)
    own = module.state_dict()
    check_tensors(what, state, {name: tensor.shape for name, tensor in own.items()}, type(module).__name__)
    module.load_state_dict(state)
    return module


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
