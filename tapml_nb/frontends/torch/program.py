"""A PyTorch model operator by operator: graph, source run, float64 run, Relax units."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from tapml_nb.frontends.granularity import Decide, Granularity
from tapml_nb.frontends.program import Mark, Memory, Unit, Unsupported
from tapml_nb.frontends.torch.coarse import fused_groups, module_groups
from tapml_nb.frontends.torch.export import (
    StepInputs,
    decompose,
    export,
    split_steps,
)
from tapml_nb.frontends.torch.grouping import Group, group_nodes, is_assertion, is_tensor
from tapml_nb.frontends.torch.layout import laid_out
from tapml_nb.frontends.torch.naming import Part, call_name, kernel_name, module_name
from tapml_nb.frontends.torch.provenance import constants, source_line
from tapml_nb.frontends.torch.sizes import OpenSizes, exported_size
from tapml_nb.frontends.torch.units import Conversion, build_module
from tapml_nb.frontends.torch.workarounds import Workaround, choose
from tapml_nb.graph import Graph, Member, Op, OpId, TensorSpec, Value, ValueId
from tapml_nb.graph.model import Role, layer_of

_BITS = {torch.bfloat16: (torch.int16, ml_dtypes.bfloat16)} | {
    getattr(torch, name): (torch.uint8, getattr(ml_dtypes, name))
    for name in ("float8_e4m3fn", "float8_e5m2")
}
"""torch dtypes without a NumPy twin: the integer dtype of their bits, and ml_dtypes' dtype."""

_EXACT = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}

_ROLES: dict[InputKind, Role] = {
    InputKind.USER_INPUT: "input",
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
}

_OPEN = (torch.Tensor, torch.SymInt)
"""What an operator may read that need not be part of its unit."""

_ANY_STRIDES: dict[Any, Any] = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}
"""Calls that depend on strides, and what computes the same without: the strides that PyTorch
foresees when it exports are not always those that its kernels give (batch norm's of a permuted
tensor), so that a view that was captured may be none."""


def import_torch(
    model: torch.nn.Module | ExportedProgram,
    inputs: Any,
    *,
    dynamic_shapes: Any = None,
    name: str | None = None,
    workarounds: Sequence[str] = (),
) -> TorchProgram:
    """Import a PyTorch model with the inputs to debug it on.

    Args:
        model: a module in eval mode, or an ``ExportedProgram``.
        inputs: a tuple or dict of tensors for one step, or a list of them for several.
        dynamic_shapes: as for ``torch.export.export``; needed when steps differ in shape.
        name: what to call the model; default its class name.
        workarounds: names of what is to stand in for wrong rules of TVM's importer (see
            :mod:`tapml_nb.frontends.torch.workarounds`).

    Raises:
        TypeError, ValueError: if the inputs do not fit the model or there is no such workaround,
            said in one line.
        FrontendError: if the model runs but cannot be exported.
    """
    chosen = choose(workarounds)
    steps = split_steps(inputs)
    if isinstance(model, ExportedProgram):
        exported = decompose(model)
        default = "model"
    else:
        exported = export(model, steps, dynamic_shapes)
        default = type(model).__name__
    owner = None if isinstance(model, ExportedProgram) else model
    return TorchProgram(exported, steps, name or default, chosen, owner)


@dataclass(frozen=True)
class _TorchOp:
    """An operator's nodes, the nodes it reads, and the nodes others read of it."""

    nodes: Group
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


class TorchProgram:
    """A decomposed ``ExportedProgram`` as a :class:`~tapml_nb.frontends.program.Program`.

    A value's id is its FX node's name.
    """

    def __init__(
        self,
        exported: ExportedProgram,
        steps: Sequence[StepInputs],
        name: str,
        workarounds: Sequence[Workaround] = (),
        owner: torch.nn.Module | None = None,
    ) -> None:
        """``owner`` is the module that was exported, if there is one."""
        self._exported = exported
        self._owner = weakref.ref(owner) if owner is not None else lambda: None
        self._workarounds = workarounds
        self._nodes = {node.name: node for node in exported.graph.nodes}
        self._ops: dict[OpId, _TorchOp] = {}
        self._operators = self
        self._open_units: dict[tuple[str, ...], Conversion] = {}
        self._has_open_sizes = any(
            isinstance(size, torch.SymInt)
            for node in exported.graph.nodes
            if is_tensor(node.meta.get("val"))
            for size in node.meta["val"].shape
        )
        self._constants = {
            node.name: getattr(exported.graph_module, str(node.target))
            for node in exported.graph.nodes
            if node.op == "get_attr"
        }
        self._steps = [self._flatten(args, kwargs, i) for i, (args, kwargs) in enumerate(steps)]
        self.graph = self._build_graph(name, group_nodes(exported.graph), Granularity("operator"))
        self._home = {node: op for op, program in self._ops.items() for node in program.nodes}

    def at(self, granularity: Granularity, decide: Decide) -> TorchProgram:
        """The same model with other operators; this program is at operator granularity.

        Args:
            granularity: what one operator is to be.
            decide: lets the target decide what it fuses; asked where the granularity needs it.

        Raises:
            ValueError: if no module is as deep as the granularity says.
        """
        if granularity.unit == "operator":
            return self
        graph = self._exported.graph
        if granularity.unit == "module":
            calls = [self._ops[op.id].nodes for op in self.graph.ops]
            calls = [nodes for nodes in calls if not all(map(is_assertion, nodes))]
            groups = module_groups(graph, calls, granularity.depth)
        else:
            ends = dict.fromkeys([*self.graph.outputs, *self.mutations.values()])
            results = [self._nodes[value] for value in ends]
            groups = fused_groups(graph, results, decide, self._workarounds)
        coarse = copy(self)
        coarse._ops = {}
        coarse._open_units = {}
        coarse.graph = coarse._build_graph(self.graph.name, groups, granularity)
        return coarse

    def operators(self) -> TorchProgram:
        """The same model at operator granularity."""
        return self._operators

    # -- Program -----------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """How many steps of inputs were given."""
        return len(self._steps)

    def bind(self, step: int, state: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """The values a step starts from (see :class:`~tapml_nb.frontends.program.Program`)."""
        exported = self._exported
        buffers = dict(exported.named_buffers())
        leaves = iter(self._steps[step])
        values: dict[ValueId, Any] = dict(self._constants)
        for spec in exported.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                value = next(leaves)
            elif spec.kind is InputKind.PARAMETER:
                value = exported.state_dict[spec.target]
            elif spec.kind is InputKind.BUFFER:
                value = buffers[spec.target]
            elif spec.kind is InputKind.TOKEN:  # it orders calls that check something
                value = torch.empty(0)
            else:
                value = exported.constants[spec.target]
            if not isinstance(spec.arg, ConstantArgument):
                values[spec.arg.name] = value.detach() if is_tensor(value) else value
        return values | dict(state)

    @property
    def mutations(self) -> dict[ValueId, ValueId]:
        """The buffers that a step changes, each with the value that it then holds."""
        signature = self._exported.graph_signature
        inputs = {spec.target: spec.arg.name for spec in signature.input_specs if spec.target}
        return {
            inputs[spec.target]: spec.arg.name
            for spec in signature.output_specs
            if spec.kind is OutputKind.BUFFER_MUTATION
        }

    def marks(self) -> dict[tuple[ValueId, int], Mark]:
        """Marks of parameters, buffers, constants and inputs: where they are, and PyTorch's count
        of the writes to them."""
        exported = self._exported
        owned: dict[tuple[ValueId, int], Any] = {(k, 0): v for k, v in self._constants.items()}
        users = []
        for spec in exported.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                users.append(spec.arg)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                owned[spec.arg.name, 0] = self._owned(str(spec.target))
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                owned[spec.arg.name, 0] = exported.constants[spec.target]
        for step, leaves in enumerate(self._steps):
            for argument, leaf in zip(users, leaves, strict=True):
                if is_tensor(leaf) and not isinstance(argument, ConstantArgument):
                    owned[argument.name, step] = leaf
        return {slot: Mark(_stamp(tensor), tensor) for slot, tensor in owned.items()}

    def _owned(self, target: str) -> torch.Tensor | None:
        """A parameter or buffer as the model has it now; None if it has none of that name."""
        exported = self._exported
        owner = self._owner()
        if owner is None:
            known = exported.state_dict.get(target)
            return dict(exported.named_buffers()).get(target) if known is None else known
        try:
            tensor = attrgetter(target)(owner)
        except AttributeError:
            return None
        return tensor if is_tensor(tensor) else None

    def run(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any]:
        """Run one operator in PyTorch; outputs in graph order."""
        return self._run(self._ops[op], {n: values[n.name] for n in self._ops[op].inputs}, {})

    def may_be_random(self, op: OpId) -> bool:
        """Whether PyTorch says of a node of the operator that its result depends on a seed."""
        return any(
            torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            and constants(node).get("dropout_p") != 0
            for node in self._ops[op].nodes
        )

    def repeatable(self, op: OpId) -> Callable[[Mapping[ValueId, Any]], list[Any]]:
        """What runs an operator from the state in which PyTorch's generators are now."""
        on_cpu = torch.get_rng_state()
        used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        on_cuda = torch.cuda.get_rng_state_all() if used else []

        def again(values: Mapping[ValueId, Any]) -> list[Any]:
            with _generators(on_cpu, on_cuda):
                return self.run(op, values)

        return again

    def run_exact(self, op: OpId, values: Mapping[ValueId, Any]) -> list[Any] | None:
        """Run one operator in float64: inputs widened, and dtypes named inside it, too."""
        program = self._ops[op]
        wide = {node: _widen(values[node.name]) for node in program.inputs}
        try:
            return self._run(program, wide, _EXACT)
        except (RuntimeError, TypeError, NotImplementedError):
            return None  # no float64 kernel: the operator has no noise floor, and says so

    def unit(self, op: OpId, values: Mapping[ValueId, Any], *, symbolic: bool = False) -> Unit:
        """The operator as a Relax function (see :class:`~tapml_nb.frontends.program.Program`)."""
        program = self._ops[op]
        env = {node: values[node.name] for node in program.inputs}
        conversion: Conversion | None = None
        sizes = OpenSizes(program.inputs) if symbolic and self._has_open_sizes else None
        if sizes and not (sizes.variables and sizes.fit(env)):
            sizes = None  # a derived input's shape need not be one of the model's
        # Numbers that are no sizes are part of a unit, so there is one for each.
        baked = [env[n] for n in program.inputs if not isinstance(n.meta.get("val"), _OPEN)]
        slot = (op, *map(repr, baked))
        if sizes:
            conversion = self._open_units.get(slot)
        if conversion is None:
            conversion = build_module(
                program.nodes, program.inputs, program.outputs, env, self._workarounds, sizes
            )
        if sizes:
            self._open_units[slot] = conversion
        return Unit(
            conversion.module,
            tuple(_spec(values[n.name]) for n in program.inputs if is_tensor(values[n.name])),
            tuple(_spec(values[n.name]) for n in program.outputs),
            conversion.words,
            sizes is not None,
            tuple(int(env[node]) for node in sizes.numbers) if sizes else (),
        )

    def to_numpy(self, tensor: torch.Tensor) -> np.ndarray:
        """The tensor's values as a contiguous array; bfloat16 and float8 as ml_dtypes."""
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dtype in _BITS:
            bits, dtype = _BITS[tensor.dtype]
            return np.asarray(tensor.view(bits).numpy().view(dtype))
        return np.asarray(tensor.resolve_conj().resolve_neg().numpy())

    def from_numpy(self, array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        """A tensor with these values on the device of ``like``, and laid out as it is."""
        if not array.flags.writeable:  # PyTorch cannot promise to leave it alone
            array = array.copy()
        for dtype, (bits, twin) in _BITS.items():
            if array.dtype == np.dtype(twin):
                width = np.dtype(str(bits).removeprefix("torch."))
                return laid_out(torch.from_numpy(array.view(width)).view(dtype), like)
        return laid_out(torch.from_numpy(array), like)

    def memory(self, tensor: torch.Tensor) -> Memory | None:
        """The tensor's storage (see :class:`~tapml_nb.frontends.program.Program`)."""
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
        if not plain or tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            return None
        storage = tensor.untyped_storage()

        def data() -> np.ndarray:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            return np.asarray(whole.cpu().numpy())

        place = (int(tensor.storage_offset()), tensor.shape, tensor.stride())
        return Memory(storage.data_ptr(), data, partial(_over, tensor.dtype, tensor.device, place))

    # -- import ------------------------------------------------------------------------------

    def _flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any], step: int) -> list[Any]:
        """One step's leaves in the program's order, checked against the first step's."""
        signature = self._exported.graph_signature
        specs = [s for s in signature.input_specs if s.kind is InputKind.USER_INPUT]
        in_spec = self._exported.call_spec.in_spec
        if in_spec is not None and kwargs:
            names = in_spec.child(1).context
            if set(names) != set(kwargs):
                raise ValueError(
                    f"inputs: step {step} has the keywords {sorted(kwargs)}, "
                    f"the exported model takes {sorted(names)}"
                )
            kwargs = {name: kwargs[name] for name in names}
        leaves = pytree.tree_leaves((args, kwargs))
        if len(leaves) != len(specs):
            raise ValueError(
                f"inputs: step {step} holds {len(leaves)} tensors, the model takes {len(specs)}"
            )
        for leaf, spec in zip(leaves, specs, strict=True):
            if isinstance(spec.arg, ConstantArgument):
                continue
            expected = self._nodes[spec.arg.name].meta["val"]
            if is_tensor(leaf) and not _fits(leaf, expected):
                other = is_tensor(expected) and leaf.dtype != expected.dtype
                remedy = (
                    f"convert it with .to({expected.dtype})"
                    if other
                    else "pass dynamic_shapes if its shape varies"
                )
                raise ValueError(
                    f"inputs: step {step}: {spec.arg.name} is {_describe(leaf)}, the model was "
                    f"exported for {_describe(expected)}; {remedy}"
                )
        return leaves

    def _build_graph(self, model: str, groups: Sequence[Group], granularity: Granularity) -> Graph:
        values = self._external_values()
        parts_of = self._parts if granularity.unit != "operator" else lambda nodes: ()
        ops: list[Op] = []
        used: dict[str, int] = {}
        for nodes in groups:
            parts = parts_of(nodes)
            if not parts or parts[0].op.host:
                name = call_name(nodes)
            elif granularity.unit == "fused":
                name = kernel_name(parts)
            else:
                name = module_name(parts, granularity.depth, self._operators.graph)
            count = used[name.id] = used.get(name.id, -1) + 1
            op_id = f"{name.id}_{count}" if count else name.id
            program = self._ops[op_id] = _operator(nodes, checked=not parts)
            for k, node in enumerate(program.outputs):
                label = f"{op_id}#{k}" if k else op_id
                host = not is_tensor(node.meta.get("val"))
                values[node.name] = Value(
                    node.name, "operator", _node_spec(node), label, op_id, host
                )
            ops.append(
                Op(
                    id=op_id,
                    kind=name.kind,
                    scope=name.scope,
                    module=name.module,
                    layer=layer_of(name.scope),
                    inputs=tuple(n.name for n in program.inputs if n.name in values),
                    outputs=tuple(n.name for n in program.outputs),
                    source=source_line(name.node),
                    primitives=tuple(str(n.target) for n in nodes),
                    host=not any(is_tensor(n.meta.get("val")) for n in program.outputs),
                    constants=constants(name.node) if len(parts) < 2 else {},
                    members=tuple(_member(part) for part in parts),
                )
            )
        signature = self._exported.graph_signature
        return Graph(
            name=model,
            ops=tuple(ops),
            values=values,
            inputs=tuple(v.id for v in values.values() if v.role == "input"),
            outputs=tuple(
                spec.arg.name
                for spec in signature.output_specs
                if spec.kind is OutputKind.USER_OUTPUT
                and getattr(spec.arg, "name", None) in values
                and not values[spec.arg.name].host
            ),
        )

    def _parts(self, nodes: Group) -> list[Part]:
        """The ATen calls that are in a group of nodes, in order."""
        fine = self._operators
        inside: dict[OpId, list[fx.Node]] = {}
        for node in nodes:
            inside.setdefault(fine._home[node], []).append(node)
        return [Part(fine.graph[op], tuple(part)) for op, part in inside.items()]

    def _external_values(self) -> dict[ValueId, Value]:
        values: dict[ValueId, Value] = {}
        for spec in self._exported.graph_signature.input_specs:
            if isinstance(spec.arg, ConstantArgument):
                continue
            node = self._nodes[spec.arg.name]
            value = node.meta["val"]
            host = not is_tensor(value)
            values[node.name] = Value(
                node.name,
                _ROLES.get(spec.kind, "constant"),
                TensorSpec((), "host") if host else _spec(value),
                spec.target or node.name,
                host=host,
            )
        for key, value in self._constants.items():
            if is_tensor(value):
                values[key] = Value(key, "constant", _spec(value), key)
        return values

    def _run(
        self, program: _TorchOp, env: dict[fx.Node, Any], dtypes: Mapping[torch.dtype, torch.dtype]
    ) -> list[Any]:
        def resolve(argument: Any) -> Any:
            if isinstance(argument, fx.Node):
                return env[argument]
            return dtypes.get(argument, argument) if isinstance(argument, torch.dtype) else argument

        with torch.no_grad():
            for node in program.nodes:
                args = pytree.tree_map(resolve, node.args)
                kwargs = pytree.tree_map(resolve, node.kwargs)
                call = _ANY_STRIDES.get(node.target, node.target)
                env[node] = call(*args, **kwargs)
        return [env[node] for node in program.outputs]


def _operator(nodes: Group, *, checked: bool = False) -> _TorchOp:
    """A group with its ends; ``checked`` if assertions are operators, too, and read values."""
    members = set(nodes)
    inputs = dict.fromkeys(a for n in nodes for a in n.all_input_nodes if a not in members)
    outputs = tuple(n for n in nodes if _is_output(n, members, checked))
    return _TorchOp(nodes, tuple(inputs), outputs)


def _member(part: Part) -> Member:
    inside = _operator(part.nodes)
    tensors = [
        [n for n in ends if is_tensor(n.meta.get("val"))]
        for ends in (inside.inputs, inside.outputs)
    ]
    inputs, outputs = (tuple(_node_spec(n) for n in ends) for ends in tensors)
    return Member(part.op.id, tuple(str(n.target) for n in part.nodes), inputs, outputs)


def _is_output(node: fx.Node, members: set[fx.Node], checked: bool) -> bool:
    """Whether others read this node; tuples are read through their ``getitem`` members.

    A node that nobody reads at all is dead code in the model, judged all the same.
    """
    value = node.meta.get("val")
    if value is None or isinstance(value, list | tuple):  # None: an assertion
        return False
    readers = [user for user in node.users if checked or not is_assertion(user)]
    return not readers or any(user not in members for user in readers)


def _node_spec(node: fx.Node) -> TensorSpec:
    value: Any = node.meta.get("val")
    return _spec(value) if is_tensor(value) else TensorSpec((), "host")


def _spec(tensor: torch.Tensor) -> TensorSpec:
    shape = tuple(-1 if (n := exported_size(size)) is None else n for size in tensor.shape)
    return TensorSpec(shape, str(tensor.dtype).removeprefix("torch."))


def _describe(value: Any) -> str:
    return str(_spec(value)) if is_tensor(value) else f"a {type(value).__name__}"


def _fits(leaf: torch.Tensor, expected: Any) -> bool:
    if not is_tensor(expected) or leaf.dtype != expected.dtype or leaf.dim() != expected.dim():
        return False
    sizes = zip(leaf.shape, expected.shape, strict=True)
    return all(isinstance(want, torch.SymInt) or have == want for have, want in sizes)


def _over(
    dtype: torch.dtype,
    device: torch.device,
    place: tuple[int, Sequence[int], Sequence[int]],
    data: np.ndarray,
) -> torch.Tensor:
    """A tensor at an offset, of a shape and strides (all in elements) in memory of its own."""
    storage = torch.from_numpy(data).to(device).untyped_storage()
    return torch.empty(0, dtype=dtype, device=device).set_(storage, *place)


def _stamp(tensor: torch.Tensor | None) -> tuple[int, int]:
    """Where a tensor is, and how often it was written to; what cannot be told is 0."""
    where = writes = 0
    if tensor is not None:
        with suppress(RuntimeError, NotImplementedError):  # it has no address
            where = tensor.data_ptr()
        with suppress(RuntimeError):  # inference tensors count no writes
            writes = tensor._version
    return where, writes


@contextmanager
def _generators(on_cpu: torch.Tensor, on_cuda: Sequence[torch.Tensor]) -> Iterator[None]:
    """While the block runs, random numbers are drawn from these states."""
    with torch.random.fork_rng(devices=range(len(on_cuda))):
        torch.set_rng_state(on_cpu)
        for device, state in enumerate(on_cuda):
            torch.cuda.set_rng_state(state, device)
        yield


def _widen(value: Any) -> Any:
    if is_tensor(value) and value.dtype in _EXACT:
        return value.to(_EXACT[value.dtype])
    return value


__all__ = ["TorchProgram", "Unsupported", "import_torch"]
