"""Probes of adaptation: functions of a snapshot that give a number for each task, most of them for each layer.

They are passed to `analysis.engine.intervene`, which calls them after each adaptation step; `adaptation_path` has them
all. A new one is any function like these.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from analysis.errors import StudyError
from analysis.representations import debiased_cka
from analysis.snapshots import Snapshot


def distance(snapshot: Snapshot) -> dict[str, Tensor]:
    """|theta_t - theta_0| / |theta_0| of each layer."""
    return {
        layer: _ratio(snapshot.theta_of(layer) - snapshot.first.theta_of(layer), snapshot.first.theta_of(layer))
        for layer in snapshot.layers
    }


def update_norm(snapshot: Snapshot) -> dict[str, Tensor] | None:
    """|theta_t - theta_(t-1)| / |theta_0| of each layer, from the first step on."""
    if snapshot.step == 0:
        return None
    return {layer: _ratio(snapshot.update_of(layer), snapshot.first.theta_of(layer)) for layer in snapshot.layers}


def update_cosine(snapshot: Snapshot) -> dict[str, Tensor] | None:
    """Cosine of the last two updates of each layer, from the second step on; NaN for a layer that does not move."""
    if snapshot.last is None or snapshot.step < 2:
        return None
    return {layer: _cosine(snapshot.update_of(layer), snapshot.last.update_of(layer)) for layer in snapshot.layers}


def descent_cosine(snapshot: Snapshot) -> dict[str, Tensor] | None:
    """Cosine of the last update of each layer with minus the gradient that it was made of: 1 for gradient descent."""
    if snapshot.last is None:
        return None
    gradient = snapshot.last.gradient
    return {layer: _cosine(snapshot.update_of(layer), -snapshot.of(gradient, layer)) for layer in snapshot.layers}


def cka_to_start(snapshot: Snapshot) -> dict[str, Tensor]:
    """Debiased CKA of what each layer makes of the support and query examples, now and before adaptation.

    NaN where it cannot be measured: fewer than 4 examples, or a layer that gives the same for all.
    """
    now, start = _joined(snapshot), _joined(snapshot.first)
    return {layer: _by_task(debiased_cka, now[layer], start[layer]) for layer in now}


def prototype_accuracy(snapshot: Snapshot) -> dict[str, Tensor] | None:
    """Query accuracy without a head: each example gets the class whose support examples' mean output is nearest.

    What a layer's outputs are worth by themselves (Snell, Swersky and Zemel, 2017; for the features before the head,
    "no inner loop" of Raghu et al., 2020, with the Euclidean distance in place of their cosine). For classification.
    """
    if snapshot.episodes.kind == "regression":
        return None
    support_y, query_y = snapshot.episodes.support_y.long(), snapshot.episodes.query_y.long()
    num_classes = int(torch.stack([support_y.max(), query_y.max()]).max()) + 1
    member = torch.nn.functional.one_hot(support_y, num_classes)  # (T, n, c)
    counts = member.sum(1)
    found = {}
    for layer, support in snapshot.outputs("support").items():
        x, query = support.flatten(2).double(), snapshot.outputs("query")[layer].flatten(2).double()
        prototypes = member.double().mT @ x / counts.clamp_min(1).unsqueeze(2)
        # A class without a support example has no prototype, and is nobody's nearest.
        distances = torch.cdist(query, prototypes).masked_fill((counts == 0).unsqueeze(1), torch.inf)
        found[layer] = (distances.argmin(2) == query_y).double().mean(1)
    return found


def within_class_cosine(snapshot: Snapshot) -> dict[str, Tensor] | None:
    """Mean cosine of each layer's outputs for two query examples of one class, centred over the query set."""
    return _mean_cosines(snapshot, lambda same: same)


def between_class_cosine(snapshot: Snapshot) -> dict[str, Tensor] | None:
    """Mean cosine of each layer's outputs for two query examples of two classes, centred over the query set."""
    return _mean_cosines(snapshot, lambda same: ~same)


PROBES: Mapping[str, Callable[[Snapshot], Mapping[str, Tensor] | None]] = {
    "distance": distance,
    "update norm": update_norm,
    "update cosine": update_cosine,
    "descent cosine": descent_cosine,
    "cka to start": cka_to_start,
    "prototype accuracy": prototype_accuracy,
    "within-class cosine": within_class_cosine,
    "between-class cosine": between_class_cosine,
}


def _ratio(x: Tensor, y: Tensor) -> Tensor:
    """|x| / |y| of each task, (T,); NaN where y is zero."""
    size = y.norm(dim=1)
    return (x.norm(dim=1) / size).where(size > 0, torch.nan)


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of x and y (T, k) of each task, (T,); NaN where one is zero."""
    defined = (x != 0).any(1) & (y != 0).any(1)
    return cosine_similarity(x.double(), y.double(), dim=1).where(defined, torch.nan)


def _joined(snapshot: Snapshot) -> dict[str, Tensor]:
    """Each layer's outputs (T, n, p) for the support and then the query examples."""
    query = snapshot.outputs("query")
    return {
        layer: torch.cat([support.flatten(2), query[layer].flatten(2)], dim=1)
        for layer, support in snapshot.outputs("support").items()
    }


def _by_task(measure: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor) -> Tensor:
    def measured(one: Tensor, other: Tensor) -> float:
        try:
            return measure(one, other)
        except StudyError:
            return float("nan")

    return torch.tensor([measured(one, other) for one, other in zip(x, y, strict=True)], dtype=torch.float64)


def _mean_cosines(snapshot: Snapshot, wanted: Callable[[Tensor], Tensor]) -> dict[str, Tensor] | None:
    """Mean over the pairs of different query examples that are `wanted`, of those with equal classes (T, q, q)."""
    if snapshot.episodes.kind == "regression":
        return None
    y = snapshot.episodes.query_y
    same = y.unsqueeze(1) == y.unsqueeze(2)
    pairs = wanted(same) & ~torch.eye(y.shape[1], dtype=torch.bool, device=y.device)
    found = {}
    for layer, outputs in snapshot.outputs("query").items():
        x = outputs.flatten(2).double()
        x = normalize(x - x.mean(1, keepdim=True), dim=2)
        found[layer] = (x @ x.mT * pairs).sum((1, 2)) / pairs.sum((1, 2))  # NaN without such a pair
    return found
