"""The graph's own queries."""

from tapml_nb.graph import Graph, Op, TensorSpec, Value


def chain() -> Graph:
    """a → b → c, and d beside them."""
    spec = TensorSpec((2,), "float32")
    values = {v: Value(v, "operator", spec, v) for v in ("x", "va", "vb", "vc", "vd")}

    def op(name, inputs, output):
        return Op(
            f"s.{name}/{name}", "aten.neg", f"s.{name}", "M", "s", inputs, (output,), None, ()
        )

    ops = (
        op("a", ("x",), "va"),
        op("d", ("x",), "vd"),
        op("b", ("va",), "vb"),
        op("c", ("vb", "va"), "vc"),
    )
    return Graph("chain", ops, values, ("x",), ("vc",))


def test_downstream_is_the_cone_and_no_more():
    graph = chain()
    assert graph.downstream(["s.b/b"]) == {"s.b/b", "s.c/c"}
    assert graph.downstream(["s.a/a"]) == {"s.a/a", "s.b/b", "s.c/c"}
    assert graph.downstream(["s.d/d"]) == {"s.d/d"}


def test_consumers_in_order():
    assert chain().consumers["va"] == ("s.b/b", "s.c/c")
    assert "vc" not in chain().consumers


def test_scopes_nest():
    scopes = chain().scopes
    assert scopes["s.b"] == ("s.b/b",)
    assert len(scopes["s"]) == len(scopes[""]) == 4


def test_frame_has_the_contract_columns():
    frame = chain().frame()
    assert list(frame.columns) == [
        *("op", "kind", "scope", "layer", "inputs", "outputs", "file", "line")
    ]
    assert frame["inputs"].tolist()[-1] == "float32[2], float32[2]"
