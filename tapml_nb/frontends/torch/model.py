"""An exported model with its inputs: what every step starts from, and what it leaves."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from tapml_nb.frontends.builder import GraphBuilder
from tapml_nb.frontends.program import Mark
from tapml_nb.frontends.torch.export import StepInputs
from tapml_nb.frontends.torch.grouping import is_tensor
from tapml_nb.frontends.torch.sizes import exported_size
from tapml_nb.graph import TensorSpec, ValueId
from tapml_nb.graph.model import Role

_ROLES: dict[InputKind, Role] = {
    InputKind.USER_INPUT: "input",
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
}


class ExportedModel:
    """A decomposed ``ExportedProgram`` and the inputs of every step.

    A value's id is its FX node's name.

    Attributes:
        name: what to call the model.
        graph: its nodes.
        nodes: the same by name.
        graphs: what calls such as ``torch.cond`` run, by the names of the nodes that hold it.
        steps: the leaves of each step's inputs, in the program's order.
    """

    def __init__(
        self,
        exported: ExportedProgram,
        steps: Sequence[StepInputs],
        *,
        name: str,
        owner: torch.nn.Module | None = None,
    ) -> None:
        """``owner`` is the module that was exported, if there is one.

        Raises:
            ValueError: if a step's inputs are not what the model was exported for.
        """
        self.name = name
        self.graph: fx.Graph = exported.graph
        self.nodes = {node.name: node for node in exported.graph.nodes}
        self._exported = exported
        self._owner = weakref.ref(owner) if owner is not None else lambda: None
        held = {
            node.name: getattr(exported.graph_module, str(node.target))
            for node in exported.graph.nodes
            if node.op == "get_attr"
        }
        self.graphs = {key: value for key, value in held.items() if not is_tensor(value)}
        self._constants = {key: value for key, value in held.items() if is_tensor(value)}
        self.steps = [self._leaves(args, kwargs, i) for i, (args, kwargs) in enumerate(steps)]

    @cached_property
    def has_open_sizes(self) -> bool:
        """Whether a tensor's shape is left open anywhere."""
        return any(
            isinstance(size, torch.SymInt)
            for node in self.graph.nodes
            if is_tensor(node.meta.get("val"))
            for size in node.meta["val"].shape
        )

    @property
    def outputs(self) -> list[ValueId]:
        """What it returns, flattened; a number that is no value at all is left out."""
        return [
            spec.arg.name
            for spec in self._exported.graph_signature.output_specs
            if spec.kind is OutputKind.USER_OUTPUT and hasattr(spec.arg, "name")
        ]

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

    def declare(self, builder: GraphBuilder) -> list[ValueId]:
        """Add all that no operator yields to a graph, and return what the user gives of it."""
        given: list[ValueId] = []
        for spec in self._exported.graph_signature.input_specs:
            if isinstance(spec.arg, ConstantArgument):
                continue
            key, role = spec.arg.name, _ROLES.get(spec.kind, "constant")
            builder.add_value(key, role, spec_of(self.nodes[key].meta["val"]), spec.target)
            if role == "input":
                given.append(key)
        for key, value in self._constants.items():
            builder.add_value(key, "constant", spec_of(value))
        return given

    def bind(self, step: int, state: Mapping[ValueId, Any]) -> dict[ValueId, Any]:
        """The values a step starts from (see :class:`~tapml_nb.frontends.program.Program`)."""
        exported = self._exported
        buffers = dict(exported.named_buffers())
        leaves = iter(self.steps[step])
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
        for step, leaves in enumerate(self.steps):
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

    def _leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any], step: int) -> list[Any]:
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
            expected = self.nodes[spec.arg.name].meta["val"]
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


def spec_of(value: Any) -> TensorSpec | None:
    """Shape and dtype of a tensor or an example of one, as
    :func:`~tapml_nb.frontends.torch.tensors.to_numpy` gives it; None for what is no tensor."""
    if not is_tensor(value):
        return None
    shape = tuple(-1 if (n := exported_size(size)) is None else n for size in value.shape)
    if value.is_complex():
        return TensorSpec((*shape, 2), _name(value.dtype.to_real()), complex=True)
    return TensorSpec(shape, _name(value.dtype))


def tensor_specs(values: Iterable[Any]) -> tuple[TensorSpec, ...]:
    """Those of the tensors among values."""
    return tuple(spec for value in values if (spec := spec_of(value)))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _describe(value: Any) -> str:
    if not is_tensor(value):
        return f"a {type(value).__name__}"
    shape = [-1 if (n := exported_size(size)) is None else n for size in value.shape]
    return str(TensorSpec(tuple(shape), _name(value.dtype)))


def _fits(leaf: torch.Tensor, expected: Any) -> bool:
    if not is_tensor(expected) or leaf.dtype != expected.dtype or leaf.dim() != expected.dim():
        return False
    sizes = zip(leaf.shape, expected.shape, strict=True)
    return all(isinstance(want, torch.SymInt) or have == want for have, want in sizes)


def _stamp(tensor: torch.Tensor | None) -> tuple[int, int]:
    """Where a tensor is, and how often it was written to; what cannot be told is 0."""
    where = writes = 0
    if tensor is not None:
        with suppress(RuntimeError, NotImplementedError):  # it has no address
            where = tensor.data_ptr()
        with suppress(RuntimeError):  # inference tensors count no writes
            writes = tensor._version
    return where, writes
