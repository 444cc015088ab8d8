"""The numbers that the paper reports, to be drawn beside ours.

Source: "Decoupling adaptation from modeling with meta-optimizers for meta learning", anonymous authors, under review;
its sections 3.2, 5 and A. Table 1 and all plots were pictures of which no number survives: for the linear models only
what the prose says is known. Models and methods are named as in our tables; the paper's SCNN is our CNN of 2 layers.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One accuracy of the paper.

    Attributes:
        source: where in the paper.
        dataset, ways, shots, steps: the setting; no shots for synthetic tasks.
        model, layers, method: what was trained; `layers` are convolutional.
        accuracy: percent.
        std: standard deviation in percent, None if not stated.
        note: how it is stated, where that matters.
    """

    source: str
    dataset: str
    ways: int
    shots: int | None
    steps: int
    model: str
    layers: int
    method: str
    accuracy: float
    std: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Length:
    """How long the paper trained, and on how many tasks it tested (None: not stated)."""

    iterations: int | None
    tasks_per_iteration: int | None
    test_tasks: int | None


# Of the linear experiments (A.1.1), and of the nonlinear ones (A.1.2), whose iterations it does not state.
LENGTHS = {"synthetic": Length(30_000, 1, None), "omniglot": Length(60_000, 32, 600)}
CNN_LENGTHS = {
    "omniglot": Length(None, 32, 600),
    "cifar_fs": Length(None, None, 600),
    "mini_imagenet": Length(None, None, None),
}
# What the standard normal points of the synthetic tasks are multiplied by (A.1.1): nothing is said of a factor.
INPUT_SCALE = 1.0

# (dataset, ways, shots, steps) of the nonlinear experiments.
_OMNIGLOT = ("omniglot", 10, 5, 4)
_CIFAR_FS = ("cifar_fs", 10, 3, 2)
_MINI_IMAGENET = ("mini_imagenet", 10, 1, 5)
CNN_SETTINGS = {
    dataset: {"ways": ways, "shots": shots, "steps": steps}
    for dataset, ways, shots, steps in (_OMNIGLOT, _CIFAR_FS, _MINI_IMAGENET)
}
_BOUND = "trained on each task to convergence"

PUBLISHED: tuple[Published, ...] = (
    Published("prose, section 3.2", "synthetic", 2, None, 1, "lr", 0, "maml", 50, note="stated as chance level"),
    Published("prose, section 3.2", "synthetic", 2, None, 1, "linnet", 0, "maml", 92),
    Published("prose, section 3.2", "omniglot", 5, 1, 2, "lr", 0, "maml", 45),
    Published("prose, section 3.2", "omniglot", 5, 1, 2, "linnet", 0, "maml", 70),
    Published("Table 2", *_OMNIGLOT, "cnn", 2, "upper_bound", 95.09, 2.32, _BOUND),
    Published("Table 2", *_OMNIGLOT, "cnn", 2, "maml", 60.94, 1.54),
    Published("Table 2", *_OMNIGLOT, "cnn", 2, "meta_sgd", 69.25, 0.81),
    Published("Table 2", *_OMNIGLOT, "cnn", 2, "meta_curvature", 85.70, 0.91),
    Published("Table 2", *_OMNIGLOT, "cnn", 2, "kfc", 91.13, 0.93),
    Published("Table 2", *_CIFAR_FS, "cnn", 2, "upper_bound", 63.94, 3.89, _BOUND),
    Published("Table 2", *_CIFAR_FS, "cnn", 2, "maml", 38.44, 0.87),
    Published("Table 2", *_CIFAR_FS, "cnn", 2, "meta_sgd", 45.96, 1.73),
    Published("Table 2", *_CIFAR_FS, "cnn", 2, "meta_curvature", 52.89, 1.43),
    Published("Table 2", *_CIFAR_FS, "cnn", 2, "kfc", 52.94, 1.33),
    Published("Table 2", *_MINI_IMAGENET, "cnn", 2, "upper_bound", 58.45, 5.58, _BOUND),
    Published("Table 2", *_MINI_IMAGENET, "cnn", 2, "maml", 18.55, 0.46),
    Published("Table 2", *_MINI_IMAGENET, "cnn", 2, "meta_sgd", 26.59, 1.43),
    Published("Table 2", *_MINI_IMAGENET, "cnn", 2, "meta_curvature", 29.74, 0.74),
    Published("Table 2", *_MINI_IMAGENET, "cnn", 2, "kfc", 27.40, 0.60),
    Published("Table A1", *_OMNIGLOT, "cnn", 1, "maml", 29.20, 1.13),
    Published("Table A1", *_OMNIGLOT, "cnn", 2, "maml", 60.94, 1.54),
    Published("Table A1", *_OMNIGLOT, "cnn", 3, "maml", 91.69, 0.70),
    Published("Table A1", *_OMNIGLOT, "cnn", 4, "maml", 97.56, 0.45),
    Published("Table A1", *_OMNIGLOT, "cnn", 1, "kfc", 66.45, 1.42),
    Published("Table A1", *_OMNIGLOT, "cnn", 2, "kfc", 91.13, 0.93),
    Published("Table A1", *_OMNIGLOT, "cnn", 3, "kfc", 96.57, 0.86),
    Published("Table A1", *_OMNIGLOT, "cnn", 4, "kfc", 98.49, 0.41),
    Published("Table A1", *_CIFAR_FS, "cnn", 1, "maml", 24.86, 0.47),
    Published("Table A1", *_CIFAR_FS, "cnn", 2, "maml", 38.44, 0.87),
    Published("Table A1", *_CIFAR_FS, "cnn", 3, "maml", 50.91, 0.80),
    Published("Table A1", *_CIFAR_FS, "cnn", 4, "maml", 55.03, 1.23),
    Published("Table A1", *_CIFAR_FS, "cnn", 1, "kfc", 42.02, 0.52),
    Published("Table A1", *_CIFAR_FS, "cnn", 2, "kfc", 52.94, 1.33),
    Published("Table A1", *_CIFAR_FS, "cnn", 3, "kfc", 53.07, 0.58),
    Published("Table A1", *_CIFAR_FS, "cnn", 4, "kfc", 55.97, 0.59),
)  # fmt: skip

# Parameters that A.1.2 states, by (dataset, layers): of the model, and of KFC on it (mini-ImageNet: approximate).
CNN_PARAMETERS = {
    ("omniglot", 4): (112_586, 267_451),
    ("omniglot", 2): (38_474, 134_171),
    ("cifar_fs", 4): (29_226, 69_325),
    ("cifar_fs", 2): (10_602, 35_117),
    ("mini_imagenet", 4): (36_906, 2_630_000),
    ("mini_imagenet", 2): (18_282, 2_600_000),
}


def linear_accuracy(dataset: str, model: str, method: str) -> float | None:
    """What the prose says of a linear model (section 3.2), in percent; None if nothing.

    Args:
        dataset: "synthetic" or "omniglot", the two that the paper has.
        model: "lr" or "linnet".
        method: "maml"; of KLin and KFC no number survives.
    """
    for entry in PUBLISHED:
        if (entry.dataset, entry.model, entry.method, entry.layers) == (dataset, model, method, 0):
            return entry.accuracy
    return None


def cnn_accuracy(dataset: str, layers: int, method: str) -> Published | None:
    """What Tables 2 and A1 say of a convolutional network; None if nothing.

    Args:
        dataset: "omniglot", "cifar_fs" or "mini_imagenet".
        layers: convolutional layers.
        method: as in our tables, or "upper_bound".
    """
    for entry in PUBLISHED:
        if (entry.dataset, entry.model, entry.layers, entry.method) == (dataset, "cnn", layers, method):
            return entry
    return None
