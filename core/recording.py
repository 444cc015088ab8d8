"""A computation as a flat list of tensor operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

Place = tuple[tuple[int, ...], tuple[int, ...], int]


def record(function: Callable[..., Any], *arguments: Any) -> fx.GraphModule:
    """The operations that `function` makes of these arguments, derivatives included; what comes of none is left out."""
    from torch.fx.experimental.proxy_tensor import make_fx  # loads PyTorch's compiler, as most processes need not

    recorded = make_fx(function)(*arguments)
    recorded.graph.eliminate_dead_code()
    recorded.recompile()
    return recorded


def replayed(recorded: fx.GraphModule, *arguments: Any) -> Callable[..., Any]:
    """The same, on other numbers than these `arguments`: views of views are made in one step, and each view once.

    Two in three operations of a meta-gradient are views. A view is a place in the memory of what is viewed, the same
    for all arguments that lie alike in memory: here, contiguously.
    """
    first = tree_map(_dense, arguments)
    _join_views(recorded, *first)
    strides = [tensor.stride() for tensor in tree_leaves(first)]

    def replay(*arguments: Any) -> Any:
        tensors, structure = tree_flatten(arguments)
        laid = [x if x.stride() == stride else _dense(x) for x, stride in zip(tensors, strides, strict=True)]
        with torch.no_grad():
            return recorded(*tree_unflatten(laid, structure))

    return replay


def _dense(x: Tensor) -> Tensor:
    """A contiguous copy, axes of length 1 included, whose strides have no meaning but are seen."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x)


def _join_views(recorded: fx.GraphModule, *arguments: Any) -> None:
    places: dict[fx.Node, Place] = {}
    viewed: dict[fx.Node, fx.Node] = {}  # by view
    with torch.no_grad():
        _Places(recorded, places, viewed).run(*arguments)
    made: dict[tuple[fx.Node, Place], fx.Node] = {}  # views by what is viewed, and where
    for node, base in viewed.items():
        whole, place = viewed.get(base, base), places[node]
        viewed[node] = whole
        if place == places[whole]:
            made[whole, place] = whole
        elif (whole, place) not in made and base is whole:
            made[whole, place] = node
        elif (whole, place) not in made:
            with recorded.graph.inserting_before(node):
                made[whole, place] = recorded.graph.call_function(torch.ops.aten.as_strided.default, (whole, *place))
        if made[whole, place] is not node:
            node.replace_all_uses_with(made[whole, place])
    recorded.graph.eliminate_dead_code()
    recorded.recompile()


class _Places(fx.Interpreter):
    """Notes where in memory each tensor lies, and which are views of which."""

    def __init__(self, recorded: fx.GraphModule, places: dict[fx.Node, Place], viewed: dict[fx.Node, fx.Node]) -> None:
        super().__init__(recorded)
        self._places, self._viewed = places, viewed

    def run_node(self, n: fx.Node) -> Any:
        """What comes of it."""
        out = super().run_node(n)
        if isinstance(out, Tensor):
            self._places[n] = tuple(out.shape), out.stride(), int(out.storage_offset())
            base = n.args[0] if n.args else None
            # Nothing is known of arguments' memory but that it is laid alike, and operations that write return views.
            if isinstance(base, fx.Node) and base.op == "call_function" and isinstance(n.target, OpOverload):
                of = self.env[base]
                if not n.target._schema.is_mutable and isinstance(of, Tensor) and _is_view(out, of):
                    self._viewed[n] = base
        return out


def _is_view(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()
