"""What every figure is drawn from: one list a figure, for all presets. Loads no torch.

To add a figure: a line in `FIGURES` or `BEYOND`, under its name in `figures.registry`. The presets say on which data
sets and with how many test tasks; how long each experiment is trained under a preset is said by `core.experiments`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.config import TrainConfig

# Stands for each data set of characters at hand: Omniglot in the paper, its stand-ins elsewhere.
CHARACTERS = "{characters}"
CHARACTER_DATASETS = ("glyphs", "omniglot", "omniglot_small")


@dataclass(frozen=True)
class Needs:
    """What a figure is drawn from.

    Attributes:
        experiments: names in `core.experiments.EXPERIMENTS`, whose runs are trained; `CHARACTERS` in place of a data
            set is each one of characters.
        studies: names in `analysis.registry.STUDIES`, which measure those of the runs that suit them.
        of: which of the runs the figure shows; a table of another is not made for it.
    """

    experiments: tuple[str, ...]
    studies: tuple[str, ...]
    of: Callable[[TrainConfig], bool] = lambda config: True

    def experiments_on(self, datasets: Sequence[str]) -> list[str]:
        """The experiments on these data sets."""
        characters = [name for name in datasets if name in CHARACTER_DATASETS]
        found = []
        for experiment in self.experiments:
            if experiment.startswith(CHARACTERS):
                found += [experiment.replace(CHARACTERS, name) for name in characters]
            elif experiment.rpartition("_")[0] in datasets:
                found.append(experiment)
        return found


_LINEAR = ("synthetic_linear", f"{CHARACTERS}_linear")
_DEPTH = (f"{CHARACTERS}_depth", "cifar_fs_depth")
_OPTIMIZERS = (f"{CHARACTERS}_optimizers", "cifar_fs_optimizers", "mini_imagenet_optimizers")

FIGURES: dict[str, Needs] = {
    "fig1": Needs(_LINEAR, ("post_adaptation", "ceilings"), lambda config: config.method == "maml"),
    "fig2": Needs(_DEPTH, ("layer_roles", "fc_noise")),
    "fig3": Needs(_DEPTH, ("depth_sweep",)),
    "table1": Needs(_LINEAR, ("post_adaptation", "ceilings")),
    "table2": Needs(_OPTIMIZERS, ("optimizer_comparison", "upper_bound")),
    "fig_a1": Needs(_LINEAR, ("training_curves", "ceilings")),
    "fig_a2": Needs(
        (f"{CHARACTERS}_depth", f"{CHARACTERS}_optimizers"), ("training_curves",), lambda config: config.depth in (2, 4)
    ),
    "fig_a3": Needs(("mini_imagenet_optimizers",), ("training_curves",)),
    "table_a1": Needs(_DEPTH, ("depth_sweep",)),
}
# What the paper does not have: drawn where it was measured, which no preset does.
BEYOND: dict[str, Needs] = {
    "benchmark": Needs((), ("benchmark", "outer_loop")),
    "inside_optimizer": Needs((), ("inside_optimizer",)),
    "when_shallow_fails": Needs((), ("when_shallow_fails",)),
    "layer_roles": Needs((), ("layer_roles", "fc_noise")),
    "similarity": Needs((), ("similarity",)),
    "adaptation_path": Needs((), ("adaptation_path",)),
    "loss_line": Needs((), ("loss_line",)),
    "label_permutation": Needs((), ("label_permutation",)),
}
# Tables that are made beside the figures, and drawn by none of them.
TABLES: dict[str, Needs] = {"linear_collapse": Needs(_LINEAR, ("linear_collapse",))}


@dataclass(frozen=True)
class Preset:
    """Where and on how much the lists are carried out.

    Attributes:
        datasets: data sets of the experiments; `CHARACTERS` is that of the setting `images`.
        num_tasks: test tasks that each run is measured on.
    """

    datasets: tuple[str, ...]
    num_tasks: int


PRESETS: dict[str, Preset] = {
    "quick": Preset(("synthetic", CHARACTERS), 50),
    "paper": Preset(("synthetic", CHARACTERS, "cifar_fs", "mini_imagenet"), 600),
}
