"""The columns of every table, with type, unit and meaning: what `analysis.store` writes and reads."""

from typing import NamedTuple


class Column(NamedTuple):
    """What a column holds.

    Attributes:
        dtype: "str", "int64", "float64", "bool", or "Int64" (whole numbers that may be missing).
        unit: unit of the numbers, "-" where there is none.
        meaning: one line for `results/README.md`.
    """

    dtype: str
    unit: str
    meaning: str


_RUN = {
    "run": Column("str", "-", "id of the saved run"),
    "dataset": Column("str", "-", "data set of the run, or own:<name>"),
    "model": Column("str", "-", "model of the run: lr, linnet, cnn, or own:<name>"),
    "method": Column("str", "-", "what the run was meta-trained with: maml, klin, kfc, ..."),
    "seed": Column("int64", "-", "seed of the run: initial weights and training tasks"),
    "status": Column(
        "str",
        "-",
        "ok; diverged: a loss was not finite, or a cross-entropy above 2^24 nats, and the measurement is NaN, never "
        "chance; failed: why",
    ),
}

_SETTING = {
    "layers": Column("Int64", "layers", "convolutional layers of the model; missing for linear models"),
    "norm_mode": Column("str", "-", "batch: statistics of the batch at hand (transductive); instance; none; or empty"),
    "ways": Column("Int64", "classes", "classes a task; missing for synthetic tasks"),
    "shots": Column("Int64", "examples", "support examples a class; missing for synthetic tasks"),
    "steps": Column("int64", "steps", "adaptation steps that the run was trained for"),
    "adapt_lr": Column("float64", "-", "adaptation learning rate of the run"),
    "iterations": Column("int64", "iterations", "meta-training iterations of the run"),
    "tasks_per_iteration": Column("int64", "tasks", "tasks averaged in one of them"),
}
_MEASURED = {
    "task_seed": Column(
        "int64", "-", "seed of the test tasks; two runs with equal task_seed and task met the same task"
    ),
    "task": Column("int64", "-", "number of the test task"),
    "step": Column("int64", "steps", "adaptation steps taken; 0 is before adaptation"),
    "split": Column("str", "-", "support or query: the examples that are measured"),
    "loss": Column("float64", "nats", "mean over the examples of the cross-entropy (regression: squared error)"),
    "accuracy": Column(
        "float64", "fraction", "examples classified right, 0 to 1; NaN where status is not ok, and for regression"
    ),
}
_INTERVENTION = {
    "intervention": Column("str", "-", "what was changed about adaptation; none: nothing"),
    "draw": Column("int64", "-", "number of the random draw for this task; 0 where nothing is random"),
}

_COMPARISON = {
    **_RUN,
    **_SETTING,
    "model_parameters": Column("int64", "numbers", "parameters of the model"),
    "rule_parameters": Column("int64", "numbers", "parameters of the meta-optimizer"),
    **_MEASURED,
}

SCHEMAS: dict[str, dict[str, Column]] = {
    "layer_roles": {
        **_RUN,
        **_SETTING,
        **_INTERVENTION,
        "kind": Column(
            "str", "-", "none: as trained; freeze: as trained, but for `layer`; adapt only: `layer` alone adapts"
        ),
        "layer": Column("str", "-", "the layer that is frozen, or that adapts alone; empty for none"),
        **_MEASURED,
    },
    "fc_noise": {
        **_RUN,
        **_SETTING,
        "intervention": Column("str", "-", "the noise, by its strength; all layers but the last two are frozen"),
        "draw": _INTERVENTION["draw"],
        "layer": Column("str", "-", "the last layer, which gets the noise before it and the one before it adapt"),
        "std": Column(
            "float64", "scale of the layer", "standard deviation of the noise, in root mean squares of its weights"
        ),
        **_MEASURED,
    },
    "similarity": {
        **_RUN,
        **_SETTING,
        "task_seed": _MEASURED["task_seed"],
        "task": _MEASURED["task"],
        "compared": Column(
            "str", "-", "what the run's layer before adaptation is compared with: adapted, untrained, or another run"
        ),
        "layer": Column("str", "-", "the layer whose outputs are compared"),
        "measure": Column("str", "-", "cka, debiased cka, svcca or pwcca, see analysis/representations.py"),
        "examples": Column("int64", "examples", "behind the value; for svcca and pwcca every position is one"),
        "features": Column("int64", "features", "numbers for each of them"),
        "value": Column(
            "float64",
            "-",
            "1: the same but for a linear map (svcca, pwcca), or a rotation and a scale (cka); 0: unrelated",
        ),
    },
    "adaptation_path": {
        **_RUN,
        **_SETTING,
        "task_seed": _MEASURED["task_seed"],
        "task": _MEASURED["task"],
        "step": _MEASURED["step"],
        "probe": Column("str", "-", "what is measured, see analysis/probes.py"),
        "layer": Column("str", "-", "the layer it is measured of"),
        "value": Column("float64", "-", "the measurement: by the probe a ratio, a cosine, a similarity, a fraction"),
    },
    "loss_line": {
        **_RUN,
        **_SETTING,
        "task_seed": _MEASURED["task_seed"],
        "task": _MEASURED["task"],
        "position": Column("float64", "-", "p of theta_0 + p (theta_T - theta_0): 0 is before adaptation, 1 after"),
        "split": _MEASURED["split"],
        "loss": _MEASURED["loss"],
        "accuracy": _MEASURED["accuracy"],
    },
    "label_permutation": {**_RUN, **_SETTING, **_INTERVENTION, **_MEASURED},
    "inside_optimizer": {
        **_RUN,
        **_SETTING,
        "task_seed": _MEASURED["task_seed"],
        "aspect": Column("str", "-", "factor, alignment or comparison, see analysis/inside_optimizer.py"),
        "layer": Column("str", "-", "layer of the tensor; all: of all tensors as one; empty where the model is meant"),
        "tensor": Column("str", "-", "parameter of the model that the row is about; all, or empty, likewise"),
        "part": Column("str", "-", "factor: the part of xi, or the Kronecker product of two; else empty"),
        "adaptation": Column(
            "str",
            "-",
            "comparison: both, theta only (in a layer), xi only, neither, plain steps, one plain step; else empty",
        ),
        "task": Column("Int64", "-", "number of the test task; missing for factors, which are of the run as a whole"),
        "step": Column(
            "Int64", "steps", "comparison: adaptation steps taken; alignment: which step it is, from 1; else missing"
        ),
        "split": Column("str", "-", "support or query: the examples that are measured; empty for factors"),
        "quantity": Column("str", "-", "what is measured; the quantities are listed below"),
        "index": Column("int64", "-", "position in a spectrum, largest first; 0 for single numbers"),
        "value": Column("float64", "see unit", "the measurement"),
        "unit": Column("str", "-", "unit of the value"),
    },
    "post_adaptation": {
        **_RUN,
        "ways": Column("Int64", "classes", "classes a task; missing for synthetic tasks"),
        "shots": Column("Int64", "examples", "support examples a class; missing for synthetic tasks"),
        "steps": Column("int64", "steps", "adaptation steps that the run was trained for"),
        "adapt_lr": Column("float64", "-", "adaptation learning rate of the run"),
        "points_seen": Column(
            "str", "-", "synthetic tasks: query points are the support points (same) or new ones (fresh); else empty"
        ),
        **_MEASURED,
    },
    "depth_sweep": _COMPARISON,
    "optimizer_comparison": _COMPARISON,
    "upper_bound": {
        "dataset": Column("str", "-", "data set of the tasks; nothing that a run has learned is used"),
        "model": Column("str", "-", "model that was trained on each task alone, from random weights"),
        "layers": _SETTING["layers"],
        "norm_mode": _SETTING["norm_mode"],
        "ways": _SETTING["ways"],
        "shots": _SETTING["shots"],
        "task_seed": _MEASURED["task_seed"],
        "task": _MEASURED["task"],
        "training_steps": Column("int64", "steps", "steps of Adam taken on all that is learned from"),
        "converged": Column(
            "bool", "-", "whether the training loss came down to the stopping rule's, at the last step or before"
        ),
        "training_shots": Column("Int64", "examples", "examples of each class that it learned from"),
        "training_loss": Column("float64", "nats", "on what it learned from, at the end"),
        "loss": Column("float64", "nats", "on the query set, at the end"),
        "accuracy": Column("float64", "fraction", "on the query set, at the end, 0 to 1; NaN where status is not ok"),
        "status": _RUN["status"],
    },
    "training_curves": {
        **_RUN,
        "iteration": Column("int64", "iterations", "meta-training iterations done"),
        "split": Column("str", "-", "train, validation or test: where the measured tasks come from"),
        "loss": Column("float64", "nats", "query loss after adaptation, mean over the tasks"),
        "accuracy": Column("float64", "fraction", "query accuracy after adaptation, mean over the tasks, 0 to 1"),
        "num_tasks": Column("int64", "tasks", "tasks behind the means"),
    },
    "ceilings": {
        "dataset": Column("str", "-", "data set that the classifiers were applied to; no run is involved"),
        "ceiling": Column("str", "-", "mean classifier (the mean of y x over the support points) or bayes"),
        "evaluated_on": Column("str", "-", "same: the task's own support points; fresh: new points of the task"),
        "points": Column("int64", "points", "support points a task"),
        "task_seed": Column("int64", "-", "seed of the test tasks, as in post_adaptation"),
        "task": Column("int64", "-", "number of the test task"),
        "accuracy": Column("float64", "fraction", "points classified right, 0 to 1"),
    },
    "when_shallow_fails": {
        "model": Column(
            "str", "-", "model that was meta-trained with MAML for this row: lr, linnet; no saved run is involved"
        ),
        "varied": Column(
            "str", "-", "what is not as in the setting of Figure 1 at the study's length; none for that itself"
        ),
        "input_scale": Column(
            "float64", "-", "standard deviation of a coordinate of a point; Figure 1: 0.1, the paper: 1"
        ),
        "adapt_lr": Column("float64", "-", "adaptation learning rate; the paper: 0.5 for lr, 1.9 for linnet"),
        "meta_lr": Column("float64", "-", "learning rate of the outer loop; the paper: 0.01 for lr, 1.9 for linnet"),
        "points": Column("int64", "points", "points a task, in training and in the test; the paper: 1000"),
        "init_scale": Column("float64", "-", "factor on the default initial weights of every layer"),
        "iterations": Column("int64", "iterations", "meta-training iterations; the paper: 30,000"),
        "seed": Column("int64", "-", "seed of the initial weights and of the training tasks"),
        "status": _RUN["status"],
        "task_seed": Column("int64", "-", "seed of the test tasks, equal for all rows"),
        "task": Column("int64", "-", "number of the test task"),
        "evaluated_on": Column("str", "-", "same: the task's own support points; fresh: new points of the task"),
        "loss": Column("float64", "nats", "after adaptation, mean over the points"),
        "accuracy": Column("float64", "fraction", "after adaptation, points classified right, 0 to 1"),
        "mean_classifier": Column("float64", "fraction", "accuracy of the mean of y x over the support points"),
        "bayes": Column("float64", "fraction", "accuracy of the Bayes classifier, see ceilings"),
        "initial_size": Column(
            "float64", "logits", "standard deviation of the logit before meta-training: input_scale |W|"
        ),
        "start_size": Column("float64", "logits", "the same after meta-training and before adaptation"),
        "predicted_start": Column("float64", "logits", "start_size from the settings alone, for small logits; lr only"),
        "step_ratio": Column("float64", "-", "length of the fast step over that of the start, both of the one matrix"),
        "turn": Column("float64", "-", "tangent of the angle between the start and where the step ends"),
        "predicted_accuracy": Column(
            "float64",
            "fraction",
            "accuracy on fresh points that the turn and the mean classifier's angle imply; else NaN",
        ),
    },
    "linear_collapse": {
        **_RUN,
        "task_seed": Column("int64", "-", "seed of the test tasks"),
        "task": Column("Int64", "-", "number of the test task; missing for quantities of the run as a whole"),
        "stage": Column("str", "-", "before or after adaptation"),
        "quantity": Column("str", "-", "what is measured; the quantities are listed below"),
        "index": Column("int64", "-", "position in a spectrum, largest first; 0 for single numbers"),
        "value": Column("float64", "see unit", "the measurement"),
        "unit": Column("str", "-", "unit of the value"),
    },
    # What `make bench` measures, of no run: see tests/benchmarks.
    "benchmark": {
        "workload": Column("str", "-", "what is computed, see tests/benchmarks/workloads.py"),
        "kind": Column(
            "str",
            "-",
            "training: an iteration, drawing tasks and the outer step included; meta-gradient; or what is run",
        ),
        "axis": Column("str", "-", "what varies along a scaling curve: tasks, steps, width or seeds; empty: no curve"),
        "value": Column("Int64", "see axis", "where on that curve; missing where there is none"),
        "engine": Column(
            "str", "-", "who computes: naive is tests/naive.py, eager and compiled are ours, or a library"
        ),
        "status": Column("str", "-", "ok; or why there is no number: absent, not applicable, left out, failed"),
        "model": _RUN["model"],
        "layers": _SETTING["layers"],
        "method": Column("str", "-", "maml, klin or kfc; second order"),
        "steps": Column("int64", "steps", "adaptation steps"),
        "tasks": Column("int64", "tasks", "in a meta-step, or that are evaluated"),
        "seeds": Column("int64", "runs", "that are trained at once"),
        "width": Column("int64", "numbers", "units of a hidden layer, or filters of a convolution"),
        "ways": Column("int64", "classes", "a task of images"),
        "shots": Column("int64", "examples", "support examples a class, and as many to query"),
        "share": Column(
            "float64", "fraction", "of the tasks that were measured, by all engines alike; times are scaled"
        ),
        "seconds": Column("float64", "s", "of a meta-step, evaluation or study: median over rounds"),
        "seconds_low": Column("float64", "s", "the shortest round"),
        "seconds_high": Column("float64", "s", "the longest round"),
        "speedup": Column(
            "float64", "-", "time of naive over that of the engine in the same round, median over rounds"
        ),
        "speedup_low": Column("float64", "-", "the least of them"),
        "speedup_high": Column("float64", "-", "the largest of them"),
        "rounds": Column("int64", "rounds", "each has every engine once, in a shuffled order"),
        "least": Column("float64", "-", "what the speedup has to be at least; NaN: nothing was asked"),
        "aim": Column("float64", "-", "what it is to come to"),
        "gflop": Column("float64", "10^9 operations", "multiplications and additions in products and convolutions"),
        "counted": Column("str", "-", "on which engine they were counted, operation by operation"),
        "gflop_per_second": Column("float64", "10^9/s", "gflop over seconds"),
        "fraction_of_peak": Column("float64", "fraction", "of what the machine does in float32 matrix products, then"),
        "peak_memory_mib": Column(
            "float64", "MiB", "that a step takes at most, above what the process keeps between steps; NaN: not measured"
        ),
        "compile_seconds": Column("float64", "s", "that the first step took longer; NaN for what is not compiled"),
        "compile_seconds_again": Column(
            "float64", "s", "the same in a second process, which finds the first one's files"
        ),
        "difference": Column("float64", "-", "largest relative difference of a result from the reference's"),
        "compared_in": Column("str", "-", "precision of that comparison: float64 or float32"),
        "cpu": Column("str", "-", "processor"),
        "cores": Column("int64", "cores", "of the machine"),
        "threads": Column("int64", "threads", "that PyTorch was allowed"),
        "peak_gflop_per_second": Column(
            "float64", "10^9/s", "of float32 products of 2048 x 2048, measured just before"
        ),
        "load": Column("float64", "processes", "that ran or waited on the machine, mean of the minute before"),
        "notes": Column("str", "-", "what was tried where a workload stays below its aim, and what limits it"),
    },
    "outer_loop": {
        "workload": Column("str", "-", "what is trained, see tests/benchmarks/outer_loop.py"),
        "engine": Column("str", "-", "eager or compiled, both ours"),
        "part": Column("str", "-", "of an iteration beside its meta-step: sampling, logging, evaluation, checkpoints"),
        "seconds": Column("float64", "s", "that it takes, shared out over the iterations between two of its kind"),
        "step_seconds": Column("float64", "s", "of the meta-step, on tasks drawn before"),
        "fraction": Column("float64", "fraction", "seconds over step_seconds"),
        "iterations": Column("int64", "iterations", "of the training, as long as the paper's"),
        "eval_points": Column("int64", "points", "of its curve"),
        "eval_tasks": Column("int64", "tasks", "of each split behind a point"),
        "cpu": Column("str", "-", "processor"),
        "cores": Column("int64", "cores", "of the machine"),
        "threads": Column("int64", "threads", "that PyTorch was allowed"),
        "load": Column("float64", "processes", "that ran or waited on the machine, mean of the minute before"),
    },
    "half_precision": {
        "dataset": Column("str", "-", "tasks that were trained on"),
        "model": Column("str", "-", "model"),
        "method": Column("str", "-", "method"),
        "seed": Column("int64", "-", "seed of the initial weights and of the tasks"),
        "dtype": Column("str", "-", "of meta-gradients within tasks in training; all was measured in float32"),
        "status": Column("str", "-", "of the run: ok, or where it diverged"),
        "iterations": Column("int64", "iterations", "of meta-training"),
        "tasks_per_iteration": Column("int64", "tasks", "in an iteration"),
        "num_tasks": Column("int64", "tasks", "test tasks that accuracy is a mean over"),
        "loss": Column("float64", "nats", "mean query loss after adaptation"),
        "accuracy": Column("float64", "fraction", "mean query accuracy after adaptation"),
        "seconds": Column("float64", "s", "of the training, both ends of its curve included"),
    },
}

# What the column `quantity` of linear_collapse may say.
QUANTITIES = {
    "logit difference": "largest absolute difference of a logit, on the query points, between the network (float32) "
    "and its one matrix",
    "logit tolerance": "what that difference must not exceed: 1e-5 for logits up to 1, 1e-5 of the largest logit above",
    "logit size": "largest absolute logit of the network on the query points",
    "parameters of the network": "numbers in the layers",
    "parameters collapsed": "numbers in the one matrix, and its bias if there is one",
    "multiply-adds of the network": "for one example, layer by layer",
    "multiply-adds collapsed": "for one example, with the one matrix",
    "update map": "singular values of the linear map from the gradient of the one matrix to its one-step update, "
    "per unit of adapt_lr: the sum over layers for LinNet, R^T (x) L for KLin",
    "adapt_lr": "adaptation learning rate, which multiplies the update map",
    "beyond first order": "Frobenius norm of what the update map misses of the true one-step change of the one "
    "matrix, relative to that change",
}

# What the column `quantity` of inside_optimizer may say.
INSIDE_QUANTITIES = {
    "singular value": "factor: of a matrix that starts at the identity",
    "rate": "factor: each of the numbers that act one by one, and start at 1",
    "eigenvalue": "factor: of L L^T for Cholesky, those that need not be zero",
    "distance from the start": "factor: Frobenius norm of the difference, relative to that of the start",
    "best multiple": "factor: the number c for which c times the identity is nearest",
    "distance beyond a rate": "factor: from that multiple, relative to the identity; 0 for a mere change of rate",
    "norm": "factor: Frobenius norm of a bias, which starts at zero",
    "cosine": "alignment: of the update with the gradient of the support loss",
    "norm ratio": "alignment: norm of the update, before adapt_lr, over that of the gradient",
    "descent": "alignment: 1 if the update's product with the gradient is positive, else 0",
    "gradient norm": "alignment: Frobenius norm of the gradient",
    "loss": "comparison: mean over the examples, as in post_adaptation",
    "accuracy": "comparison: examples classified right, as in post_adaptation",
}

# Columns that are finite wherever the status is ok.
MEASUREMENTS = ("loss", "training_loss", "accuracy", "value")
