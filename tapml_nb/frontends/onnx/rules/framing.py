"""What is cut out of a tensor, or stands in the middle of a larger one; parts of a tensor."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, dtype_of, numbers, shape_of


def center_crop_pad(call: Call, x: Expr, shape: Expr) -> Expr:
    """The middle of every axis that is too long, zeros around every one that is too short; what is
    odd is at its end."""
    sizes = shape_of(x)
    axes = [a % len(sizes) for a in call.attributes.get("axes") or range(len(sizes))]
    wanted = list(sizes)
    for axis, size in zip(axes, numbers(shape), strict=True):
        wanted[axis] = int(size)
    moved = [  # where the first element of the result is in the input
        (old - new) // 2 if old > new else -((new - old) // 2)
        for old, new in zip(sizes, wanted, strict=True)
    ]

    def frame(data: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            places = [place + by for place, by in zip(at, moved, strict=True)]
            inside = [
                tirx.all(place >= 0, place < old)
                for place, old, new in zip(places, sizes, wanted, strict=True)
                if new > old
            ]
            read = data(*places)
            zero = tirx.const(0, data.dtype)
            return tirx.if_then_else(tirx.all(*inside), read, zero) if inside else read

        return te.compute(wanted, element, "framed")

    return call.compute(frame, x, name="center_crop_pad")


def split(call: Call, x: Expr, sizes: Expr | None = None) -> tuple[Expr, ...]:
    """Parts of an axis, some of which may be empty."""
    axis = call.attributes.get("axis", 0) % len(shape_of(x))
    ends = [spec.shape[axis] if spec else 0 for spec in call.gives]
    if sizes is not None:
        ends = [int(size) for size in numbers(sizes)]
    elif told := call.attributes.get("split"):
        ends = list(told)
    parts: list[Expr] = []
    begin = 0
    for size in ends:
        shape = [*shape_of(x)[:axis], size, *shape_of(x)[axis + 1 :]]
        part = relax.op.strided_slice(x, [axis], [begin], [begin + size])
        parts.append(part if 0 not in shape else relax.op.zeros(shape, dtype_of(x)))
        begin += size
    return tuple(parts)


def reshape(call: Call, data: Expr, shape: Expr) -> Expr:
    """Other sizes for as many elements: 0 is the size that was there, or none at all where the node
    says so, and one may be left to the others (-1)."""
    wanted, before = [int(n) for n in numbers(shape)], shape_of(data)
    if not call.attributes.get("allowzero"):
        wanted = [before[k] if n == 0 else n for k, n in enumerate(wanted)]
    if 0 in before:  # to Relax 0 is always what was there
        return relax.op.zeros(wanted, dtype_of(data))
    return relax.op.reshape(data, wanted)


RULES: dict[str, Rule] = {"CenterCropPad": center_crop_pad, "Reshape": reshape, "Split": split}
