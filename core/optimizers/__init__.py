"""Meta-optimizers, by name."""

import inspect

from core.errors import UserError, unknown_name
from core.optimizers.base import MetaOptimizer
from core.optimizers.kronecker import KFC, KLin
from core.optimizers.meta_curvature import MetaCurvature
from core.optimizers.meta_sgd import MetaSGD
from core.optimizers.sgd import SGD
from core.optimizers.unfactored import Cholesky, Linear

OPTIMIZERS: dict[str, type[MetaOptimizer]] = {
    rule.name: rule for rule in (SGD, MetaSGD, MetaCurvature, KLin, KFC, Cholesky, Linear)
}


def make_optimizer(name: str, **options: object) -> MetaOptimizer:
    """A meta-optimizer by name; `options` are the keyword arguments of its class, see `OPTIMIZERS`.

    Raises:
        UserError: for an unknown name, an option that the rule does not have, or a missing one.
    """
    if name not in OPTIMIZERS:
        raise unknown_name("meta-optimizer", name, OPTIMIZERS)
    rule = OPTIMIZERS[name]
    accepted = inspect.signature(rule).parameters if rule.__init__ is not object.__init__ else {}
    if refused := sorted(options.keys() - accepted.keys()):
        known = ", ".join(accepted) or "none"
        raise UserError(f"meta-optimizer {name!r} has no option {', '.join(refused)}; it has: {known}")
    if missing := sorted(required_options(name) - options.keys()):
        raise UserError(f"meta-optimizer {name!r} needs {', '.join(missing)}")
    return rule(**options)


def required_options(name: str) -> set[str]:
    """The options without which the meta-optimizer called `name` cannot be made."""
    rule = OPTIMIZERS[name]
    accepted = inspect.signature(rule).parameters if rule.__init__ is not object.__init__ else {}
    return {key for key, parameter in accepted.items() if parameter.default is parameter.empty}
