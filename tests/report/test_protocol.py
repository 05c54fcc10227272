"""The two ends of the protocol agree, and numbers survive the way."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np

from tapml_nb.graph import Graph, Op, TensorSpec, Value
from tapml_nb.judge import Verdict
from tapml_nb.judge.results import AccumulatedResult, OpResult
from tapml_nb.numerics import Statistics
from tapml_nb.report import protocol

PAGE = (Path(__file__).parents[2] / "extensions/widgets/src/protocol.ts").read_text()


def small_graph() -> Graph:
    spec = TensorSpec((2, 3), "float32")

    def op(name, scope, inputs, output, host=False):
        path = f"{scope}/{name}" if scope else name
        return Op(path, f"aten.{name}", scope, "M", scope, inputs, (output,), None, (), host)

    ops = (
        op("mul", "a", ("x",), "v0"),
        op("add", "a.b", ("v0", "v0"), "v1"),
        op("sym_size", "", ("v1",), "v2", host=True),
        op("mul_1", "a", ("v0", "v1"), "v3"),
    )
    values = {"x": Value("x", "input", spec, "x")}
    values |= {f"v{k}": Value(f"v{k}", "operator", spec, o.id, o.id) for k, o in enumerate(ops)}
    return Graph("Small", ops, values, ("x",), ("v3",))


def page_constant(pattern: str) -> str:
    found = re.search(pattern, PAGE, re.DOTALL)
    assert found, pattern
    return found[1]


def names(dtype: np.dtype) -> list[str]:
    return [n for n in dtype.names if dtype[n] == np.float32]


def test_both_ends_agree_on_the_records():
    for name, dtype in (("INTRODUCED", protocol.INTRODUCED), ("ACCUMULATED", protocol.ACCUMULATED)):
        assert int(page_constant(rf"{name}_BYTES = (\d+)")) == dtype.itemsize
        metrics = page_constant(rf"export const {name} = \[(.*?)\]")
        assert re.findall(r'"(\w+)"', metrics) == names(dtype)
        assert [dtype.fields[n][1] for n in ("op", "step", "verdict")] == [0, 4, 6]
        assert dtype.fields[names(dtype)[0]][1] == 8


def test_both_ends_agree_on_the_order_of_a_snapshots_buffers():
    order = dict(re.findall(r"(\w+): (\d)", page_constant(r"export const SNAPSHOT = \{(.*?)\}")))
    assert list(order) == [
        *("kind", "scope", "layer", "host", "edges"),
        *("placement", "introduced", "accumulated"),
    ]


def test_a_graph_as_numbers():
    texts, (kind, scope, layer, host, edges) = protocol.graph(small_graph())
    assert texts["ops"] == ["a/mul", "a.b/add", "sym_size", "a/mul_1"]
    assert texts["kinds"] == ["aten.mul", "aten.add", "aten.sym_size", "aten.mul_1"]
    assert np.frombuffer(kind, "<u4").tolist() == [0, 1, 2, 3]
    assert [texts["scopes"][k] for k in np.frombuffer(scope, "<u4")] == ["a", "a.b", "", "a"]
    assert [texts["layers"][k] for k in np.frombuffer(layer, "<u4")] == ["a", "a.b", "", "a"]
    assert list(host) == [0, 0, 1, 0]
    pairs = np.frombuffer(edges, "<u4").reshape(-1, 2).tolist()
    assert pairs == [[0, 1], [1, 2], [0, 3], [1, 3]]
    json.dumps(texts, allow_nan=False)


def test_results_as_records():
    stats = Statistics(6, 0.5, 0.1, 3.0, 0.2, 0.99, 40.0, 0, 0, 2, 4)
    results = [
        OpResult("a", 0, Verdict.FAIL, 12.0, 1e-7, stats, target_ms=2.0, source_ms=1.0),
        OpResult("b", 3, Verdict.CRASH),
        OpResult("b", 4, Verdict.FAIL, math.inf, 1e-300, stats),
    ]
    rows = np.frombuffer(protocol.introduced(results, {"a": 7, "b": 70_000}), protocol.INTRODUCED)
    assert rows["op"].tolist() == [7, 70_000, 70_000]
    assert rows["step"].tolist() == [0, 3, 4]
    assert [list(Verdict)[v] for v in rows["verdict"]] == [r.verdict for r in results]
    assert rows["max_abs"][0] == 0.5
    assert rows["snr_db"][0] == 40.0
    assert np.isnan(rows["ratio"][1])
    assert np.isnan(rows["max_abs"][1])
    assert rows["ratio"][2] == np.inf
    assert rows["target_ms"].tolist()[0] == 2.0
    assert protocol.introduced([], {}) == b""


def test_accumulated_results_as_records():
    result = AccumulatedResult("a", 1, "target", 3.0, 0.25, 60.0, 0.1, 2.0, Verdict.PASS)
    (row,) = np.frombuffer(protocol.accumulated([result], {"a": 2}), protocol.ACCUMULATED)
    assert (row["op"], row["step"], row["acc_ratio"], row["acc_max_abs"]) == (2, 1, 3.0, 0.25)
    assert (row["acc_snr_db"], row["gain"]) == (60.0, 2.0)


def test_every_verdict_has_a_look_of_its_own():
    infos = protocol.verdicts()
    assert [info["name"] for info in infos] == [str(v) for v in Verdict]
    assert len({info["colour"] for info in infos}) == len(infos)
    assert len({info["symbol"] for info in infos}) == len(infos)
    assert sorted(info["severity"] for info in infos) == list(range(len(infos)))
    by_name = {info["name"]: info["severity"] for info in infos}
    assert by_name["CRASH"] == 0
    assert by_name["FAIL"] < by_name["UNKNOWN"] < by_name["PASS"] < by_name["SKIPPED"]


def test_numbers_that_json_does_not_know():
    assert protocol.plain(math.nan) is None
    assert protocol.plain(math.inf) == "∞"
    assert protocol.plain(-math.inf) == "-∞"
    assert protocol.plain(1.5) == 1.5
    assert protocol.plain("text") == "text"


def test_what_computes_masks_and_positions_is_one_group_of_its_scope():
    spec = TensorSpec((4,), "float32")

    def graph_of(aside: int) -> Graph:
        names = [("model", (), f"mask{k}") for k in range(aside)] + [("model", ("w",), "add")]
        ops = tuple(
            Op(f"{scope}/{name}", "aten.op", scope, "M", scope, inputs, (name,), None, ())
            for scope, inputs, name in names
        )
        values = {o.outputs[0]: Value(o.outputs[0], "operator", spec, o.id, o.id) for o in ops}
        return Graph("M", ops, values | {"w": Value("w", "parameter", spec, "w")}, (), ())

    def scopes(aside: int) -> list[str]:
        texts, (_, scope, *_) = protocol.graph(graph_of(aside))
        return [texts["scopes"][k] for k in np.frombuffer(scope, "<u4")]

    assert scopes(3) == ["model.masks and positions"] * 3 + ["model"]
    assert scopes(2) == ["model"] * 3, "so few stand where they are"
