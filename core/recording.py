"""A computation as a flat list of tensor operations, to be fused by PyTorch's compiler or replayed as it is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from core.errors import UserError

Place = tuple[tuple[int, ...], tuple[int, ...], int]


class Recorded:
    """The operations that `function` makes of `tensors`, derivatives included; what nothing comes of is left out.

    Call it on tensors of the same shapes.

    Args:
        function: of tensors to a list of tensors. What it does hangs on shapes alone.
        tensors: what it is recorded with.
    """

    def __init__(self, function: Callable[..., list[Tensor]], *tensors: Tensor) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx  # loads PyTorch's compiler, as most processes need not

        # How a list reshapes hangs on how arguments lie in memory, so all of them are laid alike.
        self._first = [_dense(x) for x in tensors]
        self._expected = [(x.shape, x.dtype, x.stride()) for x in self._first]
        self._graph_module = make_fx(function)(*self._first)
        self._graph_module.graph.eliminate_dead_code()
        self._graph_module.recompile()
        self._run: Callable[..., list[Tensor]] = self._graph_module

    def __len__(self) -> int:
        """The number of operations."""
        return sum(node.op == "call_function" for node in self._graph_module.graph.nodes)

    def fuse(self) -> None:
        """Have PyTorch's compiler make fewer of them, when this is first called."""
        self._run = torch.compile(self._graph_module)

    def join_views(self) -> None:
        """Have views of views made in one step, and each view once.

        A view is a place in the memory of what is viewed. Two in three operations of a meta-gradient are views.
        """
        with torch.no_grad():
            _join_views(self._graph_module, *self._first)

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """What the function would return.

        Raises:
            UserError: for tensors of other shapes or types than those that were recorded.
        """
        laid = []
        for x, (shape, dtype, stride) in zip(tensors, self._expected, strict=True):
            if x.shape != shape or x.dtype != dtype:
                raise UserError(f"recorded for {tuple(shape)} of {dtype}, not for {tuple(x.shape)} of {x.dtype}")
            laid.append(x if x.stride() == stride and x.storage_offset() == 0 else _dense(x))
        with torch.no_grad():
            return self._run(*laid)


def _dense(x: Tensor) -> Tensor:
    """A contiguous copy, in axes of length 1, too, whose strides mean nothing but are seen."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x)


def _join_views(recorded: fx.GraphModule, *arguments: Any) -> None:
    places: dict[fx.Node, Place] = {}
    viewed: dict[fx.Node, fx.Node] = {}  # by view
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
            # What is written in place returns what it was given: no view, and to be done where it stands.
            if isinstance(base, fx.Node) and isinstance(n.target, OpOverload) and not n.target._schema.is_mutable:
                of = self.env[base]
                if isinstance(of, Tensor) and _is_view(out, of):
                    self._viewed[n] = base
        return out


def _is_view(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()
