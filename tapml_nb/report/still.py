"""A debugging session as a still: one picture and one table, for where no kernel or script runs.

A saved notebook shows them when it is opened again, as do GitHub and nbconvert.  The picture may
be drawn in any thread while the notebook's own thread uses pyplot: nothing here touches pyplot or
Matplotlib's mathematics, whose state all threads share.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from tapml_nb.graph import OpId
from tapml_nb.judge.verdict import FAULTS, Verdict, worse
from tapml_nb.report.palette import VERDICT_COLOURS, VERDICT_SYMBOLS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

    from tapml_nb.report.report import Report

BOXES = 40
"""At most so many boxes are in the overview."""

_LAYERS, _KINDS = 40, 30
"""At most so many rows and columns are in the heatmap."""

_DPI = 100
_WIDTH = 10.0  # inches, as every length below
_MARGIN = 0.25
_COLUMNS, _GUTTER = 4, 0.38
_BOX, _PITCH, _SYMBOL = 0.36, 0.5, 0.22  # a box's height, from box to box, width of the symbol
_FONT = "DejaVu Sans"  # comes with Matplotlib
_INK, _PAPER, _WIRE, _CROSSING = "#1b1b1b", "#ffffff", "#8a8a8a", "#e69f00"
_HATCHES = {"source": "", "target": "///", "mixed": "//"}
_TINTS = {"source": 1.0, "target": 0.6, "mixed": 0.75}  # how much paper is in a hatch's ink
_PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False, "fontfamily": _FONT}
"""Names come from models, and "$" in one is no mathematics."""


def picture(report: Report) -> bytes:
    """The session as one PNG, 10 inches wide at 100 dpi and as tall as it needs (about 14 at most).

    From top to bottom: the model as boxes of scopes, introduced and accumulated error over model
    order, and the worst ratio by layer and kind (by layer and metric where ratios do not differ).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    boxes = overview(report)
    rows = math.ceil(len(boxes) / _COLUMNS)
    heat = _heat(report)
    why = "no operator has a number" if report.introduced else "nothing judged yet"
    parts = {
        "title": 0.54,
        "graph": max(1, rows) * _PITCH + 0.2,
        "legend": 0.5,
        "divergence": 2.55 if report.introduced or report.accumulated else 0.8,
        "heatmap": heat.height if heat else 0.8,
    }
    height = sum(parts.values())
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=_PAPER)
    figure.set_layout_engine("none")  # whatever the notebook has set
    canvas = FigureCanvasAgg(figure)
    _title(report, figure, height)
    top = height - parts["title"]
    _draw_overview(boxes, _edges(report, boxes), _axes(figure, top, parts["graph"]))
    top -= parts["graph"]
    _legend(report, boxes, _axes(figure, top, parts["legend"]))
    top -= parts["legend"]
    if report.introduced or report.accumulated:
        _divergence(report, _axes(figure, top - 0.3, 1.75, left=0.85))
    else:
        _nothing("Divergence", why, _axes(figure, top, parts["divergence"]))
    top -= parts["divergence"]
    if heat:
        heat.draw(figure, top)
    else:
        _nothing("Layers by kind", why, _axes(figure, top, parts["heatmap"]))
    png = io.BytesIO()
    canvas.print_png(png)
    return png.getvalue()


# -- the overview ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """Some operators as one box of the overview.

    Attributes:
        name: the scope; the first and the last one's where the box has several.
        ops: its operators, in model order.
        verdict: the worst of them.
        faulty: how many have a faulty verdict.
        placement: ``"source"``, ``"target"`` or ``"mixed"``.
    """

    name: str
    ops: tuple[OpId, ...]
    verdict: Verdict
    faulty: int
    placement: str


@dataclass
class _Scope:
    """A scope while the overview opens: its operators as indices into the graph's."""

    path: str
    ops: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    children: dict[str, _Scope] = field(default_factory=dict)

    @property
    def parts(self) -> int:
        """How many boxes it is when open."""
        return len(self.children) + bool(self.own)


def overview(report: Report, limit: int = BOXES) -> list[Box]:
    """The model as at most ``limit`` boxes, in the order of their first operators.

    Scopes open level by level from the root.  A level opens as a whole if that fits; if not, its
    scopes with faults open, worst first, and the others stay closed: of two scopes that look alike
    one is open only for a reason.  Should nothing of the sort fit, a scope's children are put
    together in runs of equal length.
    """
    verdicts = [report.verdict(op.id) for op in report.graph.ops]
    if not verdicts:
        return []
    level, boxes = [_pass_through(_tree(report))], list[tuple[str, list[int]]]()
    while level:
        free = limit - len(boxes) - len(level)
        inner = [scope for scope in level if scope.children]
        boxes += [(scope.path, scope.ops) for scope in level if not scope.children]
        if sum(scope.parts - 1 for scope in inner) > free:
            inner = _worst_that_fit(inner, verdicts, free, boxes)
        level = []
        for scope in inner:
            if scope.own:
                boxes.append((_own(scope.path), scope.own))
            level += [_pass_through(child) for child in scope.children.values()]
    boxes.sort(key=lambda box: box[1][0])
    return [_box(report, name, ops, verdicts) for name, ops in boxes]


def _tree(report: Report) -> _Scope:
    root = _Scope("")
    ways = {"": [root]}  # from the root to each scope
    for i, op in enumerate(report.graph.ops):
        if op.scope not in ways:
            way = [root]
            for part in op.scope.split("."):
                path = f"{way[-1].path}.{part}" if way[-1].path else part
                way.append(way[-1].children.setdefault(part, _Scope(path)))
            ways[op.scope] = way
        for scope in ways[op.scope]:
            scope.ops.append(i)
        ways[op.scope][-1].own.append(i)
    return root


def _pass_through(scope: _Scope) -> _Scope:
    """The scope, or what is in it where that is one scope and nothing else."""
    while scope.parts == 1 and scope.children:
        (scope,) = scope.children.values()
    return scope


def _worst_that_fit(
    scopes: Sequence[_Scope],
    verdicts: Sequence[Verdict],
    free: int,
    boxes: list[tuple[str, list[int]]],
) -> list[_Scope]:
    """The scopes of a level to open where not all fit; the others become boxes."""
    faults = {scope.path: sum(verdicts[i] in FAULTS for i in scope.ops) for scope in scopes}
    opened = set[str]()
    for scope in sorted(scopes, key=lambda s: -faults[s.path]):
        if faults[scope.path] and scope.parts - 1 <= free:
            opened.add(scope.path)
            free -= scope.parts - 1
    closed = [scope for scope in scopes if scope.path not in opened]
    longest = max(closed, key=lambda s: s.parts, default=None)
    for scope in closed:
        # Many children: a layer stack that would otherwise be one box without content.
        if scope is longest and scope.parts > 8 and free >= 4 and not opened:
            boxes += _runs(scope, free)
        else:
            boxes.append((scope.path, scope.ops))
    return [scope for scope in scopes if scope.path in opened]


def _runs(scope: _Scope, free: int) -> list[tuple[str, list[int]]]:
    """The scope's children in runs of equal length, at most ``free + 1`` boxes in all."""
    children = list(scope.children.values())
    length = math.ceil(len(children) / (free + 1 - bool(scope.own)))
    boxes = [(_own(scope.path), scope.own)] if scope.own else []
    for start in range(0, len(children), length):
        run = children[start : start + length]
        last = f" … {run[-1].path.rsplit('.', 1)[-1]}" if len(run) > 1 else ""
        ops = sorted(i for child in run for i in child.ops)
        boxes.append((run[0].path + last, ops))
    return boxes


def _own(scope: str) -> str:
    return f"{scope} (itself)" if scope else "(model)"


def _box(report: Report, name: str, ops: Iterable[int], verdicts: Sequence[Verdict]) -> Box:
    indices = list(ops)
    ids = tuple(report.graph.ops[i].id for i in indices)
    found = [verdicts[i] for i in indices]
    return Box(
        name or "(model)",
        ids,
        _worst(found),
        sum(verdict in FAULTS for verdict in found),
        _placement({report.placement.get(op, "source") for op in ids}),
    )


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe; unlike a fold over all operators, compares each verdict once."""
    first, *others = set(verdicts)
    for verdict in others:
        first = worse(first, verdict)
    return first


def _placement(places: set[str]) -> str:
    if len(places) > 1:
        return "mixed"
    return "target" if "target" in places else "source"


def _edges(report: Report, boxes: Sequence[Box]) -> dict[tuple[int, int], bool]:
    """The pairs of boxes between which tensors go, and whether one changes the machine."""
    graph = report.graph
    box_of = {op: i for i, box in enumerate(boxes) for op in box.ops}
    edges = dict[tuple[int, int], bool]()
    for op in graph.ops:
        here = report.placement.get(op.id, "source")
        for value in op.inputs:
            known = graph.values.get(value)
            producer = known.producer if known else None
            if producer is None or box_of[producer] == box_of[op.id]:
                continue
            pair = (box_of[producer], box_of[op.id])
            crosses = report.placement.get(producer, "source") != here
            edges[pair] = edges.get(pair, False) or crosses
    return edges


def _draw_overview(boxes: Sequence[Box], edges: Mapping[tuple[int, int], bool], axes: Axes) -> None:
    """Boxes in columns, read downwards, then to the right; the axes' unit is an inch."""
    _blank(axes)
    top = axes.get_ylim()[1]
    if not boxes:
        axes.text(_MARGIN + _GUTTER / 2, top - 0.2, "no operators", fontsize=9, **_PLAIN)
        return
    grid = _Grid(len(boxes), top - (_PITCH - _BOX))
    _draw_edges(grid, edges, axes)
    for i, box in enumerate(boxes):
        _draw_box(box, *grid.corner(i), grid.width, axes)


def _draw_box(box: Box, x: float, y: float, width: float, axes: Axes) -> None:
    from matplotlib.patches import Rectangle

    colour = VERDICT_COLOURS[box.verdict]
    hatch, ink = _HATCHES[box.placement], _mix(_edge(colour), _TINTS[box.placement])
    # The hatch has its patch's edge colour, so the edge is another patch.
    for left, wide, style in (
        (x, width, {"facecolor": _mix(colour, 0.86), "edgecolor": ink, "hatch": hatch}),
        (x, _SYMBOL, {"facecolor": colour}),
    ):
        axes.add_patch(Rectangle((left, y), wide, _BOX, linewidth=0, zorder=3, **style))
    edge = _edge(colour)
    axes.add_patch(
        Rectangle((x, y), width, _BOX, fill=False, edgecolor=edge, linewidth=1, zorder=3)
    )
    symbol, ink_on = VERDICT_SYMBOLS[box.verdict], _ink_on(colour)
    middle: dict[str, Any] = {"va": "center", "zorder": 4, **_PLAIN}
    axes.text(
        x + _SYMBOL / 2, y + _BOX / 2, symbol, color=ink_on, fontsize=11, ha="center", **middle
    )
    room = width - _SYMBOL - 0.1
    faulty = f", {box.faulty} faulty" if box.faulty else ""
    count = f"{len(box.ops)} op{'s' if len(box.ops) > 1 else ''}, {box.verdict}{faulty}"
    for text, size, above in (
        (_fitted_path(box.name, room, 7), 7, 0.25),
        (_fitted(count, room, 6.5), 6.5, 0.1),
    ):
        axes.text(x + _SYMBOL + 0.06, y + above, text, fontsize=size, color=_INK, **middle)


class _Grid:
    """Where the boxes are: columns of equal length, between gutters for the lines."""

    def __init__(self, boxes: int, top: float) -> None:
        self.rows = math.ceil(boxes / _COLUMNS)
        self.top = top
        self.width = (_WIDTH - 2 * _MARGIN - _COLUMNS * _GUTTER) / _COLUMNS

    def place(self, box: int) -> tuple[int, int]:
        return divmod(box, self.rows)

    def corner(self, box: int) -> tuple[float, float]:
        """The lower left corner."""
        column, row = self.place(box)
        x = _MARGIN + _GUTTER / 2 + column * (self.width + _GUTTER)
        return x, self.top - row * _PITCH - _BOX

    def route(self, start: int, end: int, lane: float) -> list[tuple[float, float]]:
        """A way from box to box through gutters and gaps; ``lane`` (0 to 1) is where in them."""
        (x0, y0), (x1, y1) = self.corner(start), self.corner(end)
        (c0, r0), (c1, r1) = self.place(start), self.place(end)
        if (c1, r1) == (c0, r0 + 1):
            middle = x0 + self.width / 2
            return [(middle, y0), (middle, y1 + _BOX)]
        out, into = y0 + _BOX * 0.4, y1 + _BOX * 0.6
        right, left = x0 + self.width, x1
        gutter = right + _GUTTER * (0.18 + 0.5 * lane)
        if c1 == c0:
            return [(right, out), (gutter, out), (gutter, into), (x1 + self.width, into)]
        if c1 == c0 + 1:
            if r0 == r1:
                return [(right, y0 + _BOX / 2), (left, y0 + _BOX / 2)]
            return [(right, out), (gutter, out), (gutter, into), (left, into)]
        gap = y1 + _BOX + (_PITCH - _BOX) * (0.2 + 0.6 * lane)
        door = left - _GUTTER * (0.82 - 0.5 * lane)
        return [
            *((right, out), (gutter, out), (gutter, gap)),
            *((door, gap), (door, into), (left, into)),
        ]


def _draw_edges(grid: _Grid, edges: Mapping[tuple[int, int], bool], axes: Axes) -> None:
    from matplotlib.collections import LineCollection

    # One lane per box where a line starts, so that its lines run together like a bus.
    starts = sorted({start for start, _ in edges})
    lanes = {start: (i * 0.381966) % 1 for i, start in enumerate(starts)}
    for crossing, colour, style, z in ((False, _WIRE, "solid", 1), (True, _CROSSING, "dashed", 2)):
        ways = [grid.route(a, b, lanes[a]) for (a, b), c in edges.items() if c is crossing]
        width = 1.3 if crossing else 0.8
        axes.add_collection(
            LineCollection(ways, colors=colour, linestyles=style, linewidths=width, zorder=z)
        )
        heads = defaultdict[str, list[tuple[float, float]]](list)
        for way in ways:
            (x0, y0), (x1, y1) = way[-2:]
            # The marker's middle stands back from the box by half its size.
            if y1 < y0:
                heads["v"].append((x1, y1 + 0.03))
            else:
                heads[">" if x1 > x0 else "<"].append((x1 - math.copysign(0.03, x1 - x0), y1))
        for marker, points in heads.items():
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=14, marker=marker, color=colour, linewidths=0, zorder=z)


def _legend(report: Report, boxes: Sequence[Box], axes: Axes) -> None:
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    _blank(axes)
    shown = {box.verdict for box in boxes}
    colours = [
        Patch(facecolor=VERDICT_COLOURS[v], edgecolor=_edge(VERDICT_COLOURS[v]), label=str(v))
        for v in Verdict
        if v in shown
    ]
    hatches = [
        Patch(
            facecolor=_PAPER,
            edgecolor=_mix(_INK, _TINTS[place] if hatch else 0.5),
            hatch=hatch,
            label=label,
        )
        for (place, hatch), label in zip(
            _HATCHES.items(),
            ("on the source", "all on the target", "partly on the target"),
            strict=True,
        )
    ]
    wire = Line2D([], [], color=_CROSSING, linestyle="dashed", label="between source and target")
    rows: list[tuple[list[Any], float]] = [([*hatches, wire], 0.58)]
    if colours:
        rows.insert(0, (colours, 1.0))
    for handles, y in rows:
        few = len(handles) < 8
        # Axes have one legend; one more is an artist like others.
        legend = Legend(
            axes,
            handles,
            [handle.get_label() for handle in handles],
            loc="upper left",
            bbox_to_anchor=((_MARGIN + _GUTTER / 2) / _WIDTH, y),
            bbox_transform=axes.transAxes,
            ncols=len(handles),
            borderpad=0,
            borderaxespad=0,
            handlelength=2.6 if few else 1.8,
            handleheight=1.0,
            columnspacing=1.6 if few else 0.7,
            frameon=False,
            prop={"family": _FONT, "size": 7.5},
        )
        _restyle_legend(legend)
        axes.add_artist(legend)


def _restyle_legend(legend: Legend) -> None:
    for text in legend.get_texts():
        text.set(color=_INK, usetex=False)


# -- the other panels -----------------------------------------------------------------------------


def _divergence(report: Report, axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    from tapml_nb.report.figures import draw_divergence

    draw_divergence(report, axes)
    _restyle(axes)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    _plain_ticks(axes.xaxis)
    _plain_ticks(axes.yaxis)
    _title_panel("Divergence", axes)
    # Above the axes: inside them it would lie on the crosses of operators without a ratio.
    legend = axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 0.99),
        ncols=5,
        frameon=False,
        borderaxespad=0.2,
        prop={"family": _FONT, "size": 7.5},
    )
    _restyle_legend(legend)


@dataclass(frozen=True)
class _Heat:
    """The heatmap that a report deserves: its table, cut to what fits, and where faults are."""

    table: pd.DataFrame
    cols: str
    title: str
    faulty: list[tuple[int, int]]
    rows: list[str]
    labels: list[str]

    @property
    def row(self) -> float:
        return min(0.24, max(0.1, 4.0 / len(self.table)))

    @property
    def body(self) -> float:
        return max(1.25, self.row * len(self.table))

    @property
    def height(self) -> float:
        # Column names are at 45 degrees.
        return 0.3 + self.body + 0.25 + 0.72 * max(_width(label, 7) for label in self.labels)

    def draw(self, figure: Figure, top: float) -> None:
        from matplotlib.patches import Rectangle

        from tapml_nb.report.figures import draw_heatmap, scale_label

        # Column names lean to the left, and must not leave the picture there either.
        leaning = [0.72 * _width(s, 7) - 0.22 * (j + 0.5) for j, s in enumerate(self.labels)]
        left = max(0.85, *(0.25 + _width(row, 7) for row in self.rows), 0.1 + max(leaning))
        width = min(_WIDTH - left - _MARGIN - 0.75, 0.62 * len(self.labels))
        axes = _axes(figure, top - 0.3, self.body, left=left, width=width)
        numbers = width / len(self.labels) >= 0.4 and self.row >= 0.13
        image = draw_heatmap(self.table, axes, self.cols, numbers=numbers)
        _restyle(axes)
        axes.set_xticks(range(len(self.labels)), self.labels, fontsize=7, **_PLAIN)
        size = 7 if self.row >= 0.13 else 6
        axes.set_yticks(range(len(self.rows)), self.rows, fontsize=size, **_PLAIN)
        frame: dict[str, Any] = {"fill": False, "edgecolor": _edge(_FAULT), "linewidth": 1.5}
        for i, j in self.faulty:
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, zorder=3, clip_on=False, **frame))
        bar = _axes(figure, top - 0.3, self.body, left=left + width + 0.15, width=0.15)
        figure.colorbar(image, cax=bar)
        bar.set_ylabel(scale_label(self.cols))
        _restyle(bar)
        _plain_ticks(bar.yaxis)
        _title_panel(self.title, axes)


_FAULT = VERDICT_COLOURS[Verdict.FAIL]


def _heat(report: Report) -> _Heat | None:
    """The heatmap's numbers; None where nothing was judged or nothing has a number."""
    import numpy as np

    from tapml_nb.report.figures import heatmap_table

    if not report.introduced:
        return None
    cols, faults = "kind", _faults(report)
    table = heatmap_table(report, "layer", cols)
    values = table.to_numpy(dtype=float)
    ratios = np.unique(values[~np.isnan(values)])
    if len(ratios) > 1 or (len(ratios) and faults):
        # Kinds that only crash have no ratio, but matter most.
        silent = dict.fromkeys(kind for _, kind in faults if kind not in table.columns)
        table = table.reindex(columns=[*table.columns, *silent])
    else:
        cols, faults = "metric", []
        table = heatmap_table(report, "layer", cols).dropna(axis="columns", how="all")
    if not table.shape[1]:
        return None
    layers, kinds = len(table), table.shape[1]
    table = _cut(report, table, cols)
    cut = [
        f"the {n} worst of {total} {what}"
        for n, total, what in ((len(table), layers, "layers"), (table.shape[1], kinds, f"{cols}s"))
        if n < total
    ]
    title = f"Layers by {cols}" + (f": {', '.join(cut)}" if cut else "")
    title += "; framed: faulty" if faults else ""
    row_of = {layer: i for i, layer in enumerate(table.index)}
    column_of = {column: j for j, column in enumerate(table.columns)}
    cells = [(row_of[r], column_of[c]) for r, c in faults if r in row_of and c in column_of]
    rows = [_fitted_path(str(layer), 2.0, 7) for layer in table.index]
    labels = [_fitted_path(str(column), 1.1, 7) for column in table.columns]
    return _Heat(table, cols, title, cells, rows, labels)


def _faults(report: Report) -> list[tuple[str, str]]:
    """Layer and kind of the faulty operators, in model order."""
    faulty = (op for op in report.graph.ops if report.verdict(op.id) in FAULTS)
    return list(dict.fromkeys((op.layer or "(model)", op.kind) for op in faulty))


def _cut(report: Report, table: pd.DataFrame, cols: str) -> pd.DataFrame:
    """The worst rows (and kinds) that fit, in their order."""
    layers, kinds = dict[str, tuple[bool, float]](), dict[str, tuple[bool, float]]()
    for op in report.graph.ops:
        badness = _badness(report, op.id, report.verdict(op.id) in FAULTS)
        layer = op.layer or "(model)"
        layers[layer] = max(layers.get(layer, badness), badness)
        kinds[op.kind] = max(kinds.get(op.kind, badness), badness)
    rows = set(sorted(table.index, key=layers.__getitem__, reverse=True)[:_LAYERS])
    table = table.loc[[layer for layer in table.index if layer in rows]]
    if cols == "kind":
        worst = set(sorted(table.columns, key=kinds.__getitem__, reverse=True)[:_KINDS])
        table = table[[kind for kind in table.columns if kind in worst]]
    return table


def _badness(report: Report, op: OpId, faulty: bool) -> tuple[bool, float]:
    """Orders operators: faulty ones last, of these the ones without a ratio."""
    worst = _ratio(report, op)
    return faulty, (math.inf if faulty else -1.0) if math.isnan(worst) else worst


def _ratio(report: Report, op: OpId) -> float:
    """The worst ratio over all steps; NaN where there is none."""
    found = math.nan
    for step in range(report.steps):
        result = report.introduced.get((op, step))
        if result and not result.ratio <= found and not math.isnan(result.ratio):
            found = result.ratio
    return found


def _nothing(title: str, why: str, axes: Axes) -> None:
    _blank(axes)
    top = axes.get_ylim()[1]
    for text, weight, below in ((title, "bold", 0.12), (why, "normal", 0.4)):
        style = {"fontsize": 9, "weight": weight, "va": "center", "color": _INK, **_PLAIN}
        axes.text(_MARGIN + _GUTTER / 2, top - below, text, **style)


# -- drawing --------------------------------------------------------------------------------------


def _title(report: Report, figure: Figure, height: float) -> None:
    target = f" on {report.info.target}" if report.info.target else ""
    counts = ", ".join(f"{report.counts[v]} {v}" for v in Verdict if report.counts.get(v))
    steps = f" in {report.steps} steps" if report.steps > 1 else ""
    total = f"{len(report.graph)} operator{'s' if len(report.graph) != 1 else ''}{steps}"
    x, room = (_MARGIN + _GUTTER / 2) / _WIDTH, _WIDTH - 2 * _MARGIN - _GUTTER
    line = ": ".join(part for part in (total, counts) if part)
    small = next((size for size in (9, 8, 7) if _width(line, size) <= room), 6)
    for text, size, weight, y in (
        (f"{report.graph.name}{target}", 12, "bold", 0.19),
        (line, small, "normal", 0.42),
    ):
        text = _fitted(text, room, size, weight)
        style = {"fontsize": size, "weight": weight, "va": "center", "color": _INK, **_PLAIN}
        figure.text(x, 1 - y / height, text, **style)


def _title_panel(title: str, axes: Axes) -> None:
    axes.set_title(title, loc="left", fontsize=9, weight="bold", pad=5, color=_INK, **_PLAIN)


def _axes(
    figure: Figure, top: float, height: float, *, left: float = 0.0, width: float | None = None
) -> Axes:
    """Axes by inches; ``left`` without ``width`` leaves a margin on the right."""
    total_width, total_height = figure.get_size_inches()
    if width is None:
        width = total_width - left - (_MARGIN + _GUTTER / 2 if left else 0)
    return figure.add_axes(
        (
            left / total_width,
            (top - height) / total_height,
            width / total_width,
            height / total_height,
        )
    )


def _blank(axes: Axes) -> None:
    """Axes for drawing by inches, from the lower left corner."""
    axes.set_axis_off()
    axes.set_xlim(0, axes.bbox.width / _DPI)
    axes.set_ylim(0, axes.bbox.height / _DPI)


def _restyle(axes: Axes) -> None:
    """Dark on white, whatever style the notebook has set."""
    axes.set_facecolor(_PAPER)
    axes.grid(False)
    axes.tick_params(which="both", colors=_INK, labelsize=7, labelfontfamily=_FONT)
    for spine in axes.spines.values():
        spine.set_color(_INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=_INK, fontsize=8, **_PLAIN)


def _plain_ticks(axis: Axis) -> None:
    """The ticks that the axis has chosen, labelled without mathematics."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
    axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], **_PLAIN)
    axis.set_ticks([], minor=True)


def _mix(colour: str, paper: float) -> tuple[float, float, float]:
    """The colour with a share of paper in it."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red + (1 - red) * paper, green + (1 - green) * paper, blue + (1 - blue) * paper


def _edge(colour: str) -> str:
    return _WIRE if colour == VERDICT_COLOURS[Verdict.UNKNOWN] else colour


def _ink_on(colour: str) -> str:
    red, green, blue = _mix(colour, 0)
    return _PAPER if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.55 else _INK


def _fitted(text: str, room: float, size: float, weight: str = "normal") -> str:
    """The text in one line of ``room`` inches: what does not fit is left out in the middle."""
    text = _drawable(text)
    if _width(text, size, weight) <= room:
        return text
    kept = _most(lambda kept: _width(_short(text, kept), size, weight) <= room, min(len(text), 400))
    return _short(text, kept)


def _fitted_path(path: str, room: float, size: float) -> str:
    """As :func:`_fitted`, but shortens the longest names in a path: indices tell the most."""
    path = _drawable(path)
    if _width(path, size) <= room:
        return path

    def cut(longest: int) -> str:
        parts = path.split(".")
        return ".".join(_short(p, longest - 1) if len(p) > longest else p for p in parts)

    longest = _most(lambda longest: _width(cut(longest), size) <= room, 100)
    return cut(longest) if longest > 4 else _fitted(path, room, size)


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number below ``limit`` that fits, if 0 does and every smaller one."""
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _short(text: str, kept: int) -> str:
    # The end of a name tells more than its beginning.
    tail = math.ceil(max(0, kept) * 0.6)
    return f"{text[: max(0, kept - tail)]}…{text[len(text) - tail :]}"


@cache
def _characters() -> frozenset[int]:
    """The characters that the font can draw."""
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont(FontProperties(family=_FONT))).get_charmap())


def _drawable(text: str) -> str:
    """The text on one line, with a sign for each character that the font has not."""
    known = _characters()
    return "".join(
        c if ord(c) in known and c.isprintable() else " " if c.isspace() else "\ufffd" for c in text
    )


@cache
def _metrics() -> Any:
    from matplotlib.textpath import TextToPath

    return TextToPath()


def _width(text: str, size: float, weight: str = "normal") -> float:
    """Inches that a text is wide."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=_FONT, size=size, weight=weight)
    width, _, _ = _metrics().get_text_width_height_descent(text, font, ismath=False)
    return 1.04 * float(width) / 72  # hinting makes small letters wider


# -- the table ------------------------------------------------------------------------------------


def table(report: Report) -> str:
    """The session as an HTML fragment without scripts: counts, culprits, what is missing, layers.

    Everything is escaped.
    """
    counts = ", ".join(f"{report.counts[v]} {v}" for v in Verdict if report.counts.get(v))
    target = f" on {report.info.target}" if report.info.target else ""
    title = f"{report.graph.name}{target}"
    parts = [
        f"<p><strong>{escape(title)}</strong>: {len(report.graph)} operators: {escape(counts)}</p>"
    ]
    if not report.introduced:
        parts.append("<p>nothing judged yet</p>")
    parts += [
        _rows(
            "Culprits",
            ("operator", "verdict", "ratio", "diagnosis", "evidence"),
            [
                (c.op, _symbol(c.verdict), _number(c.ratio), c.diagnosis, c.evidence)
                for c in report.culprits
            ],
            50,
        ),
        _rows(
            "Without a kernel on the target",
            ("operator", "verdict", "reason"),
            [(r.op, _symbol(r.verdict), r.message) for r in report.missing],
            10,
        ),
        _rows(
            "Layers",
            ("layer", "operators", "on the target", "worst verdict", "worst ratio"),
            _layers(report),
            60,
        ),
    ]
    return f'<div class="tapml">{"".join(parts)}</div>'


def _layers(report: Report) -> list[tuple[str, ...]]:
    layers = defaultdict[str, list[OpId]](list)
    for op in report.graph.ops:
        layers[op.layer or "(model)"].append(op.id)
    rows = list[tuple[str, ...]]()
    for layer, ops in layers.items():
        ratios = [r for op in ops if not math.isnan(r := _ratio(report, op))]
        moved = sum(report.placement.get(op, "source") == "target" for op in ops)
        worst = _symbol(_worst(report.verdict(op) for op in ops))
        ratio = _number(max(ratios, default=math.nan))
        rows.append((layer, str(len(ops)), str(moved), worst, ratio))
    return rows


def _rows(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], limit: int) -> str:
    """A table of the first ``limit`` rows; nothing where there are none."""
    if not rows:
        return ""
    columns = "".join(f"<th>{escape(column)}</th>" for column in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[:limit]
    )
    more = f"<p>… and {len(rows) - limit} more</p>" if len(rows) > limit else ""
    return (
        f"<h4>{escape(title)}</h4><table><thead><tr>{columns}</tr></thead>"
        f"<tbody>{body}</tbody></table>{more}"
    )


def _symbol(verdict: Verdict) -> str:
    return f"{VERDICT_SYMBOLS[verdict]} {verdict}"


def _number(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    return f"{ratio:.3g}" if math.isfinite(ratio) else "∞"
