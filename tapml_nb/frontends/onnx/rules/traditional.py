"""Traditional machine learning (``ai.onnx.ml``): trees, and features on their way there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper
from tvm import relax, te, tirx

from tapml_nb.frontends.onnx.rules.call import Call, Expr, Rule, constant, dtype_of, shape_of

_MEMBER = 6
"""The comparison of a node that asks whether a feature is one of several values."""

_AGGREGATES = {0: te.sum, 1: te.sum, 2: te.min, 3: te.max}
"""Average, sum, minimum and maximum of what the trees say."""

_DEEPEST = 64


def array_feature_extractor(call: Call, x: Expr, index: Expr) -> Expr:
    """Some elements of the last axis; of a list they become a row."""
    shape, count = shape_of(x), math.prod(shape_of(index))
    flat = call.emit(relax.op.reshape(index, [count]))
    taken = call.emit(relax.op.take(x, flat, len(shape) - 1))
    return relax.op.reshape(taken, [*(shape[:-1] or [1]), count])


def binarizer(call: Call, x: Expr) -> Expr:
    above = relax.op.greater(x, constant(call.attributes.get("threshold", 0.0), x))
    return relax.op.astype(call.emit(above), dtype_of(x))


def label_encoder(call: Call, x: Expr) -> Expr:
    """Another number for each: of a key that is there twice the last one's; NaN is NaN.

    Raises:
        ValueError: for texts.
    """
    keys, values = (_listed(call.attributes, name) for name in ("keys", "values"))
    spec = call.gives[0]
    if spec is None or keys is None or values is None:
        raise ValueError("keys or values that are texts")
    default = _default(call.attributes, values.dtype)
    dtype = dtype_of(x)
    floating = "float" in dtype

    def find(data: te.Tensor, known: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, len(keys)), "k")

        def element(*at: Any) -> Any:
            one, other = data(*at), known(k)
            alike: Any = one == other
            if floating:
                alike = tirx.any(alike, tirx.all(tirx.isnan(one), tirx.isnan(other)))
            none = tirx.const(-1, "int32")
            return te.max(tirx.Select(alike, tirx.Cast("int32", k), none), axis=k)

        return te.compute(data.shape, element, "place")

    def label(place: te.Tensor, named: te.Tensor) -> te.Tensor:
        def element(*at: Any) -> Any:
            own = place(*at)
            return tirx.Select(own >= 0, named(tirx.max(own, 0)), tirx.const(default, named.dtype))

        return te.compute(place.shape, element, "label")

    known = relax.const(keys.astype(dtype), dtype)
    places = call.compute(find, x, known, name="label_place")
    named = relax.const(values, values.dtype.name)
    return call.compute(label, places, named, name="label")


def _listed(told: Any, what: str) -> np.ndarray | None:
    """Keys or values that are numbers; None where they are texts."""
    for name, dtype in ((f"{what}_floats", np.float32), (f"{what}_int64s", np.int64)):
        if told.get(name):
            return np.array(told[name], dtype)
    if tensor := told.get(f"{what}_tensor"):
        array = np.asarray(numpy_helper.to_array(tensor)).reshape(-1)
        return array if array.dtype.kind in "iuf" else None
    return None


def _default(told: Any, dtype: np.dtype) -> Any:
    if tensor := told.get("default_tensor"):
        return np.asarray(numpy_helper.to_array(tensor)).reshape(-1)[0].item()
    return told.get("default_float", -0.0) if dtype.kind == "f" else told.get("default_int64", -1)


@dataclass(frozen=True)
class _Trees:
    """The nodes of all trees, and behind them their leaves, by their numbers.

    Attributes:
        features, modes, splits, missing: what a node asks of which feature, and whether a feature
            that is NaN does.
        then, otherwise: where it leads.
        roots: a node for each tree.
        depth: steps from a root to its farthest leaf.
    """

    features: np.ndarray
    modes: np.ndarray
    splits: np.ndarray
    missing: np.ndarray
    then: np.ndarray
    otherwise: np.ndarray
    roots: np.ndarray
    depth: int

    @classmethod
    def of(cls, told: Any) -> _Trees:
        features = np.array(told["nodes_featureids"], np.int32)
        count = len(features)

        def leads(way: str) -> np.ndarray:
            to = np.array(told[f"nodes_{way}nodeids"], np.int32)
            return np.where(np.array(told[f"nodes_{way}leafs"]) != 0, to + count, to)

        then, otherwise = leads("true").astype(np.int32), leads("false").astype(np.int32)
        roots = np.array(told["tree_roots"], np.int32)
        depth, reached = 0, set(roots.tolist())
        while reached := {int(way[n]) for n in reached if n < count for way in (then, otherwise)}:
            depth += 1
            if depth > _DEEPEST:
                raise ValueError(f"trees of more than {_DEEPEST} levels")
        return cls(
            features,
            np.asarray(numpy_helper.to_array(told["nodes_modes"]), np.int32),
            np.asarray(numpy_helper.to_array(told["nodes_splits"])),
            np.array(told.get("nodes_missing_value_tracks_true") or [0] * count, np.int32),
            then,
            otherwise,
            roots,
            depth,
        )


def tree_ensemble(call: Call, x: Expr) -> Expr:
    """What the leaves that a row of features leads to say together, one of each tree.

    Raises:
        ValueError: if scores are transformed, or a target may have no leaf that is the least.
    """
    told = call.attributes
    how = told.get("aggregate_function", 1)
    if told.get("post_transform", 0):
        raise ValueError("scores that are transformed")
    if how in (2, 3) and told["n_targets"] != 1:
        raise ValueError("the least or the largest of several targets")
    trees, dtype, rows = _Trees.of(told), dtype_of(x), shape_of(x)[0]
    answers = _answers(call, x, trees, told)
    at = call.emit(relax.op.broadcast_to(_whole(trees.roots[None]), [rows, len(trees.roots)]))
    for _ in range(trees.depth):
        at = _step(call, at, answers, trees)
    leaves = np.asarray(numpy_helper.to_array(told["leaf_weights"])).astype(dtype)
    targets = np.array(told["leaf_targetids"], np.int32)
    aggregate, share = _AGGREGATES[how], len(trees.roots) if how == 0 else 1

    def together(place: te.Tensor, weights: te.Tensor, owners: te.Tensor) -> te.Tensor:
        tree = te.reduce_axis((0, len(trees.roots)), "tree")

        def element(row: Any, target: Any) -> Any:
            leaf = place(row, tree) - len(trees.features)
            value = weights(leaf) / tirx.const(share, dtype) if share > 1 else weights(leaf)
            if how in (0, 1):
                value = tirx.Select(owners(leaf) == target, value, tirx.const(0, dtype))
            return aggregate(value, axis=tree)

        return te.compute([rows, told["n_targets"]], element, "scores")

    given = relax.const(leaves, dtype), _whole(targets)
    return call.compute(together, at, *given, name="tree_scores")


def _whole(array: np.ndarray) -> Expr:
    return relax.const(array.astype(np.int32), "int32")


def _answers(call: Call, x: Expr, trees: _Trees, told: Any) -> Expr:
    """Of every row what every node says to it: 1 for true."""
    dtype, count = dtype_of(x), len(trees.features)
    sets = _members(trees, told)

    def belongs(
        data: te.Tensor, feature: te.Tensor, owner: te.Tensor, value: te.Tensor
    ) -> te.Tensor:
        m = te.reduce_axis((0, len(sets)), "m")

        def element(row: Any, node: Any) -> Any:
            is_one = tirx.all(owner(m) == node, data(row, feature(node)) == value(m))
            return te.max(tirx.Cast("int32", is_one), axis=m)

        return te.compute([data.shape[0], count], element, "belongs")

    def ask(
        data: te.Tensor,
        feature: te.Tensor,
        mode: te.Tensor,
        split: te.Tensor,
        missing: te.Tensor,
        *members: te.Tensor,
    ) -> te.Tensor:
        def element(row: Any, node: Any) -> Any:
            own, bound, kind = data(row, feature(node)), split(node), mode(node)
            asked = [own <= bound, own < bound, own >= bound, own > bound, own == bound]
            answer: Any = tirx.Cast("int32", own != bound)
            for number, says in enumerate(asked):
                answer = tirx.Select(kind == number, tirx.Cast("int32", says), answer)
            if members:
                answer = tirx.Select(kind == _MEMBER, members[0](row, node), answer)
            return tirx.Select(tirx.all(tirx.isnan(own), missing(node) > 0), tirx.const(1), answer)

        return te.compute([data.shape[0], count], element, "answers")

    features = _whole(trees.features)
    members = []
    if sets:
        owner = _whole(np.array([node for node, _ in sets]))
        value = relax.const(np.array([v for _, v in sets]).astype(dtype), dtype)
        members = [call.compute(belongs, x, features, owner, value, name="tree_members")]
    split = relax.const(trees.splits.astype(dtype), dtype)
    given = features, _whole(trees.modes), split, _whole(trees.missing)
    return call.compute(ask, x, *given, *members, name="tree_answers")


def _members(trees: _Trees, told: Any) -> list[tuple[int, float]]:
    """Nodes that ask for one of several values, each with every one of these; a set ends with NaN,
    and they come in the order of their nodes."""
    asking = [n for n, mode in enumerate(trees.modes) if mode == _MEMBER]
    if not asking:
        return []
    found, nodes = [], iter(asking)
    node = next(nodes, None)
    for value in numpy_helper.to_array(told["membership_values"]).tolist():
        if math.isnan(value):
            node = next(nodes, None)
        elif node is not None:
            found.append((node, value))
    return found


def _step(call: Call, at: Expr, answers: Expr, trees: _Trees) -> Expr:
    """A step down every tree; who is at a leaf stays there."""
    count = len(trees.features)

    def walk(place: te.Tensor, says: te.Tensor, then: te.Tensor, other: te.Tensor) -> te.Tensor:
        def element(row: Any, tree: Any) -> Any:
            own = place(row, tree)
            node = tirx.min(own, count - 1)
            onward = tirx.Select(says(row, node) > 0, then(node), other(node))
            return tirx.Select(own < count, onward, own)

        return te.compute(place.shape, element, "walked")

    ways = _whole(trees.then), _whole(trees.otherwise)
    return call.compute(walk, at, answers, *ways, name="tree_step")


RULES: dict[str, Rule] = {
    "ai.onnx.ml.ArrayFeatureExtractor": array_feature_extractor,
    "ai.onnx.ml.Binarizer": binarizer,
    "ai.onnx.ml.LabelEncoder": label_encoder,
    "ai.onnx.ml.TreeEnsemble": tree_ensemble,
}
