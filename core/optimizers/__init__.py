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
    known = rule_options(name)
    if refused := sorted(options.keys() - known.keys()):
        words = ", ".join(known) or "none"
        raise UserError(f"meta-optimizer {name!r} has no option {', '.join(refused)}; it has: {words}")
    if missing := sorted(key for key, needed in known.items() if needed and key not in options):
        raise UserError(f"meta-optimizer {name!r} needs {', '.join(missing)}")
    return OPTIMIZERS[name](**options)


def rule_options(name: str) -> dict[str, bool]:
    """The options of the meta-optimizer called `name`, each with whether it cannot be made without."""
    rule = OPTIMIZERS[name]
    accepted = inspect.signature(rule).parameters if rule.__init__ is not object.__init__ else {}
    return {key: parameter.default is parameter.empty for key, parameter in accepted.items()}
