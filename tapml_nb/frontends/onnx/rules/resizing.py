"""Images of another size: every axis by itself, each element a sum of some of the input's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, cast, dtype_of, numbers, shape_of

_Single = np.float32


@dataclass(frozen=True)
class _Axis:
    """How an axis is to be made anew.

    Attributes:
        axis: which one.
        size: of the input.
        wanted: how many elements it is to have.
        scale: how many of them there are for one of the input's, as the node says it.
        begin, end: the part of the input that it shows, in shares of it.
    """

    axis: int
    size: int
    wanted: int
    scale: float
    begin: float = 0.0
    end: float = 1.0


def resize(
    call: Call,
    x: Expr,
    roi: Expr | None = None,
    scales: Expr | None = None,
    sizes: Expr | None = None,
) -> Expr:
    """``Resize`` in all its modes; in operator set 10 its second input is the scales.

    Raises:
        ValueError: if scales, sizes or region are not known, or a mode is none of ONNX's.
    """
    told: Any = dict(call.attributes)
    if call.node.opsets.get("", 1) < 11:
        roi, scales = None, roi
        told |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _resized(call, x, told, _axes(told, shape_of(x), *map(_known, (roi, scales, sizes))))


def upsample(call: Call, x: Expr, scales: Expr | None = None) -> Expr:
    """What ``Resize`` was called before it had more modes."""
    told: Any = dict(call.attributes)
    told |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    factors = told.get("scales") if scales is None else numbers(scales)
    axes = _axes(told, shape_of(x), None, np.array(factors, np.float32), None)
    return _resized(call, x, told, axes)


def _known(given: Expr | None) -> np.ndarray | None:
    """The numbers of an input; None where it is left out, or empty, which means the same."""
    found = None if given is None else numbers(given)
    return found if found is not None and found.size else None


def _axes(
    told: Any,
    shape: Sequence[int],
    roi: np.ndarray | None,
    scales: np.ndarray | None,
    sizes: np.ndarray | None,
) -> list[_Axis]:
    """The axes that change, or are read between their elements."""
    rank = len(shape)
    axes = [axis % rank for axis in told.get("axes") or range(rank)]
    crops = told["coordinate_transformation_mode"] == "tf_crop_and_resize"
    parts = [(0.0, 1.0)] * len(axes)
    if crops and roi is not None:
        parts = [(float(roi[k]), float(roi[len(axes) + k])) for k in range(len(axes))]
    if sizes is not None:
        ratios = [float(n) / shape[axis] for n, axis in zip(sizes, axes, strict=True)]
        policy = told.get("keep_aspect_ratio_policy", "stretch")
        wanted = [int(n) for n in sizes]
        if policy != "stretch":
            ratios = [max(ratios) if policy == "not_smaller" else min(ratios)] * len(axes)
            wanted = [math.floor(ratios[0] * shape[axis] + 0.5) for axis in axes]
    elif scales is not None:
        ratios = [float(scale) for scale in scales]
        wanted = [
            int(np.floor(_Single(scale) * _Single(shape[axis]) * _Single(end - begin)))
            for scale, axis, (begin, end) in zip(scales, axes, parts, strict=True)
        ]
    else:
        raise ValueError("neither scales nor sizes")
    made = [
        _Axis(axis, shape[axis], n, ratio, begin, end)
        for axis, n, ratio, (begin, end) in zip(axes, wanted, ratios, parts, strict=True)
    ]
    return [a for a in made if crops or a.wanted != a.size or a.scale != 1]


def _resized(call: Call, x: Expr, told: Any, axes: Sequence[_Axis]) -> Expr:
    mode, dtype = told["mode"], dtype_of(x)
    if mode != "nearest" and not dtype.startswith(("float", "bfloat")):
        raise ValueError(f"{mode} interpolation of {dtype}")
    wide = "float64" if dtype == "float64" else "float32"
    result = x if mode == "nearest" else call.emit(cast(x, wide))
    outside = []
    for axis in axes:
        at = _positions(told["coordinate_transformation_mode"], axis)
        outside.append((at < 0) | (at > axis.size - 1))
        if mode == "nearest":
            result = _picked(call, result, axis, _nearest(told["nearest_mode"], at, axis.size))
        else:
            result = _mixed(call, result, axis, *_taps(told, at, axis))
    if told["coordinate_transformation_mode"] == "tf_crop_and_resize":
        value = tirx.const(told["extrapolation_value"], dtype_of(result))
        result = _filled(
            call, result, [(a.axis, o) for a, o in zip(axes, outside, strict=True)], value
        )
    return cast(call.emit(result), dtype)


def _positions(mode: str, axis: _Axis) -> np.ndarray:
    """Where the elements of a new axis are on the old one, in float32 as scales are."""
    place = np.arange(axis.wanted, dtype=_Single)
    size, wanted, scale = (_Single(n) for n in (axis.size, axis.wanted, axis.scale))
    half, one = _Single(0.5), _Single(1)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and axis.wanted > 1):
        return (place + half) / scale - half
    if mode == "pytorch_half_pixel":
        return place * 0
    if mode == "half_pixel_symmetric":
        shift = size / 2 * (one - wanted / (scale * size))
        return shift + (place + half) / scale - half
    if mode == "asymmetric":
        return place / scale
    if mode == "align_corners":
        return place * 0 if axis.wanted == 1 else place * (size - 1) / (wanted - 1)
    if mode == "tf_crop_and_resize":
        begin, end = _Single(axis.begin), _Single(axis.end)
        if axis.wanted == 1:
            return (begin + end) * (size - 1) / 2 + place
        return begin * (size - 1) + place * (end - begin) * (size - 1) / (wanted - 1)
    raise ValueError(f"coordinate_transformation_mode {mode}")


def _nearest(mode: str, at: np.ndarray, size: int) -> np.ndarray:
    """The element that is read for each place."""
    rounding: dict[str, Any] = {
        "round_prefer_floor": lambda a: np.ceil(a - _Single(0.5)),
        "round_prefer_ceil": lambda a: np.floor(a + _Single(0.5)),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    return np.asarray(np.clip(rounding[mode](at), 0, size - 1), np.int32)


def _taps(told: Any, at: np.ndarray, axis: _Axis) -> tuple[np.ndarray, np.ndarray]:
    """Which elements are added up for each place, and with which weights: two arrays of a row for
    each place.  An antialiasing kernel is as much wider as the axis becomes shorter."""
    reach = {"linear": 1, "cubic": 2}[told["mode"]]
    stretch = max(1.0, 1.0 / axis.scale) if told.get("antialias") else 1.0
    steps = np.arange(1 - math.ceil(reach * stretch), 1 + math.ceil(reach * stretch))
    places = np.floor(at).astype(np.int64)[:, None] + steps
    away = np.abs((places - at[:, None].astype(np.float64)) / stretch)
    weights = np.maximum(0, 1 - away) if reach == 1 else _cubic(away, told["cubic_coeff_a"])
    if told.get("exclude_outside"):
        weights = np.where((places >= 0) & (places < axis.size), weights, 0)
    if told.get("exclude_outside") or told.get("antialias"):
        weights = weights / weights.sum(1, keepdims=True)
    return np.clip(places, 0, axis.size - 1).astype(np.int32), weights


def _cubic(away: np.ndarray, a: float) -> np.ndarray:
    """The kernel of R. Keys, *Cubic Convolution Interpolation for Digital Image Processing*."""
    near = ((a + 2) * away - (a + 3)) * away * away + 1
    far = ((a * away - 5 * a) * away + 8 * a) * away - 4 * a
    return np.where(away <= 1, near, np.where(away < 2, far, 0))


def _picked(call: Call, x: Expr, axis: _Axis, index: np.ndarray) -> Expr:
    return call.emit(relax.op.take(x, relax.const(index, "int32"), axis.axis))


def _mixed(call: Call, x: Expr, axis: _Axis, index: np.ndarray, weights: np.ndarray) -> Expr:
    def mix(data: te.Tensor, places: te.Tensor, shares: te.Tensor) -> te.Tensor:
        tap = te.reduce_axis((0, index.shape[1]), "tap")

        def element(*at: Any) -> Any:
            own = at[axis.axis]
            read = data(*at[: axis.axis], places(own, tap), *at[axis.axis + 1 :])
            return te.sum(read * shares(own, tap), axis=tap)

        shape = list(data.shape)
        shape[axis.axis] = axis.wanted
        return te.compute(shape, element, "resized")

    wide = dtype_of(x)
    given = relax.const(index, "int32"), relax.const(weights.astype(wide), wide)
    return call.compute(mix, x, *given, name="resize")


def _filled(call: Call, x: Expr, outside: Sequence[tuple[int, np.ndarray]], value: Any) -> Expr:
    """A tensor with one value wherever a place of some axis lies outside."""
    masks = [relax.const(mask.astype(np.int32), "int32") for _, mask in outside]

    def fill(data: te.Tensor, *given: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            beyond = [mask(at[axis]) > 0 for mask, (axis, _) in zip(given, outside, strict=True)]
            return tirx.Select(tirx.any(*beyond), value, data(*at))

        return te.compute(data.shape, element, "filled")

    return call.compute(fill, x, *masks, name="fill") if masks else x


RULES: dict[str, Rule] = {"Resize": resize, "Upsample": upsample}
