"""The model as at most forty boxes of scopes: what to open, and how to draw it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tapml_nb.graph import OpId
from tapml_nb.judge.verdict import FAULTS, SEVERITY, Verdict
from tapml_nb.report.drawing import (
    CROSSING,
    FONT,
    FREE,
    GUTTER,
    INK,
    LEFT,
    LITERAL,
    MARGIN,
    WIDTH,
    WIRE,
    blank,
    edge_colour,
    fitted,
    fitted_path,
    ink_on,
    mix,
    restyle_legend,
)
from tapml_nb.report.findings import Findings
from tapml_nb.report.outcome import BROKEN, MISSING, VERDICT_COLOURS, VERDICT_SYMBOLS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOXES = 40
"""At most so many boxes are in the overview."""

COLUMNS = 4
_BOX, PITCH, _SYMBOL = 0.36, 0.5, 0.22  # a box's height, from box to box, width of the symbol
_PLACES = {  # the hatch, how much paper is in its ink, and words
    "source": ("", 0.5, "on the source"),
    "target": ("///", 0.6, "all on the target"),
    "mixed": ("//", 0.75, "partly on the target"),
}


@dataclass(frozen=True)
class Box:
    """Some operators as one box of the overview.

    Attributes:
        name: the scope; the first and the last one's where the box has several.
        ops: its operators, in model order.
        verdict: the worst of them.
        broken: how many are culprits.
        missing: how many have no kernel on the target.
        placement: ``"source"``, ``"target"`` or ``"mixed"``.
    """

    name: str
    ops: tuple[OpId, ...]
    verdict: Verdict
    broken: int
    missing: int
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


def overview(findings: Findings, limit: int = BOXES) -> list[Box]:
    """The model as at most ``limit`` boxes, in the order of their first operators.

    Scopes open level by level from the root.  A level opens as a whole if that fits; if not, its
    scopes with faults open, worst first, and the others stay closed: of two scopes that look alike
    one is open only for a reason.  Should nothing of the sort fit, a scope's children are put
    together in runs of equal length.
    """
    verdicts = [findings.verdict(op.id) for op in findings.graph.ops]
    if not verdicts:
        return []
    level, boxes = [_pass_through(_tree(findings))], list[tuple[str, list[int]]]()
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
    return [_box(findings, name, ops, verdicts) for name, ops in boxes]


def _tree(findings: Findings) -> _Scope:
    root = _Scope("")
    ways = {"": [root]}  # from the root to each scope
    for i, op in enumerate(findings.graph.ops):
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


def _box(findings: Findings, name: str, ops: Sequence[int], verdicts: Sequence[Verdict]) -> Box:
    ids = tuple(findings.graph.ops[i].id for i in ops)
    found = [verdicts[i] for i in ops]
    places = {findings.place(op) for op in ids}
    return Box(
        name or "(model)",
        ids,
        min(set(found), key=SEVERITY.index),
        sum(verdict in BROKEN for verdict in found),
        sum(verdict in MISSING for verdict in found),
        places.pop() if len(places) == 1 else "mixed",
    )


def edges_of(findings: Findings, boxes: Sequence[Box]) -> dict[tuple[int, int], bool]:
    """The pairs of boxes between which tensors go, and whether one changes the machine."""
    graph = findings.graph
    box_of = {op: i for i, box in enumerate(boxes) for op in box.ops}
    edges = dict[tuple[int, int], bool]()
    for op in graph.ops:
        here = findings.place(op.id)
        for value in op.inputs:
            known = graph.values.get(value)
            producer = known.producer if known else None
            if producer is None or box_of[producer] == box_of[op.id]:
                continue
            pair = (box_of[producer], box_of[op.id])
            crosses = findings.place(producer) != here
            edges[pair] = edges.get(pair, False) or crosses
    return edges


def draw_overview(boxes: Sequence[Box], edges: Mapping[tuple[int, int], bool], axes: Axes) -> None:
    """Boxes in columns, read downwards, then to the right; the axes' unit is an inch."""
    blank(axes)
    top = axes.get_ylim()[1]
    if not boxes:
        axes.text(LEFT, top - 0.2, "no operators", fontsize=9, color=FREE, **LITERAL)
        return
    grid = _Grid(len(boxes), top - (PITCH - _BOX))
    _draw_edges(grid, edges, axes)
    for i, box in enumerate(boxes):
        _draw_box(box, *grid.corner(i), grid.width, axes)


def _draw_box(box: Box, x: float, y: float, width: float, axes: Axes) -> None:
    from matplotlib.patches import Rectangle

    colour = VERDICT_COLOURS[box.verdict]
    hatch, paper, _ = _PLACES[box.placement]
    ink = mix(edge_colour(colour), paper)
    # The hatch has its patch's edge colour, so the edge is another patch.
    for left, wide, style in (
        (x, width, {"facecolor": mix(colour, 0.86), "edgecolor": ink, "hatch": hatch}),
        (x, _SYMBOL, {"facecolor": colour}),
    ):
        axes.add_patch(Rectangle((left, y), wide, _BOX, linewidth=0, zorder=3, **style))
    edge = edge_colour(colour)
    axes.add_patch(
        Rectangle((x, y), width, _BOX, fill=False, edgecolor=edge, linewidth=1, zorder=3)
    )
    symbol, on_colour = VERDICT_SYMBOLS[box.verdict], ink_on(colour)
    middle: dict[str, Any] = {"va": "center", "zorder": 4, **LITERAL}
    axes.text(
        x + _SYMBOL / 2, y + _BOX / 2, symbol, color=on_colour, fontsize=11, ha="center", **middle
    )
    room = width - _SYMBOL - 0.1
    count = f"{len(box.ops)} op{'s' if len(box.ops) > 1 else ''}, {box.verdict}"
    count += f", {box.broken} culprit{'s' if box.broken > 1 else ''}" if box.broken else ""
    count += f", {box.missing} missing" if box.missing else ""
    for text, size, above in (
        (fitted_path(box.name, room, 7), 7, 0.25),
        (fitted(count, room, 6.5), 6.5, 0.1),
    ):
        axes.text(x + _SYMBOL + 0.06, y + above, text, fontsize=size, color=INK, **middle)


class _Grid:
    """Where the boxes are: columns of equal length, between gutters for the lines."""

    def __init__(self, boxes: int, top: float) -> None:
        self.rows = math.ceil(boxes / COLUMNS)
        self.top = top
        self.width = (WIDTH - 2 * MARGIN - COLUMNS * GUTTER) / COLUMNS

    def place(self, box: int) -> tuple[int, int]:
        return divmod(box, self.rows)

    def corner(self, box: int) -> tuple[float, float]:
        """The lower left corner."""
        column, row = self.place(box)
        x = LEFT + column * (self.width + GUTTER)
        return x, self.top - row * PITCH - _BOX

    def route(self, start: int, end: int, lane: float) -> list[tuple[float, float]]:
        """A way from box to box through gutters and gaps; ``lane`` (0 to 1) is where in them."""
        (x0, y0), (x1, y1) = self.corner(start), self.corner(end)
        (c0, r0), (c1, r1) = self.place(start), self.place(end)
        if (c1, r1) == (c0, r0 + 1):
            middle = x0 + self.width / 2
            return [(middle, y0), (middle, y1 + _BOX)]
        out, into = y0 + _BOX * 0.4, y1 + _BOX * 0.6
        right, left = x0 + self.width, x1
        gutter = right + GUTTER * (0.18 + 0.5 * lane)
        if c1 == c0:
            return [(right, out), (gutter, out), (gutter, into), (x1 + self.width, into)]
        if c1 == c0 + 1:
            if r0 == r1:
                return [(right, y0 + _BOX / 2), (left, y0 + _BOX / 2)]
            return [(right, out), (gutter, out), (gutter, into), (left, into)]
        gap = y1 + _BOX + (PITCH - _BOX) * (0.2 + 0.6 * lane)
        entry = left - GUTTER * (0.82 - 0.5 * lane)
        return [
            *((right, out), (gutter, out), (gutter, gap)),
            *((entry, gap), (entry, into), (left, into)),
        ]


def _draw_edges(grid: _Grid, edges: Mapping[tuple[int, int], bool], axes: Axes) -> None:
    from matplotlib.collections import LineCollection

    # One lane per box where a line starts, so that its lines run together like a bus.
    starts = sorted({start for start, _ in edges})
    lanes = {start: (i * 0.381966) % 1 for i, start in enumerate(starts)}
    for crossing, colour, style, z in ((False, WIRE, "solid", 1), (True, CROSSING, "dashed", 2)):
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


def draw_legend(boxes: Sequence[Box], axes: Axes) -> None:
    """What the colours of the verdicts shown, the hatches and the dashed lines mean."""
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    blank(axes)
    shown = {box.verdict for box in boxes}
    colours = [
        Patch(facecolor=VERDICT_COLOURS[v], edgecolor=edge_colour(VERDICT_COLOURS[v]), label=str(v))
        for v in Verdict
        if v in shown
    ]
    hatches = [
        Patch(facecolor="none", edgecolor=FREE, hatch=hatch, label=words)
        for hatch, _, words in _PLACES.values()
    ]
    wire = Line2D([], [], color=CROSSING, linestyle="dashed", label="between source and target")
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
            bbox_to_anchor=(LEFT / WIDTH, y),
            bbox_transform=axes.transAxes,
            ncols=len(handles),
            borderpad=0,
            borderaxespad=0,
            handlelength=2.6 if few else 1.8,
            handleheight=1.0,
            columnspacing=1.6 if few else 0.7,
            frameon=False,
            prop={"family": FONT, "size": 7.5},
        )
        restyle_legend(legend)
        axes.add_artist(legend)
