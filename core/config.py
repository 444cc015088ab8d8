"""What defines a run: one frozen dataclass, whose canonical text is the run's name."""

import hashlib
import json
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache, wraps
from typing import Any, Literal, TypeVar

import numpy as np

from bounds.words import shown
from core.errors import UserError, unknown_name
from core.inner_loop import InnerLoop
from core.methods import METHODS, adapted_layers
from core.models import MODELS, check_widths
from core.models.conv import MAX_DEPTH, Downsample, NormMode
from core.models.layers import select
from core.optimizers import MetaOptimizer, make_optimizer, rule_options
from core.tasks import DATASETS

TASK_FIELDS = (
    "ways", "shots", "query_shots", "rotations", "normalize", "endless", "points", "input_scale", "same_points"
)  # fmt: skip
_MODEL_FIELDS = ("depth", "filters", "hidden", "bias", "init_scale", "norm_mode", "downsample")
RULE_FIELDS = {
    "rule_depth": "depth", "rule_rank": "rank", "rule_bias": "bias", "unit_norm": "unit_norm", "adapt_xi": "adapts"
}  # fmt: skip


OWN = "own:"
_OWN_NAME = re.compile(rf"{OWN}\w+", re.ASCII)


def is_own(name: str) -> bool:
    """Whether a data set's or a model's name says that the user brings it: `own:<letters, digits, underscores>`."""
    return _OWN_NAME.fullmatch(name) is not None


Config = TypeVar("Config", bound=type)


def _told_in_a_sentence(cls: Config) -> Config:
    """The class itself, whose missing and unknown settings are no bare TypeError."""
    init: Any = vars(cls)["__init__"]

    @wraps(init)
    def checked(self: Any, **settings: Any) -> None:
        known = {f.name: f for f in fields(cls)}
        for name in settings:
            if name not in known:
                raise unknown_name("setting", name, known)
        needed = [name for name, f in known.items() if f.default is MISSING]
        if missing := [name for name in needed if name not in settings]:
            raise UserError(f"the configuration lacks {', '.join(missing)}; it needs {', '.join(needed)}")
        init(self, **settings)

    cls.__init__ = checked  # type: ignore[misc]  # a dataclass has made it
    return cls


@_told_in_a_sentence
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a meta-trained model and its curve, and nothing else (no paths, no devices).

    Choices that decide the science have no default. An optional field that is None leaves the choice to the default
    of the data set, model or rule that it belongs to; one that these do not have is refused when they are made.

    Attributes:
        dataset: name in `core.tasks.DATASETS`, or `own:<name>` for tasks of your own, see `meta_train`.
        model: "lr", "linnet" or "cnn", or `own:<name>` for a module of your own.
        method: name in `core.methods.METHODS`.
        steps: adaptation steps within a task.
        adapt_lr: adaptation learning rate.
        first_order: whether inner gradients are constants of the meta-gradient; methods that are first order by
            definition insist on it.
        meta_optimizer: "sgd" (no momentum) or "adam" (PyTorch's defaults), which trains theta and xi.
        meta_lr: its learning rate.
        iterations: meta-training iterations.
        tasks_per_iteration: tasks whose meta-gradients are averaged in one iteration.
        seed: seed of the initial weights and of the training tasks.
        lr_scope: what `adapt_lr` scales: "both" updates (released code) or that of "xi" (equations as printed).
        ways, shots, query_shots: classes a task, support and query examples a class (image data sets); of sinusoid,
            which has no classes, examples.
        rotations: whether rotated classes are new classes (image data sets).
        normalize: whether pixels are normalised by channel (cifar_fs).
        endless: sample new tasks for ever in place of the paper's fixed pools (image data sets).
        points, input_scale, same_points: see `SyntheticTasks`.
        depth, filters, hidden, bias, init_scale, norm_mode, downsample: see `make_model`.
        rule_depth, rule_rank, rule_bias, unit_norm, adapt_xi: options of the rule; see `core.optimizers`.
        adapted: layers, parameters or globs (see `core.models.layers.select`) of what adapts within a task; the outer
            loop learns all. Default what the method says, which is everything but for ANIL and BOIL.
        inner_dtype: "bfloat16" to compute meta-gradients within tasks in half precision; what is meta-learned, and what
            is measured, is in single precision all the same. Default None.
        eval_every: iterations between two points of the curve; 0 for the two ends only.
        eval_tasks: tasks of each split behind a point of the curve.
        own: digest of what `own:` names stand for, so that another module or other tasks make another run;
            `meta_train` fills it in.

    Raises:
        UserError: for a setting that is missing or unknown, an unknown name, a value of another type, or one out of
            range.
    """

    dataset: str
    model: str
    method: str
    steps: int
    adapt_lr: float
    first_order: bool
    meta_optimizer: Literal["sgd", "adam"]
    meta_lr: float
    iterations: int
    tasks_per_iteration: int
    seed: int = 0
    lr_scope: Literal["both", "xi"] = "both"
    ways: int | None = None
    shots: int | None = None
    query_shots: int | None = None
    rotations: bool | None = None
    normalize: bool | None = None
    endless: bool | None = None
    points: int | None = None
    input_scale: float | None = None
    same_points: bool | None = None
    depth: int | None = None
    filters: int | None = None
    hidden: tuple[int, ...] | None = None
    bias: bool | None = None
    init_scale: float | None = None
    norm_mode: NormMode | None = None
    downsample: Downsample | None = None
    rule_depth: int | None = None
    rule_rank: int | None = None
    rule_bias: bool | None = None
    unit_norm: bool | None = None
    adapt_xi: bool | None = None
    adapted: tuple[str, ...] | None = None
    inner_dtype: Literal["bfloat16"] | None = None
    eval_every: int = 0
    eval_tasks: int = 100
    own: str | None = None

    def __post_init__(self) -> None:
        for name, kind in _kinds().items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), kind))
        for kind, value, known in (
            ("dataset", self.dataset, DATASETS),
            ("model", self.model, MODELS),
            ("method", self.method, METHODS),
        ):
            if value not in known and not (kind != "method" and is_own(value)):
                raise unknown_name(kind, value, known if kind == "method" else [*known, f"{OWN}<name>"])
        for name, least in (
            ("steps", 0), ("iterations", 0), ("tasks_per_iteration", 1), ("eval_every", 0), ("eval_tasks", 1)
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        check_widths(self.filters, self.hidden)
        for name in ("adapt_lr", "meta_lr"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")
        for kind, value, options in (
            ("model", self.model, self.model_options()), ("dataset", self.dataset, self.task_options())
        ):  # fmt: skip
            if is_own(value) and options:
                raise UserError(f"{kind} {value!r} is your own: leave out {', '.join(options)}, which are for ours")
        self._check_method()

    def _check_method(self) -> None:
        method = METHODS[self.method]
        if method.first_order and not self.first_order:
            raise UserError(f"{self.method} is first order: first_order must be true")
        if method.adapts != "all" and self.adapted is not None:
            raise UserError(f"{self.method} is the {method.adapts} adapting: leave adapted out, or name another method")
        if self.adapted == ():
            raise UserError("adapted must name at least one layer; for no adaptation, steps is 0")
        if method.options.get("adapts") and self.adapt_xi is not None:
            raise UserError(f"{self.method} is {method.rule} with an adapted xi: leave adapt_xi out")

    def task_options(self) -> dict[str, Any]:
        """What `make_tasks` takes from here."""
        return {name: getattr(self, name) for name in TASK_FIELDS if getattr(self, name) is not None}

    def model_options(self) -> dict[str, Any]:
        """What `make_model` takes from here."""
        return {name: getattr(self, name) for name in _MODEL_FIELDS if getattr(self, name) is not None}

    @property
    def num_layers(self) -> int | None:
        """Convolutional layers, stated or by default; None for a model that has none."""
        if self.model != "cnn":
            return None
        return MAX_DEPTH if self.depth is None else self.depth

    def make_rule(self) -> MetaOptimizer:
        """The meta-optimizer.

        Raises:
            UserError: for an option that it does not have, or a missing one.
        """
        rule, fixed = METHODS[self.method].rule, METHODS[self.method].options
        options = rule_options(rule)
        own = {name: option for name, option in RULE_FIELDS.items() if getattr(self, name) is not None}
        # By the names of settings: `depth` here is that of the model.
        known = [name for name, option in RULE_FIELDS.items() if option in options.keys() - fixed.keys()]
        if refused := [name for name in own if name not in known]:
            words = ", ".join(known) or "none"
            raise UserError(f"method {self.method!r} has no option {', '.join(refused)}; it has {words}")
        if missing := [name for name in known if options[RULE_FIELDS[name]] and name not in own]:
            raise UserError(f"method {self.method!r} needs {', '.join(missing)}")
        return make_optimizer(rule, **fixed, **{option: getattr(self, name) for name, option in own.items()})

    def adapted_of(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """The parameters that adapt within a task, of a model's, called `names`, in their order; None for all.

        Raises:
            UserError: for a pattern that names none of them, or a method that does not suit the model.
        """
        return adapted_layers(self.method, names) if self.adapted is None else select(names, self.adapted)

    def inner_loop(self, names: Sequence[str]) -> InnerLoop:
        """How a model, whose parameters are called `names`, adapts to a task in training.

        Raises:
            UserError: as `adapted_of`.
        """
        return InnerLoop(self.steps, self.adapt_lr, self.first_order, self.lr_scope, self.adapted_of(names))

    def canonical_json(self) -> str:
        """The fields that differ from their defaults, sorted by name: a new defaulted field leaves old texts alone."""
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        chosen = {k: v for k, v in asdict(self).items() if k not in defaults or v != defaults[k]}
        return json.dumps(chosen, sort_keys=True, separators=(",", ":"))

    @property
    def id(self) -> str:
        """The run's name: data set, model, method, seed, and a hash of the canonical JSON."""
        digest = hashlib.blake2b(self.canonical_json().encode(), digest_size=5).hexdigest()
        return f"{self.dataset}-{self.model}-{self.method}-s{self.seed}-{digest}".replace(":", ".")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The configuration with these fields.

        Raises:
            UserError: for a field that does not exist, is missing, or has a value that cannot be.
        """
        return cls(**values)


@cache
def _kinds() -> dict[str, Any]:
    """The type of every field."""
    return typing.get_type_hints(TrainConfig)


def _checked(name: str, value: Any, kind: Any) -> Any:
    """`value` as the field's type: 1 and 1.0 are one learning rate, and so one run.

    Raises:
        UserError: for a value of another type, or a word that is none of the known.
    """
    choices = typing.get_args(kind)
    if type(None) in choices:
        if value is None:
            return None
        kind = next(one for one in choices if one is not type(None))
        choices = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        if value not in choices:
            raise unknown_name(name, value, choices)
        return value
    if isinstance(value, np.generic):
        value = value.item()  # of a sweep over an array
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is int and is_number and isinstance(value, int):
        return value
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if typing.get_origin(kind) is tuple:
        words = "words" if choices[0] is str else "whole numbers"
        if not isinstance(value, list | tuple):
            raise UserError(f"{name} must be a list of {words}, got {shown(value)}")
        return tuple(_checked(name, one, choices[0]) for one in value)
    wanted = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a word"}
    raise UserError(f"{name} must be {wanted[kind]}, got {shown(value)}")
