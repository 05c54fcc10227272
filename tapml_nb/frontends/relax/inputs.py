"""What a Relax function takes: leaves of its parameters, checked against their types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tapml_nb.frontends.arrays import by_name, is_tensor, spec_of, to_array
from tapml_nb.frontends.relax.bindings import Bindings, is_size, match, sizes_in
from tapml_nb.graph import ValueId


def bind_steps(
    function: Any,
    bindings: Bindings,
    steps: Sequence[Any],
    made: Mapping[ValueId, Callable[[], Any]],
) -> list[dict[ValueId, Any]]:
    """The values that every step starts from: leaves of the parameters, and symbolic sizes.

    What ``made`` makes, the module's own objects, need not be given.

    Raises:
        TypeError, ValueError: if something does not fit the function, or weights differ between
            steps.
    """
    bound = [_bound(function, bindings, step, made, index) for index, step in enumerate(steps)]
    first = bound[0]
    for index, values in enumerate(bound[1:], 1):
        for key in weights_of(function, bindings):
            if values[key] is not first[key] and not np.array_equal(values[key], first[key]):
                raise ValueError(
                    f"inputs: step {index}: {key} differs from step 0's; weights must not "
                    f"change between steps"
                )
    return bound


def weights_of(function: Any, bindings: Bindings) -> set[ValueId]:
    """The leaves that are weights: parameters of the function behind its inputs."""
    params = function.params
    inputs = int((function.attrs or {}).get("num_input", len(params)))
    weights = {param.name for param in params[inputs:]}
    return {key for key, name in bindings.params.items() if name in weights}


def _bound(
    function: Any,
    bindings: Bindings,
    step: Any,
    made: Mapping[ValueId, Callable[[], Any]],
    index: int,
) -> dict[ValueId, Any]:
    names = [param.name for param in function.params]
    weights = list((function.attrs or {}).get("params", ()))
    known = dict(zip(names[len(names) - len(weights) :], weights, strict=True))
    known |= {bindings.params[key]: make for key, make in made.items()}
    given = _by_parameter(step, names, known, index)
    values: dict[ValueId, Any] = {}
    sizes: dict[Any, int] = {}
    leaves = iter(bindings.params)
    for param in function.params:
        for value, ty in _members(given[param.name], param.ty, f"step {index}: {param.name}"):
            key = next(leaves)
            values[key] = _checked(value, ty, f"step {index}: {key}", sizes)
    for key, var in bindings.variables.items():
        if is_size(var) and var in sizes:
            values[key] = sizes[var]
    return values


def _by_parameter(
    step: Any, names: Sequence[str], known: Mapping[str, Any], index: int
) -> dict[str, Any]:
    if isinstance(step, Mapping):
        return by_name({**known, **step}, names, index)
    if len(step) == len(names):
        return dict(zip(names, step, strict=True))
    asked = [name for name in names if name not in known]
    return by_name({**known, **by_name(step, asked, index)}, names, index)


def _members(value: Any, ty: Any, where: str) -> list[tuple[Any, Any]]:
    """A parameter's leaves with their types."""
    if not isinstance(ty, relax.TupleType):
        return [(value, ty)]
    if not isinstance(value, tuple | list) or len(value) != len(ty.fields):
        raise ValueError(f"inputs: {where} is a tuple of {len(ty.fields)} tensors; give these")
    pairs = zip(value, ty.fields, strict=True)
    return [leaf for member, field in pairs for leaf in _members(member, field, where)]


def _checked(value: Any, ty: Any, where: str, sizes: dict[Any, int]) -> Any:
    """A leaf as the program holds it; what its shape says of symbolic sizes is added to them."""
    if isinstance(ty, relax.TensorType):
        array = to_array(value, where)
        dims = sizes_in(ty) if ty.shape is not None else list(array.shape)
        if array.dtype.name != str(ty.dtype) or not match(dims, array.shape, sizes):
            raise ValueError(f"inputs: {where} is {spec_of(array)}, the function takes {ty}")
        return array
    if isinstance(ty, relax.ShapeType):
        shape = tuple(map(int, value if isinstance(value, tuple | list) else (value,)))
        if not match(sizes_in(ty) or list(shape), shape, sizes):
            raise ValueError(f"inputs: {where} is {shape}, the function takes {ty}")
        return shape
    if isinstance(ty, tvm.ir.PrimType):
        return value.item() if is_tensor(value) else value
    if not callable(value):
        raise TypeError(
            f"inputs: {where} is an object of TVM's virtual machine; give a function without "
            f"arguments that makes it anew"
        )
    return value
