"""The engine: tasks, models, meta-optimizers, adaptation, meta-training and saved runs."""

from core.adaptation import adapt, meta_gradient
from core.config import TrainConfig
from core.evaluation import evaluate
from core.models import make_model
from core.optimizers import make_optimizer
from core.own import load_weights, run_from_module
from core.runs import Run, list_runs, load_run
from core.tasks import make_tasks
from core.tasks.base import Episodes
from core.training import meta_train, meta_train_many

__all__ = [
    "Episodes",
    "Run",
    "TrainConfig",
    "adapt",
    "evaluate",
    "list_runs",
    "load_run",
    "load_weights",
    "make_model",
    "make_optimizer",
    "make_tasks",
    "meta_gradient",
    "meta_train",
    "meta_train_many",
    "run_from_module",
]
