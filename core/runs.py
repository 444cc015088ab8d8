"""Saved runs: one folder for each meta-trained model, with no pickle in it.

config.json           the configuration, written first
state.safetensors     while it trains: everything needed to go on (see `core.group`)
weights.safetensors   theta and xi, at the end
curve.parquet         loss and accuracy along training
run.json              written last: the run is finished, and how
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bounds import Refused
from bounds.parquet import read_table
from bounds.tensors import check_safetensors
from bounds.text import parse_json
from bounds.words import listed, one_line, shown, told
from core.config import TrainConfig, is_own
from core.device import checked_device
from core.errors import UserError, unknown_name
from core.evaluation import evaluate
from core.files import read_json, write_atomically, write_json
from core.locks import LOCK
from core.models import make_model
from core.models.layers import Groups, layers_of
from core.modules import OwnModel, fresh_module
from core.optimizers import MetaOptimizer
from core.optimizers.base import check_tensors
from core.tasks import TaskSource, as_tasks, make_tasks
from core.tasks.base import Episodes, TaskShape, bytes_of
from core.tasks.synthetic import POINTS
from core.version import command_line

FORMAT = 1
UNREADABLE = "unreadable"
CURVE_COLUMNS = {"iteration": "int64", "split": "str", "loss": "float64", "accuracy": "float64", "num_tasks": "int64"}


def curve_table(rows: Sequence[Sequence[Any]] = ()) -> pd.DataFrame:
    """A run's curve of these rows, each a value of every column."""
    return pd.DataFrame(list(rows), columns=list(CURVE_COLUMNS)).astype(CURVE_COLUMNS)


@dataclass(repr=False, eq=False)  # tensors have no one truth; a run is itself, and can be a key
class Run:
    """A finished meta-trained model.

    Attributes:
        config: what it is.
        theta: initial parameters of the model, by name.
        xi: parameters of the rule, by name.
        curve: table along training: `iteration` (iterations done), `split`, `loss` and `accuracy` on the query set
            after adaptation (means over `num_tasks` tasks).
        status: "ok", or "diverged at iteration <i>": the meta-loss of iteration i, counted from 0, was not finite;
            theta and xi are those that gave it. Or, with i the number of iterations: they are all done, and what is
            left measures nothing, as the last meta-loss exploded (see `core.evaluate`) or a weight is not finite.
        info: where it comes from, as in run.json; runs of older versions have fewer entries. Device, threads, packages,
            `command`, `code_version`, `compile` and `tasks_per_chunk` (None: all at once) are those of the process that
            finished it. `wall_seconds` is time by the clock in the `iterations_done` iterations: meta-gradients, their
            compilation included, and outer steps. Neither drawing tasks nor measuring the curve nor saving is in it,
            nor iterations that were lost when a process was killed. It is the time of all runs that were trained as
            one (`trained_together`, counted at the end), not each one's share; on a GPU the last outer step's tail is
            not waited for. `processes` is how many shared the tasks of an iteration. Of a module of the user's own,
            `module` is its `module_digest`, and `start` the `start_digest`; `not_random` names parameters that
            `blank` has from the trained network, where it should be a random one. `convolutions_in_tf32` is there of
            GPUs.
        path: its folder, None if it was not saved.
        root: folder of the data set's files, where `tasks` looks for them; None: as `make_tasks`. It is not saved.
        blank: a module of the user's own as training began with it, or of a loaded run the one that was given; None
            for a model of ours. It is not saved.
        source: tasks of the user's own; None for those of a data set of ours. They are not saved.
        buffers: those of a module of the user's own, by name; training does not change them.
        groups: other layers than `core.models.layers.layers_of` finds by name, see there.
    """

    config: TrainConfig
    theta: dict[str, Tensor]
    xi: dict[str, Tensor]
    curve: pd.DataFrame
    status: str
    info: dict[str, Any]
    path: Path | None = None
    root: str | Path | None = None
    blank: nn.Module | None = None
    source: TaskSource | None = None
    buffers: dict[str, Tensor] = field(default_factory=dict)
    groups: Groups | None = None

    def __repr__(self) -> str:
        numbers = sum(tensor.numel() for tensor in self.theta.values())
        return f"Run({self.id!r}, {self.status!r}, {numbers:,} parameters, path={self.path})"

    @property
    def id(self) -> str:
        """Its name, which is that of its folder."""
        return self.config.id

    @property
    def diverged(self) -> bool:
        """Whether a meta-loss was not finite, or nothing finite is left; see `status`."""
        return self.status.startswith("diverged")

    @cached_property
    def rule(self) -> MetaOptimizer:
        """The meta-optimizer."""
        return self.config.make_rule()

    @cached_property
    def adapted(self) -> tuple[str, ...] | None:
        """The parameters that adapted within a task in training, None for all."""
        return self.config.adapted_of(list(self.theta))

    @cached_property
    def layers(self) -> dict[str, list[str]]:
        """The names of the parameters of each layer, first to last."""
        return layers_of(self.theta, self.groups)

    def with_layers(self, groups: Groups) -> "Run":
        """The same run with layers by other names, or other layers: `{"body": ["C1", "C2"], "head": "FC.*"}`.

        Raises:
            UserError: as `core.models.layers.layers_of`.
        """
        layers_of(self.theta, groups)
        return replace(self, groups=dict(groups))

    @cached_property
    def model(self) -> nn.Module:
        """The module for one task, with `theta` loaded."""
        model = self._blank()
        model.load_state_dict({**self.theta, **self.buffers}, strict=self.blank is None)  # tied weights have two names
        return model.to(next(iter(self.theta.values())).device)

    def blank_model(self) -> nn.Module:
        """The module for one task as training began with it; warns if what is there of the user's own is not that."""
        if self.blank is not None and self.info.get("start") not in (None, start_digest(self.blank)):
            warnings.warn(
                f"training of {self.id} began with other weights than the model= that it was loaded with has, and the "
                "latter are compared with: load it with the module, or function of a seed, that it was trained from",
                stacklevel=3,
            )
        if kept := self.info.get("not_random"):
            warnings.warn(
                f"the random network that is compared with has the trained {listed(kept)}, as no layer has a "
                "reset_parameters() for them: initial= is the better comparison",
                stacklevel=3,
            )
        return self._blank()

    def _blank(self) -> nn.Module:
        if self.blank is not None:
            return deepcopy(self.blank)
        # The shape is stored with the run, so that a model loads where its data set is not at hand.
        shape = TaskShape(tuple(self.info["example_shape"]), self.info["num_outputs"])
        return make_model(self.config.model, shape, seed=self.config.seed, **self.config.model_options())

    def tasks(self, *, seed: int | None = None, root: str | Path | None = None, **changes: Any) -> TaskSource:
        """The tasks that it was trained on, or with `changes` of their options.

        Args:
            seed: seed of the tasks; by default the run's own.
            root: folder of the data set's files; by default the run's own, see `make_tasks`.
            changes: options that differ from the run's, such as `same_points=False`.

        Raises:
            UserError: for an option that the data set does not have, any of tasks that were given as they are, or files
                that are not found.
        """
        device = next(iter(self.theta.values())).device
        if self.source is not None:
            if changes:
                words = ", ".join(changes)
                raise UserError(f"the tasks of {self.id} were given as they are: {words} cannot be changed")
            return self.source.with_seed(self.config.seed if seed is None else seed)
        if is_own(self.config.dataset):
            raise UserError(f"the tasks of {self.id} are your own: load the run with tasks=")
        options = {**self.config.task_options(), **changes}
        return make_tasks(
            self.config.dataset,
            seed=self.config.seed if seed is None else seed,
            root=self.root if root is None else root,
            device=device,
            **options,
        )

    def evaluate(self, episodes: Episodes, **changes: Any) -> pd.DataFrame:
        """`core.evaluate` on this run, adapted as in training but for `changes` (steps, lr, lr_scope, adapted).

        Returns:
            As `core.evaluate`. What is measured otherwise than it was trained (steps, adapt_lr, lr_scope, adapted;
            ways, shots or points of the episodes, the shape of an example; modes of a module of one's own) is named by
            two more columns each, such as `trained_steps` and `measured_steps`; `.attrs["differs"]` has {name:
            (trained, measured)}.

        Raises:
            UserError: as `evaluate`, or for a change of anything else.
        """
        config = self.config
        options: dict[str, Any] = {
            "steps": config.steps,
            "lr": config.adapt_lr,
            "lr_scope": config.lr_scope,
            "adapted": self.adapted,
        }
        known = (*options, "tasks_per_chunk")
        if unknown := sorted(changes.keys() - set(known)):
            raise unknown_name("change", unknown[0], known)
        options |= changes
        table = evaluate(self.model, self.rule, self.theta, self.xi, episodes, **options)
        differs = self._differs(episodes, options)
        for name, (trained, measured) in differs.items():
            table[f"trained_{name}"], table[f"measured_{name}"] = trained, measured
        table.attrs["differs"] = differs
        return table

    def _differs(self, episodes: Episodes, options: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What was trained and what is measured, where the two differ; a number, or words, each."""
        config = self.config
        every = list(self.theta)

        def words(adapted: Sequence[str] | None) -> str:
            return ", ".join(name for name in every if adapted is None or name in adapted)

        found: dict[str, tuple[Any, Any]] = {
            "steps": (config.steps, options["steps"]),
            "adapt_lr": (config.adapt_lr, options["lr"]),
            "lr_scope": (config.lr_scope, options["lr_scope"]),
            "adapted": (words(self.adapted), words(options["adapted"])),
        }
        num_examples, ways = episodes.support_x.shape[1], episodes.num_classes()
        if config.ways is not None:
            found["ways"] = config.ways, ways
        if config.shots is not None:
            found["shots"] = config.shots, num_examples / max(ways, 1)
        if config.dataset == "synthetic":
            found["points"] = POINTS if config.points is None else config.points, num_examples
        if "example_shape" in self.info:
            trained_shape, measured_shape = self.info["example_shape"], episodes.support_x.shape[2:]
            found["example_shape"] = " x ".join(map(str, trained_shape)), " x ".join(map(str, measured_shape))
        if "modules_in_training" in self.info:
            trained, measured = self.info["modules_in_training"], modules_in_training(self.model)
            found["modules_in_training"] = ", ".join(trained), ", ".join(measured)
        return {name: (trained, measured) for name, (trained, measured) in found.items() if trained != measured}


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that a state dict has: what a network is beside its parameters."""
    names = dict(module.named_parameters(remove_duplicate=False)).keys()
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items() if name not in names}


def modules_in_training(module: nn.Module) -> list[str]:
    """Names of the parts of a module that are in training mode: batch normalisation there is another function."""
    return [name for name, part in module.named_modules() if part.training]


def module_digest(module: nn.Module) -> str:
    """Digest of what a module is beside its weights: the words that print it, and buffers that no state dict has.

    What only its code says, such as an activation called by name, is not in it.
    """
    saved = module.state_dict().keys()
    others = {name: tensor for name, tensor in module.named_buffers() if name not in saved}
    words = re.sub(r" at 0x[0-9a-f]+", "", repr(module))  # of functions: where they lie is another place each time
    return _digest(words, {name: tensor.cpu() for name, tensor in others.items()})


def start_digest(module: nn.Module) -> str:
    """Digest of the weights that training begins with."""
    return _digest("", {name: parameter.detach().cpu() for name, parameter in module.named_parameters()})


def is_other_module(folder: Path, module: nn.Module) -> bool:
    """Whether the finished run in `folder` says that it is of a module that computes something else.

    Raises:
        UserError: for a damaged file.
    """
    return _checked_format(folder / "run.json").get("module") not in (None, module_digest(module))


def environment(device: torch.device) -> dict[str, Any]:
    """The machine, the versions and the command behind a result."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    tf32 = {"convolutions_in_tf32": torch.backends.cudnn.allow_tf32} if device.type == "cuda" else {}
    return {
        "device": name,
        **tf32,
        "threads": torch.get_num_threads(),
        "packages": {"torch": torch.__version__, "pandas": pd.__version__},
        "command": command_line(),
    }


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors and JSON metadata as one safetensors file, whole or not at all.

    Raises:
        UserError: if the file cannot be written.
    """
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    words = json.dumps(metadata, sort_keys=True)
    text = {"adaptlens": words, "digest": _digest(words, plain)}
    # Not by `save_file`, which has a temporary file of its own, and leaves that where it is killed.
    write_atomically(path, lambda temporary: temporary.write_bytes(save(plain, metadata=text)))


def load_tensors(path: Path, device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote.

    Raises:
        UserError: if the file is missing, truncated, not what was written (older versions wrote no digest), not ours,
            or beyond `bounds`.
    """
    try:
        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            text = file.metadata() or {}
            metadata = parse_json(text["adaptlens"], "its metadata")
        if not isinstance(metadata, dict):
            raise ValueError("its metadata are no object of JSON")
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, KeyError, ValueError, OSError, RuntimeError, OverflowError) as error:
        raise UserError(told(path, "is damaged, or no file of adaptlens", error)) from error
    if text.get("digest", "") not in ("", _digest(text["adaptlens"], tensors)):
        raise UserError(f"{path} is damaged: it is not what was written")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, metadata


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Digest of a text, and of tensors on the CPU with their names, types and shapes."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def _digest_of_file(path: Path) -> str:
    """Digest of what is in a small file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def save_run(run: Run, results: Path) -> Path:
    """Write a finished run under `results`/runs, `run.json` last; returns its folder.

    Raises:
        UserError: if a file cannot be written.
    """
    folder = results / "runs" / run.id
    write_config(run.config, folder)
    parts = {"theta": run.theta, "xi": run.xi, "buffer": run.buffers}
    tensors = {f"{kind}.{name}": tensor for kind, part in parts.items() for name, tensor in part.items()}
    save_tensors(folder / "weights.safetensors", tensors, {"format": FORMAT, "id": run.id})
    write_atomically(
        folder / "curve.parquet",
        lambda temporary: run.curve.to_parquet(temporary, index=False, write_page_checksum=True),
    )
    # So that a curve is known to be this run's.
    curve_digest = _digest_of_file(folder / "curve.parquet")
    content = {"format": FORMAT, "status": run.status, **run.info, "curve_digest": curve_digest}
    write_json(folder / "run.json", {**content, "digest": _digest(json.dumps(content, sort_keys=True), {})})
    tidy(folder)
    return folder


def tidy(folder: Path) -> None:
    """Remove what nothing reads of a finished run, its state and its lock; where that fails, they stay."""
    for name in ("state.safetensors", LOCK):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def write_config(config: TrainConfig, folder: Path) -> None:
    """Write config.json into the run's folder.

    Raises:
        UserError: if it cannot be written.
    """
    write_json(folder / "config.json", {"format": FORMAT, "id": config.id, "config": asdict(config)})


def read_config(folder: Path) -> TrainConfig:
    """The configuration of the run in `folder`, finished or not.

    Raises:
        UserError: if the folder is no run, or was written by a version that is not understood.
    """
    if not os.path.exists(folder / "config.json"):  # unlike `Path.exists` no error for a folder that is closed to us
        if os.path.lexists(folder):
            raise UserError(f"{folder} is no run: it has no config.json")
        raise _no_such_folder(folder)
    text = _checked_format(folder / "config.json")
    if not isinstance(text.get("config"), dict):
        raise UserError(f"{folder / 'config.json'} has no configuration in it")
    try:
        config = TrainConfig.from_dict(text["config"])
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error
    if text.get("id", config.id) != config.id:
        raise UserError(
            f"{folder / 'config.json'} is damaged: its settings are those of {config.id}, not {shown(text['id'])}"
        )
    return config


def _checked_format(path: Path) -> dict[str, Any]:
    text = read_json(path)
    check_format(path, text.get("format") if isinstance(text, dict) else None)
    # config.json has none: there the run's id is the digest; nor have files of older versions.
    digest = text.pop("digest", None)
    if digest not in (None, _digest(json.dumps(text, sort_keys=True), {})):
        raise UserError(f"{path} is damaged: it is not what was written")
    return dict(text)


def check_format(path: Path, found: Any) -> None:
    """See that the format `found` in a file of a run is one that this version reads.

    Raises:
        UserError: if it is not; the sentence says whether a newer version wrote the file.
    """
    if found != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        words = f"this version of adaptlens reads format {FORMAT}{', and a newer one wrote the file' if newer else ''}"
        raise UserError(f"{path} has format {shown(found)}; {words}")


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` is complete."""
    return os.path.exists(folder / "run.json")


def is_whole(folder: Path) -> bool:
    """Whether it is finished and no file of it is missing; what is in the files is seen by those who read them."""
    files = ("config.json", "weights.safetensors", "curve.parquet")
    return is_finished(folder) and all(os.path.exists(folder / name) for name in files)


def load_run(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    root: str | Path | None = None,
    model: OwnModel | None = None,
    tasks: Any = None,
) -> Run:
    """A saved run, ready to adapt.

    Args:
        path: its folder, such as results/runs/<id>.
        device: where its tensors go.
        root: folder of the data set's files, needed for its tasks only.
        model: for a run of a module of your own, a module of its architecture, or the function of a seed that made it.
            Parameters, buffers and modes are those of the run; `blank_model`, which `reset` and `similarity` compare
            with, has this one's parameters.
        tasks: for a run on tasks of your own, those tasks, as `core.tasks.as_tasks` takes them; needed for its tasks
            only.

    Raises:
        UserError: if there is no finished run there, a file is damaged, or a module of your own is missing.
    """
    folder = Path(path)
    config = read_config(folder)
    for name, given, what in ((config.model, model, "model"), (config.dataset, tasks, "tasks")):
        if given is not None and not is_own(name):
            raise UserError(f"{what}= is given, but {folder} is a run with {name!r}, which is none of your own")
    if is_own(config.model) and model is None:
        raise UserError(
            f"{folder} is a run of a module of your own, {config.model!r}: pass it as model=, in Python (load_run)"
        )
    status, info, curve = read_summary(folder, config)
    where = checked_device(device)
    tensors, metadata = load_tensors(folder / "weights.safetensors", where)
    check_format(folder / "weights.safetensors", metadata.get("format"))
    if metadata.get("id") != config.id:
        raise UserError(f"{folder / 'weights.safetensors'} is of run {shown(metadata.get('id'))}, not of {config.id}")
    parts: dict[str, dict[str, Tensor]] = {"theta": {}, "xi": {}, "buffer": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind not in parts:
            raise UserError(f"{folder / 'weights.safetensors'} has an unexpected tensor {shown(name)}")
        if kind != "buffer" and not tensor.is_floating_point():
            raise UserError(f"{folder / 'weights.safetensors'} has {shown(name)} of {tensor.dtype}, which cannot adapt")
        parts[kind][rest] = tensor
    shape = TaskShape(tuple(info["example_shape"]), info["num_outputs"])
    module = None if model is None else fresh_module(model, config.seed)
    expected = _expected_sizes(config, shape, parts, folder / "weights.safetensors", module)
    # The file has them by name. In the model's order the last layer is the last, and a seed's noise that of the run
    # before it was saved.
    theta = {name: parts["theta"][name] for name in expected}
    if module is not None:
        sizes = {name: buffer.shape for name, buffer in buffers_of(module).items()}
        check_tensors(f"{folder / 'weights.safetensors'}: buffers", parts["buffer"], sizes, f"model {config.model!r}")
    source = None if tasks is None else as_tasks(tasks, seed=config.seed, device=where)
    if source is not None and source.fingerprint() != info.get("dataset_fingerprint"):
        raise UserError(f"tasks= are not those of {folder}; for others, there is run.evaluate(episodes)")
    if module is not None:
        in_training = info.get("modules_in_training")
        if not isinstance(in_training, list | None):
            raise UserError(f"{folder / 'run.json'} does not list its modules_in_training")
        for name, part in module.named_modules():
            part.training = part.training if in_training is None else name in in_training
        if info.get("module") not in (None, module_digest(module)):
            warnings.warn(
                f"model= is not printed as the module of {folder} was: it may compute something else with the same "
                "weights, such as by another activation",
                stacklevel=2,
            )
    run = Run(config, theta, parts["xi"], curve, status, info, folder, root, module, source, parts["buffer"])
    try:
        run.rule.check(run.theta, run.xi)
    except UserError as error:
        raise UserError(f"{folder / 'weights.safetensors'}: {error}") from error
    return run


def read_summary(folder: Path, config: TrainConfig) -> tuple[str, dict[str, Any], pd.DataFrame]:
    """The status, `Run.info` and curve of the finished run `config`, whose weights are not looked at.

    Raises:
        UserError: if the run is not finished, or one of these files is damaged.
    """
    if not is_finished(folder):
        how = f"with: python -m core resume {folder}"
        if is_own(config.model) or is_own(config.dataset):
            how = "by meta_train with the same configuration, module and tasks"
        raise UserError(f"{folder} is not finished; continue it {how}")
    info = _checked_format(folder / "run.json")
    status = _check_info(info, folder / "run.json")
    digest = info.pop("curve_digest", None)  # older versions wrote none
    return status, info, _read_curve(folder / "curve.parquet", digest)


def _read_curve(path: Path, digest: object) -> pd.DataFrame:
    """The curve of a run, whose file has this digest, if there is one.

    Raises:
        UserError: if it is missing, damaged, of another run, of other columns, or beyond `bounds`.
    """
    try:
        table = read_table(path, checksums=True)
        if table.column_names != list(CURVE_COLUMNS):
            raise Refused(f"it has the columns {shown(table.column_names)}, not {', '.join(CURVE_COLUMNS)}")
        if digest not in (None, _digest_of_file(path)):
            raise Refused(f"{path} is damaged, or of another run: it is not the one that was written with this")
        return table.to_pandas(ignore_metadata=True).astype(CURVE_COLUMNS)
    except (OSError, ValueError, TypeError) as error:  # pandas says ValueError where a whole number is missing
        raise UserError(told(path, "is missing or damaged", error)) from error


def _check_info(info: dict[str, Any], path: Path) -> str:
    """The status in what run.json says, which is taken out; what a model is made from is looked at.

    Raises:
        UserError: if something is missing, or none of what it can be.
    """
    del info["format"]
    if missing := [name for name in ("status", "example_shape", "num_outputs") if name not in info]:
        raise UserError(f"{path} is incomplete: it lacks {', '.join(missing)}")
    status, shape, outputs = info.pop("status"), info["example_shape"], info["num_outputs"]
    sizes = [*shape, outputs] if isinstance(shape, list) else [None]
    if not isinstance(status, str) or not all(type(size) is int and size >= 0 for size in sizes):
        raise UserError(f"{path} is incomplete: status must be a word, example_shape and num_outputs whole numbers")
    return status


def check_sizes(config: TrainConfig, shape: TaskShape, state: Mapping[str, Tensor], path: Path) -> None:
    """See that a state has the weights of the model that the settings describe, before there is memory for one.

    Args:
        config: of a run with a model of ours.
        shape: of its tasks.
        state: tensors, of theta and xi by `theta.<name>` and `xi.<name>`.
        path: where they are from.

    Raises:
        UserError: as `load_run`.
    """
    parts: dict[str, dict[str, Tensor]] = {"theta": {}, "xi": {}}
    for name, tensor in state.items():
        kind, _, rest = name.partition(".")
        parts.setdefault(kind, {})[rest] = tensor
    _expected_sizes(config, shape, parts, path, None)


def _expected_sizes(
    config: TrainConfig, shape: TaskShape, parts: Mapping[str, Any], path: Path, own: nn.Module | None
) -> dict[str, torch.Size]:
    """The shapes of theta, by name in the model's order, which the run's weights have; found out before one is made.

    Args:
        config: of the run.
        shape: of its tasks.
        parts: theta and xi, by name.
        path: the file that they are from.
        own: the module, if it is the user's own.

    Raises:
        UserError: if the weights are others, or the settings describe a model or a rule that is larger.
    """
    layers, depth = len(config.hidden or ()), config.rule_depth or 0
    if layers > len(parts["theta"]) or depth > len(parts["xi"]):
        raise UserError(f"{path.parent / 'config.json'} describes more layers than {path} holds")
    model = _sizes_alone(config, shape, path.parent) if own is None else own
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    check_tensors(f"{path}: theta", parts["theta"], expected, f"model {config.model!r}")
    return expected


def _sizes_alone(config: TrainConfig, shape: TaskShape, folder: Path) -> nn.Module:
    """The model of ours that a run describes, without memory for its weights."""
    if min(*shape.example_shape, shape.num_outputs, 1) < 1:
        raise UserError(f"{folder} describes a layer of no width")
    try:
        with torch.device("meta"):
            return make_model(config.model, shape, seed=config.seed, **config.model_options())
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # sizes that PyTorch cannot count with
        raise UserError(f"{folder} describes a model that cannot be made: {one_line(error)}") from error


def named_run(name: Path, results: Path) -> Path:
    """The folder that somebody who types `name` means: itself, or the run of that id in `results`.

    Raises:
        UserError: if there is neither.
    """
    runs = results / "runs"
    for folder in (name, runs / name):
        if os.path.lexists(folder):
            return folder
    raise _no_such_folder(name, f", nor in {runs}")


def _no_such_folder(name: Path, nor_in: str = "") -> UserError:
    """The error for a run that is not there; `nor_in` says where else a name that is no whole path was looked for."""
    where = "" if name.is_absolute() else f" in {Path.cwd()}{nor_in}"
    return UserError(f"{name} is no run: there is no such folder{where}")


def list_runs(results: str | Path = "results") -> pd.DataFrame:
    """The runs under `results`/runs, finished or not.

    Returns:
        One row per folder, sorted by id: `id`, `status` ("ok", "diverged at iteration <i>", "unfinished", or
        "unreadable: why"), `path`, and the main settings of the configuration.
    """
    settings = ("dataset", "model", "depth", "method", "seed", "iterations", "steps", "adapt_lr", "meta_lr")
    rows = []
    root = Path(results) / "runs"
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        row: dict[str, Any] = {"id": folder.name, "status": "unfinished", "path": os.fspath(folder)}
        try:
            config = read_config(folder)
            row |= {name: getattr(config, name) for name in settings}
            if is_finished(folder):
                row["status"] = str(_checked_format(folder / "run.json")["status"])
        except UserError as error:
            row["status"] = f"{UNREADABLE}: {error}"
        except KeyError:
            row["status"] = f"{UNREADABLE}: {folder / 'run.json'} is incomplete: it has no status"
        rows.append(row)
    # Whole numbers stay whole where a run lacks one.
    whole = dict.fromkeys(("depth", "seed", "iterations", "steps"), "Int64")
    return pd.DataFrame(rows, columns=["id", "status", "path", *settings]).astype(whole)
