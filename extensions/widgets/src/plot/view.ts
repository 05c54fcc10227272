// Divergence over model order: introduced and accumulated error, and the noise floor, live.

import uPlot from "uplot";
import { mix, onTheme, themeOf } from "../colours";
import { h, keepKeys, onResize, select, setText } from "../dom";
import { number } from "../format";
import type { Metric } from "../protocol";
import type { Store } from "../store";
import { LayerAxis } from "./axis";
import { type Band, layerAround, layerOf } from "./bands";
import { drawMarks } from "./marks";
import {
  ACCUMULATED,
  decades,
  FAULT,
  INTRODUCED,
  LEAST,
  MISSING,
  plain,
  SERIES,
  type Unit,
} from "./scale";

export class DivergencePlot {
  readonly element: HTMLElement;
  private stage = h("div", {
    class: "tapml-plot-stage",
    tabindex: 0,
    role: "application",
    "aria-label": "Divergence over model order",
    "aria-description":
      "Left and right arrows go from operator to operator, up and down to the next that is broken or missing, z zooms to the layer of the selected one, plus and minus zoom, Escape shows everything. Drag to zoom.",
  });
  private tip = h("div", { class: "tapml-tip", hidden: true });
  private spoken = h("div", { class: "tapml-spoken", "aria-live": "polite" });
  private heading = h("strong");
  private axis: LayerAxis;
  private unit: Unit = "floors";
  private units: HTMLSelectElement;
  private plot: uPlot | null = null;
  private data: number[][] = [];
  private zoomed: [number, number] | null = null;
  private width = 0;
  private height = 0;
  private readonly ends: (() => void)[];

  constructor(private store: Store) {
    this.units = select(
      "Unit of the errors",
      [
        ["floors", "in noise floors"],
        ["absolute", "absolute"],
      ],
      (unit) => {
        this.unit = unit as Unit;
        store.remember("unit", unit);
        this.build();
      },
    );
    const key = (colour: string, text: string) =>
      h("span", { class: "tapml-key" }, h("i", { style: `background:${colour}` }), text);
    this.element = h(
      "section",
      { class: "tapml-plot", "aria-label": "Divergence" },
      h(
        "div",
        { class: "tapml-bar" },
        this.heading,
        key(INTRODUCED, "introduced"),
        key(ACCUMULATED, "accumulated"),
        key("#888888", "noise floor"),
        key(FAULT, "limit, × culprit"),
        key(MISSING, "+ missing"),
        store.against && h("span", { class: "tapml-key" }, `○ ╌ ${store.against.name}`),
        h("span", { class: "tapml-space" }),
        this.units,
        h("button", { type: "button", onclick: () => this.unzoom() }, "show all"),
      ),
      this.stage,
      this.spoken,
    );
    this.axis = new LayerAxis(store, (band) => this.zoomTo(band));
    this.stage.append(this.tip, this.axis.element);
    keepKeys(this.element);
    this.stage.addEventListener("keydown", (event) => this.key(event));
    this.ends = [
      store.on("graph", () => {
        this.unit = store.recall("unit", this.unit);
        this.units.value = this.unit;
        this.build();
      }),
      store.on("results", () => this.refresh()),
      store.on("selection", () => this.plot?.redraw(false)),
      onTheme(() => this.build()),
      onResize(this.stage, (width, height) => {
        this.width = width;
        this.height = height;
        if (this.plot) this.plot.setSize({ width, height });
        else this.build();
      }),
    ];
    if (store.ready) this.build();
  }

  dispose(): void {
    this.plot?.destroy();
    for (const end of this.ends) end();
  }

  private build(): void {
    const { store } = this;
    this.plot?.destroy();
    this.plot = null;
    if (!store.ready || !this.width || !store.ops.length) return;
    const theme = themeOf(this.element);
    const axis = {
      stroke: theme.dim,
      grid: { stroke: theme.border, width: 0.5 },
      ticks: { stroke: theme.border, width: 0.5 },
    };
    const points = (colour: string, size: number): uPlot.Series => ({
      stroke: colour,
      width: 0,
      paths: () => null,
      points: { show: true, size, fill: colour, width: 0 },
    });
    const shade = (colour: string, step: number) =>
      mix(colour, theme.back, 1 - (0.6 * step) / Math.max(1, store.steps));
    const series: uPlot.Series[] = [{}];
    for (let step = 0; step < store.steps; step++) {
      series.push({
        ...points(shade(ACCUMULATED, step), 3),
        paths: undefined,
        width: 1.2,
        spanGaps: true,
      });
    }
    for (let step = 0; step < store.steps; step++) series.push(points(shade(INTRODUCED, step), 4));
    if (store.against) series.push(...hollow(theme.dim, ACCUMULATED));
    series.push({ stroke: "#888888", width: 1, dash: [2, 3], points: { show: false } });
    if (this.unit === "floors")
      series.push({ stroke: FAULT, width: 1, dash: [6, 4], points: { show: false } });
    const n = store.ops.length;
    this.plot = new uPlot(
      {
        width: this.width,
        height: this.height,
        legend: { show: false },
        padding: [8, 10, 0, 0],
        cursor: { y: false, drag: { x: true, y: false }, points: { show: false } },
        scales: {
          x: { time: false, range: () => this.zoomed ?? [-1, Math.max(1, n)] },
          y: { distr: 3, range: () => this.range() },
        },
        axes: [
          {
            ...axis,
            size: 22,
            grid: { show: false },
            ticks: { show: false },
            values: (_, ticks) => ticks.map(() => ""),
          },
          {
            ...axis,
            size: 58,
            splits: (plot) => decades(plot),
            filter: (_, ticks) => ticks,
            values: (_, ticks) => ticks.map(plain),
          },
        ],
        series,
        hooks: {
          setCursor: [() => this.hover()],
          setSelect: [(plot) => this.brush(plot)],
          drawClear: [(plot) => this.axis.draw(plot, themeOf(this.element))],
          draw: [(plot) => drawMarks(plot, store, this.unit, themeOf(this.element))],
        },
      },
      this.fill() as uPlot.AlignedData,
      this.stage,
    );
    const over = this.plot.over;
    over.addEventListener("click", () => {
      const op = this.nearest();
      if (op >= 0) store.select(op, store.worstStep(op));
    });
    over.addEventListener("dblclick", () => this.unzoom());
    over.addEventListener("mouseleave", () => (this.tip.hidden = true));
  }

  private refresh(): void {
    if (this.plot) this.plot.setData(this.fill() as uPlot.AlignedData);
    else this.build();
  }

  /** x, accumulated by step, introduced by step, those of the other report, floor, limit. */
  private fill(): number[][] {
    const { store, unit } = this;
    this.entitle();
    const n = store.ops.length;
    const names = SERIES[unit];
    const least = LEAST[unit];
    const { against } = store;
    const column = (metric: Metric, step: number) => drawable(store.metrics[metric], step);
    const drawable = (values: Float32Array, step: number): number[] => {
      const result = new Array<number>(n);
      for (let op = 0; op < n; op++) {
        const value = values[step * n + op]!;
        // null: nothing to draw; infinite ones are crosses of their own
        result[op] = Number.isFinite(value) ? Math.max(value, least) : (null as unknown as number);
      }
      return result;
    };
    const steps = [...Array(store.steps).keys()];
    this.data = [
      [...Array(n).keys()],
      ...steps.map((s) => column(names.accumulated, s)),
      ...steps.map((s) => column(names.introduced, s)),
      ...(against ? [names.accumulated, names.introduced] : []).map((metric) =>
        drawable(against!.metrics[metric], 0),
      ),
    ];
    if (unit === "floors") {
      this.data.push(new Array<number>(n).fill(1), new Array<number>(n).fill(store.limit));
    } else {
      const floor = store.metrics.floor;
      const worst = (op: number) => floor[store.worstStep(op) * n + op]!;
      this.data.push(
        this.data[0]!.map((op) => (worst(op) > 0 ? worst(op) : (null as unknown as number))),
      );
    }
    return this.data;
  }

  private range(): [number, number] {
    const least = LEAST[this.unit];
    let top = this.unit === "floors" ? 100 : 1e-3;
    let low = this.unit === "floors" ? least : 1;
    const errors = 2 * this.store.steps + (this.store.against ? 2 : 0);
    for (const values of this.data.slice(1, 1 + errors)) {
      for (const value of values) {
        if (value !== null && value > top) top = value;
        if (value !== null && value > least && value < low) low = value;
      }
    }
    return [10 ** Math.floor(Math.log10(low)) / 2, 10 ** Math.ceil(Math.log10(top) + 0.6)];
  }

  private nearest(): number {
    const left = this.plot?.cursor.left ?? -1;
    if (left < 0 || !this.plot) return -1;
    return Math.min(
      this.store.ops.length - 1,
      Math.max(0, Math.round(this.plot.posToVal(left, "x"))),
    );
  }

  private describe(op: number): string {
    const { store } = this;
    const names = SERIES[this.unit];
    const unit = this.unit === "floors" ? " floors" : "";
    const { against } = store;
    const other =
      against &&
      `\n${against.name}: introduced ${number(against.metrics[names.introduced][op])}${unit}, ` +
        `accumulated ${number(against.metrics[names.accumulated][op])}${unit}`;
    return (
      `${store.ops[op]}\n${store.info(op).name}; introduced ${number(store.metric(names.introduced, op))}${unit}, ` +
      `accumulated ${number(store.metric(names.accumulated, op))}${unit}${other ?? ""}`
    );
  }

  private hover(): void {
    const op = this.nearest();
    this.tip.hidden = op < 0;
    if (op < 0 || !this.plot) return;
    this.tip.textContent = this.describe(op);
    const left = this.plot.cursor.left! + 66;
    this.tip.style.left = `${left > this.width - 260 ? Math.max(0, left - 280) : left + 10}px`;
    this.tip.style.top = "10px";
  }

  private brush(plot: uPlot): void {
    const { left, width } = plot.select;
    if (width < 4) return;
    this.zoomed = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.entitle();
    plot.setData(this.data as uPlot.AlignedData);
  }

  /** Zoom around the selected operator. */
  private zoom(factor: number): void {
    const n = this.store.ops.length;
    const [low, high] = this.zoomed ?? [-1, n];
    const half = Math.max(4, ((high - low) * factor) / 2);
    const middle = this.store.selection.op >= 0 ? this.store.selection.op : (low + high) / 2;
    this.zoomed = half * 2 >= n + 1 ? null : [middle - half, middle + half];
    this.refresh();
  }

  private zoomTo({ first, last }: Band): void {
    this.zoomed = [first - 0.5, last + 0.5];
    this.refresh();
  }

  private unzoom(): void {
    this.zoomed = null;
    this.refresh();
  }

  /** Which layer is shown, if it is one alone. */
  private entitle(): void {
    const { store, zoomed } = this;
    let words = "Divergence by layer";
    if (zoomed) {
      const first = Math.max(0, Math.ceil(zoomed[0]));
      const last = Math.min(store.ops.length - 1, Math.floor(zoomed[1]));
      const layer = store.layerOf.subarray(first, last + 1);
      if (layer.length && layer.every((l) => l === layer[0]))
        words = `Divergence in ${layerOf(store, first)}`;
    }
    setText(this.heading, words);
  }

  private key(event: KeyboardEvent): void {
    const { store } = this;
    const n = store.ops.length;
    const here = store.selection.op;
    const finding = (way: 1 | -1) => {
      for (let op = here + way; op >= 0 && op < n; op += way) {
        if (store.info(op).broken || store.info(op).missing) return op;
      }
      return here;
    };
    const moves: Record<string, () => number> = {
      ArrowRight: () => here + 1,
      ArrowLeft: () => here - 1,
      ArrowDown: () => finding(1),
      ArrowUp: () => finding(-1),
      Home: () => 0,
      End: () => n - 1,
    };
    const move = moves[event.key];
    if (move) {
      const op = Math.min(n - 1, Math.max(0, move()));
      if (op >= 0) {
        store.select(op, store.worstStep(op));
        this.spoken.textContent = this.describe(op);
      }
    } else if (event.key === "z") {
      if (here >= 0) this.zoomTo(layerAround(store, here));
    } else if (event.key === "+" || event.key === "=") this.zoom(0.5);
    else if (event.key === "-") this.zoom(2);
    else if (event.key === "Escape") this.unzoom();
    else if (event.key === "Enter") store.reveal(here);
    else return;
    event.preventDefault();
  }
}

/** The series of the other report: what is accumulated as a broken line, what is introduced hollow. */
function hollow(mark: string, line: string): uPlot.Series[] {
  return [
    { stroke: line, width: 1, dash: [2, 3], spanGaps: true, points: { show: false } },
    {
      stroke: mark,
      paths: () => null,
      points: { show: true, size: 6, width: 1, stroke: mark, fill: "transparent" },
    },
  ];
}
