"""A PyTorch model operator by operator: source run, float64 run, Relax units."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.node import map_aggregate

from tapml_nb.frontends.program import Decide, FrontendError, Granularity, Unit, first_line
from tapml_nb.frontends.torch.chance import draws
from tapml_nb.frontends.torch.coarse import fused_groups, module_groups
from tapml_nb.frontends.torch.exact import WIDE, Operands, Widen, squared, widened
from tapml_nb.frontends.torch.export import decompose, export, step_arguments
from tapml_nb.frontends.torch.graph import GroupedGraph, build_graph
from tapml_nb.frontends.torch.grouping import TorchOp, group_nodes, is_assertion, is_tensor
from tapml_nb.frontends.torch.model import ExportedModel, tensor_specs
from tapml_nb.frontends.torch.recipe import recipe_of
from tapml_nb.frontends.torch.sizes import OpenSizes, SeenSizes
from tapml_nb.frontends.torch.tensors import array_of, from_array, memory_of, to_numpy
from tapml_nb.frontends.torch.units import build_module
from tapml_nb.frontends.torch.workarounds import Workaround, choose
from tapml_nb.graph import OpId, ValueId

_OPEN = (torch.Tensor, torch.SymInt)
"""What an operator may read that need not be part of its unit."""

_ANY_STRIDES: dict[Any, Any] = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}
"""Calls that depend on strides, and what computes the same without: the strides that PyTorch
foresees when it exports are not always those that its kernels give (batch norm's of a permuted
tensor), so that a view that was captured may be none."""

_SELECTS = frozenset(
    (
        torch.ops.aten.embedding.default,
        torch.ops.aten.gather.default,
        torch.ops.aten.index_select.default,
        torch.ops.aten.select.int,
        torch.ops.aten.slice.Tensor,
    )
)
"""Calls that give a part of what may be much, as it is: the part is widened, and not all of it."""

_OF_DTYPE = frozenset((torch.ops.aten.nextafter.default,))
"""Calls about the numbers that a dtype has: exact as they are, and something else in float64."""


def import_torch(
    model: torch.nn.Module | ExportedProgram,
    inputs: Any,
    *,
    dynamic_shapes: Any = None,
    name: str | None = None,
    workarounds: Sequence[str] = (),
) -> TorchProgram:
    """Import a PyTorch model with the inputs to debug it on, as :func:`tapml_nb.debug` takes them.

    Raises:
        TypeError, ValueError: if the inputs do not fit the model or there is no such workaround,
            said in one line.
        FrontendError: if the model runs but cannot be exported.
    """
    chosen = choose(workarounds)
    steps = step_arguments(inputs)
    if isinstance(model, ExportedProgram):
        found = ExportedModel(decompose(model), steps, name=name or "model")
    else:
        exported = export(model, steps, dynamic_shapes)
        found = ExportedModel(exported, steps, name=name or type(model).__name__, owner=model)
    return TorchProgram(found, workarounds=chosen)


class TorchProgram:
    """A PyTorch model as a :class:`~tapml_nb.frontends.program.Program`.

    Tensors are ``torch.Tensor``, on the model's own device.
    """

    array_of = staticmethod(array_of)
    to_numpy = staticmethod(to_numpy)
    from_array = staticmethod(from_array)
    memory = staticmethod(memory_of)

    def __init__(
        self,
        model: ExportedModel,
        *,
        workarounds: Sequence[Workaround] = (),
        grouped: GroupedGraph | None = None,
        operators: TorchProgram | None = None,
    ) -> None:
        """At operator granularity, unless nodes are ``grouped`` otherwise than in ``operators``."""
        self._model = model
        self._workarounds = workarounds
        self._grouped = grouped or build_graph(model, group_nodes(model.graph))
        self._operators = operators or self
        self._built: dict[Hashable, tuple[Any, str]] = {}
        self.graph = self._grouped.graph
        self.steps, self.mutations = len(model.steps), model.mutations
        self.bind, self.marks = model.bind, model.marks

    def at(self, granularity: Granularity, decide: Decide) -> TorchProgram:
        """The same model with other operators (see
        :class:`~tapml_nb.frontends.program.CoarseProgram`); this one is at operator granularity."""
        if granularity.unit == "operator":
            return self
        model = self._model
        if granularity.unit == "module":
            calls = [self._grouped.ops[op.id].nodes for op in self.graph.ops]
            calls = [nodes for nodes in calls if not all(map(is_assertion, nodes))]
            groups = module_groups(model.graph, calls, granularity.depth)
        else:
            ends = dict.fromkeys([*self.graph.outputs, *self.mutations.values()])
            results = [model.nodes[value] for value in ends]
            groups = fused_groups(model.graph, results, decide, self._workarounds)
        grouped = build_graph(model, groups, granularity=granularity, calls=self._grouped)
        return TorchProgram(model, workarounds=self._workarounds, grouped=grouped, operators=self)

    def operators(self) -> TorchProgram:
        """The same model at operator granularity."""
        return self._operators

    # -- Program -----------------------------------------------------------------------------

    def run(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any]:
        """Run one operator in PyTorch; outputs in graph order.

        Raises:
            FrontendError: if PyTorch refuses to: ``torch.export`` captures some calls that it does
                not compute (a Fourier transform of an empty batch).
        """
        program = self._grouped.ops[op]
        try:
            return _run(program, self._operands(program, values))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise FrontendError(
                f"PyTorch cannot run {op}, which torch.export captured: {first_line(error)}; try "
                f"whether the model itself runs on these inputs"
            ) from error

    def draws(self, op: OpId, values: Mapping[ValueId, Any]) -> bool:
        """Whether PyTorch says of a node of the operator that its result depends on a seed."""
        return any(draws(node, values) for node in self._grouped.ops[op].nodes)

    def repeatable(self, op: OpId) -> Callable[[Mapping[ValueId, Any]], list[Any]]:
        """What runs an operator from the state in which PyTorch's generators are now."""
        on_cpu = torch.get_rng_state()
        used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        on_cuda = torch.cuda.get_rng_state_all() if used else []

        def again(values: Mapping[ValueId, Any]) -> list[Any]:
            with torch.random.fork_rng(devices=range(len(on_cuda))):
                torch.set_rng_state(on_cpu)
                for device, state in enumerate(on_cuda):
                    torch.cuda.set_rng_state(state, device)
                return self.run(op, values)

        return again

    def run_exact(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any] | None:
        """Run one operator in float64: inputs widened, and dtypes named inside it, too."""
        return self._run_wide(op, values, widened)

    def run_squared(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any] | None:
        """The same of the squares of its floating-point inputs."""
        return self._run_wide(op, values, squared)

    def _run_wide(self, op: OpId, values: Mapping[ValueId, Any], widen: Widen) -> list[Any] | None:
        program = self._grouped.ops[op]
        operands = self._operands(program, values)
        try:
            if all(node.target in _SELECTS for node in program.nodes):
                return [widen(tensor) for tensor in _run(program, operands, None)]
            wide = Operands(operands, widen)
            return _run(program, wide.env, wide)
        except torch.OutOfMemoryError:  # which says nothing of the operator
            raise
        except (RuntimeError, TypeError, NotImplementedError):
            return None  # no float64 kernel: the operator has no noise floor, and says so

    def unit(self, op: OpId, values: Mapping[ValueId, Any], *, symbolic: bool = False) -> Unit:
        """The operator as a Relax function (see :class:`~tapml_nb.frontends.program.Program`)."""
        program = self._grouped.ops[op]
        env = self._operands(program, values)
        sizes = OpenSizes(program.inputs) if symbolic and self._model.has_open_sizes else None
        if sizes and not (sizes.variables and sizes.fit(env)):
            sizes = None  # a derived input's shape need not be one of the model's
        slot: Hashable | None
        if sizes:  # numbers that are no sizes are part of a unit, so there is one for each
            baked = [env[n] for n in program.inputs if not isinstance(n.meta.get("val"), _OPEN)]
            slot = (op, *map(repr, baked))
        else:
            slot = recipe_of(program, env)
        built = self._built.get(slot)
        if built is None:
            made = {node: values[node.name] for node in program.outputs}
            seen = None if sizes else SeenSizes({**env, **made})
            built = build_module(program, env, self._workarounds, sizes, seen)
            if slot is not None:
                self._built[slot] = built
        module, conversion = built
        return Unit(
            module,
            tensor_specs(env.values()),
            tensor_specs(values[node.name] for node in program.outputs),
            conversion,
            sizes is not None,
            tuple(int(env[node]) for node in sizes.numbers) if sizes else (),
        )

    def _operands(self, program: TorchOp, values: Mapping[ValueId, Any]) -> dict[fx.Node, Any]:
        """What an operator reads: values, and the graphs that a call like ``torch.cond`` runs."""
        graphs = self._model.graphs
        return {n: graphs[n.name] if n.name in graphs else values[n.name] for n in program.inputs}


def _run(program: TorchOp, env: dict[fx.Node, Any], wide: Operands | None = None) -> list[Any]:
    """What an operator's nodes yield on top of ``env``; where this is that of ``wide`` operands, in
    float64."""
    dtypes = WIDE if wide else {}

    def resolve(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return env[argument]
        return dtypes.get(argument, argument) if isinstance(argument, torch.dtype) else argument

    with torch.no_grad():
        for node in program.nodes:
            call = _ANY_STRIDES.get(node.target, node.target)
            if wide:
                own = node.target in _OF_DTYPE
                call = wide.taking(node, _in_its_own_dtype(node) if own else call)
            args = map_aggregate(node.args, resolve)
            kwargs = map_aggregate(node.kwargs, resolve)
            try:
                env[node] = call(*args, **kwargs)
            except RuntimeError as error:
                if not is_assertion(node):
                    raise
                warnings.warn(  # torch.export has guessed a bound; the model itself runs
                    f"an assertion of the exported program does not hold: {first_line(error)}",
                    stacklevel=2,
                )
    return [wide.result(node) if wide else env[node] for node in program.outputs]


def _in_its_own_dtype(node: fx.Node) -> Callable[..., Any]:
    """A call on operands that are widened, in the dtype that it is exported with."""
    dtype = node.meta["val"].dtype

    def call(*args: Any, **kwargs: Any) -> Any:
        narrow = (a.to(dtype) if is_tensor(a) and a.is_floating_point() else a for a in args)
        return widened(node.target(*narrow, **kwargs))  # type: ignore[operator]

    return call
