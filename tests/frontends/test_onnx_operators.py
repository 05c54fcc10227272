"""Rules of ours for ONNX nodes that move, window, count, raise and train, against their sources,
through a session on llvm."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import tapml_nb as tapml
from tapml_nb import Verdict
from tapml_nb.frontends.onnx import import_onnx
from tests.frontends.test_onnx_rules import Case, normal, number, op_of, together

_RANDOM = np.random.default_rng(1)


def whole(*values, dtype=np.int64):
    return np.array(values, dtype)


def resized(*, shape=(1, 2, 5, 6), roi=None, scales=None, sizes=None, dtype=np.float32, **told):
    given = [None if a is None else np.array(a, np.float32) for a in (roi, scales)]
    given.append(None if sizes is None else whole(*sizes))
    while given[-1] is None:
        given.pop()
    return Case("Resize", [normal(*shape).astype(dtype), *given], told, constants=(1, 2, 3))


def raised(base, exponent):
    return Case("Pow", [base, exponent])


def pooled(*shape, kernel, **told):
    rank = len(shape) - 2
    values = _RANDOM.integers(0, 4, shape).astype(np.float32)  # with ties
    return Case("MaxPool", [values], {"kernel_shape": [kernel] * rank, **told}, 2)


def counted(texts, *, skips=0, mode="TF", sizes=(1, 2), weights=None):
    """Of the words 0 to 4: three unigrams and three bigrams, in five columns."""
    told = {
        "min_gram_length": sizes[0],
        "max_gram_length": sizes[1],
        "max_skip_count": skips,
        "mode": mode,
        "ngram_counts": [0, 3],
        "ngram_indexes": [4, 0, 1, 2, 3, 0],
        "pool_int64s": [1, 2, 4, 1, 2, 2, 2, 3, 1],
    }
    return Case("TfIdfVectorizer", [texts], told | ({"weights": weights} if weights else {}))


def trees(x, *, modes=(0, 1, 3), missing=(1, 1, 0), aggregate=1, targets=2):
    """A tree of two levels and one of a single node."""
    dtype = x.dtype
    told = {
        "nodes_featureids": [0, 1, 1],
        "nodes_splits": numpy_helper.from_array(np.array([0.1, -0.3, 0.2], dtype)),
        "nodes_modes": numpy_helper.from_array(np.array(modes, np.uint8)),
        "nodes_truenodeids": [1, 0, 2],
        "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [3, 1, 4],
        "nodes_falseleafs": [1, 1, 1],
        "nodes_missing_value_tracks_true": list(missing),
        "leaf_targetids": [k % targets for k in range(5)],
        "leaf_weights": numpy_helper.from_array(np.array([1, 2.5, -3, 4, 0.7], dtype)),
        "tree_roots": [0, 2],
        "n_targets": targets,
        "aggregate_function": aggregate,
    }
    return Case("ai.onnx.ml.TreeEnsemble", [x], told)


def trained(kind, *, count=1, step=3, kept=1, **told):
    tensors = [normal(2, 3), normal(4)][:count]
    kinds = [[np.abs(normal(*t.shape)) for t in tensors] for _ in range(1 + kept)]
    inputs = [number(0.1), number(step, np.int64), *tensors, *chain(*kinds)]
    domain = "ai.onnx.preview.training"
    told = {"norm_coefficient": 0.01, **told}
    return Case(f"{domain}.{kind}", inputs, told, (1 + kept) * count)


def labelled(values, **told):
    return Case("ai.onnx.ml.LabelEncoder", [values], told)


_NAN = float("nan")

CASES: dict[str, Case] = {
    "bits of floats": Case("BitCast", [normal(2, 3)], {"to": TensorProto.INT32}),
    "bits of halves": Case(
        "BitCast", [whole(1, -2, 3, dtype=np.int16)], {"to": TensorProto.FLOAT16}
    ),
    "bits of a bfloat": Case(
        "BitCast", [whole(16256, dtype=np.uint16)], {"to": TensorProto.BFLOAT16}
    ),
    "bits of truths": Case("BitCast", [np.array([True, False])], {"to": TensorProto.INT8}),
    "bits of nothing": Case("BitCast", [normal(0, 2)], {"to": TensorProto.UINT32}),
    "product": Case("CumProd", [normal(3, 4), number(-1, np.int64)], constants=(1,)),
    "product before": Case(
        "CumProd",
        [normal(3, 4).astype(np.float16), number(0, np.int64)],
        {"exclusive": 1, "reverse": 1},
        constants=(1,),
    ),
    "product of integers": Case(
        "CumProd",
        [whole(3, 7, -2, dtype=np.int32), number(0, np.int64)],
        {"reverse": 1},
        constants=(1,),
    ),
    "float to integer": raised(normal(3, 4), whole(0, 1, 2, 3)),
    "half to integer": raised(
        np.abs(normal(4)).astype(np.float16), whole(-1, 0, 1, 3, dtype=np.int32)
    ),
    "integer to float": raised(whole(1, 5, 7, dtype=np.int32), np.array([3, 3, 2], np.float32)),
    "integer to integer": raised(whole(2, -3, -1, 7, 0), whole(10, 5, 3, 1, 0)),
    "integer to a byte": raised(whole(2, 3, dtype=np.int32), number(4, np.int64)),
    "integer to less than nothing": raised(whole(1, -1, -1, 5), whole(-2, -3, -2, -1)),
    "any": Case("ReduceMax", [np.array([[True, False], [False, False]]), whole(1)], constants=(1,)),
    "all": Case("ReduceMin", [np.array([[True, False], [True, True]])], {"keepdims": 0}),
    "axes": resized(scales=[1.5, 2], axes=[3, 2], mode="nearest"),
    "sizes of axes": resized(sizes=[7, 9], axes=[2, 3], mode="linear"),
    "symmetric": resized(
        scales=[1, 1, 0.6, 2.3],
        mode="linear",
        coordinate_transformation_mode="half_pixel_symmetric",
    ),
    "cut out": resized(
        sizes=[4, 3],
        roi=[0.2, 0.4, 0.9, 1.3],
        axes=[2, 3],
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=9.0,
    ),
    "one left": resized(
        scales=[1, 1, 0.2, 1], mode="linear", coordinate_transformation_mode="align_corners"
    ),
    "by the larger": resized(
        sizes=[8, 9], axes=[2, 3], mode="nearest", keep_aspect_ratio_policy="not_smaller"
    ),
    "cubic of axes": resized(sizes=[7, 3], axes=[2, 3], mode="cubic", cubic_coeff_a=-0.5),
    "cubic without outside": resized(sizes=[8, 4], axes=[2, 3], mode="cubic", exclude_outside=1),
    "antialiased": resized(sizes=[3, 4], axes=[2, 3], mode="linear", antialias=1),
    "antialiased cubic": resized(sizes=[2, 9], axes=[2, 3], mode="cubic", antialias=1),
    "of halves": resized(sizes=[7, 8], axes=[2, 3], mode="linear", dtype=np.float16),
    "cut and padded": Case("CenterCropPad", [normal(5, 4, 3), whole(8, 1, 3)], constants=(1,)),
    "cut one axis": Case("CenterCropPad", [normal(5, 4), whole(2)], {"axes": [-2]}, constants=(1,)),
    "empty parts": Case("Split", [normal(2, 5), whole(0, 3, 2)], {"axis": 1}, 3, constants=(1,)),
    "nothing in parts": Case("Split", [normal(0), whole(0, 0)], {}, 2, constants=(1,)),
    "sizes of nothing": Case(
        "Reshape", [normal(0, 3, 4), whole(3, 4, 0)], {"allowzero": 1}, constants=(1,)
    ),
    "pooling": pooled(2, 2, 6, 7, kernel=3, strides=[2, 2], pads=[1, 1, 1, 1]),
    "pooling by columns": pooled(1, 2, 5, 4, kernel=2, storage_order=1),
    "pooling of a list": pooled(1, 1, 9, kernel=3, dilations=[2], ceil_mode=1, strides=[2]),
    "pooling of a volume": pooled(1, 1, 4, 3, 5, kernel=2, auto_pad="SAME_LOWER"),
    "unpooling": Case(
        "MaxUnpool",
        [normal(1, 1, 2, 2), whole(5, 7, 13, 15).reshape(1, 1, 2, 2), whole(1, 1, 4, 4)],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        constants=(2,),
    ),
    "columns": Case(
        "Col2Im",
        [normal(2, 12, 12), whole(5, 6), whole(2, 3)],
        {"strides": [1, 2], "dilations": [2, 1], "pads": [1, 0, 0, 2]},
        constants=(1, 2),
    ),
    "words": counted(_RANDOM.integers(0, 5, (3, 9)).astype(np.int64)),
    "words apart": counted(_RANDOM.integers(0, 5, 12).astype(np.int32), skips=2),
    "words that are there": counted(whole(1, 1, 2, 3, 3), mode="IDF"),
    "words of weight": counted(
        whole(1, 2, 2, 2, 3), mode="TFIDF", skips=1, weights=[0.5, 2.0, 3.0, 0.25, 1.5, 4.0]
    ),
    "pairs alone": counted(whole(1, 2, 2, 2, 3, 1), sizes=(2, 2)),
    "features": Case("ai.onnx.ml.ArrayFeatureExtractor", [normal(2, 3, 4), whole(3, 0)]),
    "a feature": Case("ai.onnx.ml.ArrayFeatureExtractor", [normal(4), whole(2)]),
    "above": Case("ai.onnx.ml.Binarizer", [normal(3, 4)], {"threshold": 0.25}),
    "labels": labelled(
        whole(3, 1, 7), keys_int64s=[1, 3], values_floats=[0.5, 2.5], default_float=-9.0
    ),
    "labels of floats": labelled(
        np.array([0.5, _NAN, 2], np.float32), keys_floats=[_NAN, 0.5], values_int64s=[4, 5]
    ),
    "trees": trees(np.array([[0, 0.5], [0.1, -0.3], [1, 0.2], [_NAN, _NAN]], np.float32)),
    "trees of doubles": trees(normal(4, 2).astype(np.float64), modes=(2, 4, 5)),
    "the largest of trees": trees(normal(4, 2), aggregate=3, targets=1),
    "momentum": trained("Momentum", alpha=0.9, beta=0.5, mode="standard"),
    "nesterov": trained("Momentum", alpha=0.9, beta=0.5, mode="nesterov", step=0, count=2),
    "adagrad": trained("Adagrad", decay_factor=0.1, epsilon=1e-5, count=2),
    "adam": trained("Adam", kept=2, alpha=0.95, beta=0.9, epsilon=1e-7, norm_coefficient_post=0.01),
    "adam at first": trained("Adam", kept=2, step=0, count=2, alpha=0.9, beta=0.8, epsilon=1e-7),
    "no optional": Case("OptionalHasElement", []),
}

WRONG: dict[str, dict[str, object]] = {
    "product before": {"exclusive": 0},
    "sizes of axes": {"coordinate_transformation_mode": "asymmetric"},
    "cubic of axes": {"cubic_coeff_a": -0.75},
    "cut out": {"extrapolation_value": 0.0},
    "columns": {"pads": [0, 1, 1, 1]},
    "words apart": {"max_skip_count": 1},
    "words of weight": {"mode": "TF"},
    "above": {"threshold": -1.5},
    "trees": {"nodes_missing_value_tracks_true": [0, 0, 0]},
    "adam": {"norm_coefficient_post": 0.0},
    "momentum": {"mode": "nesterov"},
}
"""What a node says that a kernel does not do."""


def model_of(cases):
    model, feeds = together(cases, 26)
    model.opset_import.extend(
        [helper.make_opsetid("ai.onnx.ml", 5), helper.make_opsetid("ai.onnx.preview.training", 1)]
    )
    return model, feeds


@pytest.fixture(scope="module")
def session():
    with tapml.debug(*model_of(CASES), target="llvm") as session:
        session.run()
        yield session


@pytest.mark.parametrize("case", CASES)
def test_a_rule_is_right(session, case):
    report, op = session.report, op_of(session, case)
    result = report.introduced[op.id, 0]
    assert result.verdict in (Verdict.PASS, Verdict.SKIPPED), result.message
    assert report.conversions[op.id] == f"{CASES[case].kind} converted by rules of tapml_nb's"


def computed(case):
    """What the source makes of a node, as it crosses to a target."""
    program = import_onnx(*model_of({"case": case}))
    (op,) = program.graph.ops
    made = program.run(op.id, program.bind(0, {}))
    return tuple(program.to_numpy(array) for array in made)


@pytest.mark.parametrize("case", WRONG)
def test_a_kernel_that_does_something_else_is_blamed_alone(session, case):
    op = op_of(session, case).id
    right = CASES[case]
    wrong = replace(right, attributes={**right.attributes, **WRONG[case]})
    for made, verdict in ((computed(right), Verdict.PASS), (computed(wrong), Verdict.FAIL)):
        session.override(op, lambda *_, made=made: made if len(made) > 1 else made[0])
        assert session.run(op).verdict(op) is verdict
    assert [culprit.op for culprit in session.report.culprits] == [op]
    session.override(op, None)
    assert session.run(op).ok


def test_a_pooling_that_takes_the_last_of_equals_is_blamed(session):
    op = op_of(session, "pooling").id
    best, where = computed(CASES["pooling"])
    turned = Case("MaxPool", [CASES["pooling"].inputs[0][..., ::-1, ::-1].copy()], {})
    turned = replace(CASES["pooling"], inputs=turned.inputs)
    last = computed(turned)[1][..., ::-1, ::-1]
    size = 6 * 7
    last = last // size * size + (size - 1 - last % size)
    for places, verdict in ((where, Verdict.PASS), (last, Verdict.FAIL)):
        session.override(op, lambda *_, places=places: (best, np.ascontiguousarray(places)))
        assert session.run(op).verdict(op) is verdict
    session.override(op, None)
