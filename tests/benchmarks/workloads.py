"""What is measured: each workload a line of settings, and the problem that they describe."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core import Episodes, Run, make_optimizer, run_from_module
from core.chunking import Chunk
from core.models import make_model
from core.optimizers import MetaOptimizer
from core.tasks import TaskSource, make_tasks
from core.tasks.base import TaskShape
from tests import naive
from tests.naive import NaiveRule

Kind = Literal["training", "meta-gradient", "evaluation", "layer_roles", "fc_noise"]
Tensors = dict[str, Tensor]
NOISE = (0.0, 1.0, 4.0, 16.0)  # the strengths of fc_noise that are measured
DRAWS = 2
CURVE_CHUNK = 8  # however many tasks there are on a curve over them, memory is that of so many, or of fewer


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes:
        kind: "training": an iteration of `core.meta_train`, drawing tasks and the outer step included;
            "meta-gradient": of one batch of tasks; "evaluation": loss and accuracy after each step; or a study.
        model, method: as in `TrainConfig`; `width` and `depth` are those of its layers.
        steps, lr: of adaptation; second order.
        tasks: in one iteration, batch, evaluation or study.
        seeds: runs that are trained at once.
        ways, shots: of image tasks.
        measured: tasks that are measured in place of `tasks`, by all engines alike; seconds are then multiplied.
        per_chunk: tasks that go through our engine at once, see `core.meta_gradient`; "auto": the fastest on the
            machine, see `core.chunking`; None: all.
        least, aim: what an engine's speedup has to be at least, and what it is to come to, by engine.
        scaling: the numbers of tasks, steps, width or seeds for which the workload is measured again.
        notes: what was tried where it stays below its aim, and what limits it.
    """

    name: str
    kind: Kind
    model: str
    method: str
    steps: int
    lr: float
    tasks: int
    width: int = 64
    depth: int = 4
    seeds: int = 1
    ways: int = 1
    shots: int = 1
    measured: int = 0
    per_chunk: Chunk = None
    least: dict[str, float] = field(default_factory=dict)
    aim: dict[str, float] = field(default_factory=dict)
    scaling: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notes: str = ""

    @property
    def share(self) -> float:
        """Of its tasks, those that are measured."""
        return (self.measured or self.tasks) / self.tasks

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its numbers."""
        names = ("kind", "model", "method", "steps", "lr", "tasks", "width", "depth", "seeds", "ways", "shots")
        return {name: getattr(self, name) for name in (*names, "measured", "per_chunk")}

    @property
    def rule_options(self) -> dict[str, Any]:
        """Of the meta-optimizer, as the paper's experiments have them."""
        if self.method != "kfc":
            return {}
        return {"depth": 4, "unit_norm": True} if self.model == "cnn" else {"depth": 4}

    def at(self, axis: str, value: int) -> "Workload":
        """The same at another point of a scaling curve; on one over tasks, `CURVE_CHUNK` of them go through at once."""
        point = replace(self, **{axis: value}, measured=0, scaling={}, least={}, aim={}, notes="")
        if axis == "tasks":
            return replace(point, per_chunk=CURVE_CHUNK, notes=f"Our engine takes {CURVE_CHUNK} tasks at once.")
        return point

    def small(self) -> "Workload":
        """The same with as few tasks as show a slip, to compare results."""
        few = min(self.tasks, 3)
        return replace(self, tasks=few, measured=0, per_chunk=None if self.per_chunk is None else 2)


class Problem:
    """The networks, meta-optimizers and tasks of a workload, the same for every engine.

    Args:
        workload: what is measured.
        dtype: of weights and images.
    """

    def __init__(self, workload: Workload, dtype: torch.dtype = torch.float32) -> None:
        self.workload, self.dtype = workload, dtype
        name = {"maml": "sgd"}.get(workload.method, workload.method)
        self.rule: MetaOptimizer = make_optimizer(name, **workload.rule_options)
        self.naive_rule = NaiveRule(name, **workload.rule_options)

    @property
    def num_measured(self) -> int:
        """Tasks that are measured."""
        return self.workload.measured or self.workload.tasks

    def source(self, seed: int) -> TaskSource:
        """The tasks of a training, of this seed."""
        return make_tasks("synthetic", seed=seed)

    def model(self, seed: int = 0) -> nn.Module:
        """A fresh network of this seed."""
        w = self.workload
        options: dict[str, Any] = {"cnn": {"depth": w.depth, "filters": w.width}, "linnet": {"hidden": (w.width,) * 3}}
        shape = self.source(seed) if w.kind == "training" else TaskShape((1, 28, 28), w.ways)
        return make_model(w.model, shape, seed=seed, **options.get(w.model, {})).to(self.dtype)

    def start(self, model: nn.Module) -> tuple[Tensors, Tensors]:
        """theta and xi; xi slightly off its start, so that nothing is trivially the identity."""
        theta = {name: p.detach().clone() for name, p in model.named_parameters()}
        xi = self.rule.init(theta)
        return theta, xi if self.workload.kind == "training" else naive.randomise(xi, strength=1e-3)

    @cached_property
    def episodes(self) -> Episodes:
        """Random images in the shape of tasks: how long a step takes does not depend on them.

        A task has one query example for each of support.
        """
        w = self.workload
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(2, self.num_measured, w.ways * w.shots, 1, 28, 28, generator=generator, dtype=self.dtype)
        y = torch.arange(w.ways).repeat_interleave(w.shots).expand(self.num_measured, -1)
        return Episodes(x[0], y, x[1], y)

    @cached_property
    def run(self) -> Run:
        """What a study studies: an untrained network, whose weights make no difference to the clock."""
        return run_from_module(self.model(), self.episodes, steps=self.workload.steps, adapt_lr=self.workload.lr)


_MAML_5_WAY = Workload(
    "cnn4_maml_5way_1shot", "meta-gradient", "cnn", "maml", 1, 0.5, 32, ways=5, per_chunk="auto",
    least={"eager": 2, "compiled": 3}, aim={"eager": 5, "compiled": 5},
    scaling={"tasks": (4, 8, 16, 32, 64), "width": (16, 32, 64)},
    notes="Before tasks adapt, one convolution of all their images takes the place of half of the convolutions. The "
    "others are of 5 small images a task; compiled, they are the same library calls, and only what is between them is "
    "fused. Tasks shared out among threads gain nothing here, and fused lose a tenth: halves of so small a batch are "
    "convolved less well.",
)  # fmt: skip
_MAML_10_WAY = Workload(
    "cnn4_maml_10way_5shot", "meta-gradient", "cnn", "maml", 4, 0.5, 32, ways=10, shots=5, per_chunk="auto",
    least={"eager": 1.2, "compiled": 1.2}, aim={"eager": 2, "compiled": 2},
    notes="As many operations as the naive reference, on 50 images a task, which keep two cores busy in either: "
    "convolutions and their gradients are more than half of the time, at 110 to 200 GFLOP/s a core of 240.",
)  # fmt: skip
_KFC = replace(_MAML_10_WAY, name="cnn2_kfc_10way_5shot", method="kfc", depth=2, tasks=8,
               least={"eager": 1.5, "compiled": 2.5}, aim={"eager": 4, "compiled": 4},
               scaling={"steps": (1, 2, 4, 8)},
               notes="Four steps of second order through the adapted factors are 20,000 operations, two in three of "
               "which only reshape. PyTorch's compiler took three minutes for them, twice the limit; compiled, they "
               "are recorded and replayed, without most of what reshapes. Convolutions are half of the time.",
               )  # fmt: skip
_LINNET = Workload(
    "linnet_5_seeds", "training", "linnet", "maml", 1, 1.9, 1, seeds=5,
    least={"eager": 10, "compiled": 10}, aim={"eager": 25, "compiled": 25},
    scaling={"seeds": (1, 2, 5, 10), "width": (16, 64, 256)},
    notes="Drawing the tasks is the limit: 100,000 normals a seed, at some 3 ns each, on both cores. Eager, the step's "
    "Python is in the way of the thread that draws.",
)  # fmt: skip
_KLIN = Workload("klin_5_seeds", "training", "lr", "klin", 1, 3.33, 1, seeds=5)

_ALL = (
    replace(_LINNET, name="linnet_1_seed", seeds=1, scaling={}, least={}, aim={}, notes=""),
    _LINNET,
    replace(_KLIN, name="klin_1_seed", seeds=1),
    _KLIN,
    Workload(
        "lr_kfc_5way_1shot", "meta-gradient", "lr", "kfc", 2, 0.01, 32, ways=5,
        least={"eager": 15, "compiled": 15}, aim={"eager": 25, "compiled": 25},
        scaling={"tasks": (8, 16, 32, 64), "steps": (1, 2, 4, 8)},
        notes="Compiled, three fifths of the matrix-product peak, which is oneDNN's: what is left are the products "
        "themselves, and those of few rows.",
    ),
    _MAML_5_WAY,
    replace(_MAML_10_WAY, name="cnn4_maml_10way_5shot_8", tasks=8),
    replace(_MAML_10_WAY, name="cnn4_maml_10way_5shot_32"),
    _KFC,
    replace(_KFC, name="cnn4_kfc_10way_5shot", depth=4, scaling={}, least={}, aim={}, notes=""),
    Workload(
        "evaluation_600", "evaluation", "cnn", "maml", 4, 0.5, 600, ways=10, shots=5, measured=48,
        least={"eager": 1.2}, aim={"eager": 2},
        notes="The same convolutions as the naive reference's, 63 % of the time, and no graph of second order to save; "
        "chunks of 1 to 16 tasks were tried, of which 4 are best, and threads with tasks of their own, which take half "
        "of what one takes alone.",
    ),
    Workload(
        "layer_roles", "layer_roles", "cnn", "maml", 4, 0.5, 100, ways=10, shots=5, measured=12,
        least={"eager": 2}, aim={"eager": 4},
        notes="Arithmetic: of eleven plans seven change the first or the second layer, and all above it is computed at "
        "each step. What is shared, the first step, what lies below the first layer that changes, and what query "
        "examples give after the first step where all layers before it adapt, is a third of the reference's "
        "operations, and tasks are shared out among threads; the same of support examples would save a twentieth.",
    ),
    Workload(
        "fc_noise", "fc_noise", "cnn", "maml", 4, 0.5, 100, ways=10, shots=5, measured=12,
        least={"eager": 2}, aim={"eager": 4},
    ),
)  # fmt: skip
WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}


def workload_named(text: str) -> Workload:
    """The workload of that name, or a point of its curves, `name@axis=value`."""
    name, _, point = text.partition("@")
    axis, _, value = point.partition("=")
    return WORKLOADS[name].at(axis, int(value)) if point else WORKLOADS[name]
