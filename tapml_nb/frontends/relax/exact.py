"""Operations that TVM computes in float32 whatever their dtype, by others that it does not."""

from __future__ import annotations

from typing import Any

from tvm import relax

NARROW = frozenset(
    f"relax.{name}"
    for name in (
        "image.affine_grid",
        "image.grid_sample",
        "image.resize2d",
        "image.resize3d",
        "nn.group_norm",
        "nn.instance_norm",
        "nn.layer_norm",
        "nn.rms_norm",
    )
)
"""Operations whose float64 kernels, if there are any, are no better than float32."""


def decomposed(call: Any) -> Any:
    """A normalization by means and squares; None for what has no such form here.

    Args:
        call: of an operation in :data:`NARROW`, with arguments of static shape.
    """
    name = str(call.op.name).removeprefix("relax.nn.")
    op, args, attrs = relax.op, list(call.args), call.attrs
    if name == "rms_norm":
        axes = list(map(int, attrs.axes))
        square = op.mean(op.multiply(args[0], args[0]), axes, keepdims=True)
        return op.multiply(op.multiply(args[0], _inverse_root(square, attrs.epsilon)), args[1])
    if name == "layer_norm":
        normal = _normal(args[0], list(map(int, attrs.axes)), attrs.epsilon)
        normal = op.multiply(normal, args[1]) if attrs.scale else normal
        return op.add(normal, args[2]) if attrs.center else normal
    if name == "group_norm" and int(attrs.channel_axis) == 1:
        shape = [int(size) for size in args[0].ty.shape]
        if [int(axis) for axis in attrs.axes] == list(range(2, len(shape))):
            grouped = op.reshape(args[0], (shape[0], int(attrs.num_groups), -1))
            normal = op.reshape(_normal(grouped, [2], attrs.epsilon), shape)
            by_channel = (1, shape[1], *[1] * (len(shape) - 2))
            if attrs.scale:
                normal = op.multiply(normal, op.reshape(args[1], by_channel))
            return op.add(normal, op.reshape(args[2], by_channel)) if attrs.center else normal
    return None


def _normal(x: Any, axes: list[int], epsilon: float) -> Any:
    op = relax.op
    centred = op.subtract(x, op.mean(x, axes, keepdims=True))
    square = op.mean(op.multiply(centred, centred), axes, keepdims=True)
    return op.multiply(centred, _inverse_root(square, epsilon))


def _inverse_root(square: Any, epsilon: float) -> Any:
    return relax.op.rsqrt(relax.op.add(square, relax.const(epsilon, "float32")))
