// The names of the bands under the plot: a click on one zooms to it.

import type uPlot from "uplot";
import type { Theme } from "../colours";
import { h } from "../dom";
import type { Store } from "../store";
import { type Band, bandsOf, labelsOf } from "./bands";

const LEAST = 3; // pixels of a band that can be clicked

export class LayerAxis {
  readonly element = h("div", { class: "tapml-bands" });
  private bands: Band[] = [];
  private shown = "";

  constructor(
    private store: Store,
    private zoom: (band: Band) => void,
  ) {}

  /** Shade every second band, and name them where they are now. */
  draw(plot: uPlot, theme: Theme): void {
    const { min, max } = plot.scales.x!;
    const place = `${min} ${max} ${plot.bbox.left} ${plot.bbox.width} ${this.store.ops.length}`;
    if (place !== this.shown) {
      this.shown = place;
      this.bands = bandsOf(this.store, min!, max!);
      this.write(plot);
    }
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.fillStyle = theme.raised;
    this.bands.forEach((band, k) => {
      if (k % 2) return;
      const [left, right] = ends(plot, band, true);
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
    });
    ctx.restore();
  }

  private write(plot: uPlot): void {
    const { left, width } = plot.over.getBoundingClientRect();
    const pixels = width / (plot.scales.x!.max! - plot.scales.x!.min!);
    const from = left - plot.root.getBoundingClientRect().left;
    const buttons = labelsOf(this.bands, pixels).flatMap(({ band, text }) => {
      const [low, high] = ends(plot, band, false);
      if (high - low < LEAST && !text) return [];
      const count = band.last - band.first + 1;
      const button = h(
        "button",
        {
          type: "button",
          tabindex: -1, // by keyboard: z in the plot
          title: `${band.name}: ${count === 1 ? "1 operator" : `${count} operators`}; click to zoom`,
          "aria-label": `Zoom to ${band.name}`,
          onclick: () => this.zoom(band),
        },
        h("span", {}, text),
      );
      button.style.left = `${from + low}px`;
      button.style.width = `${high - low}px`;
      return [button];
    });
    const { layerOf } = this.store;
    const parts = this.bands.every(({ first }) => layerOf[first] === layerOf[this.bands[0]!.first]);
    this.element.replaceChildren(h("span", {}, parts ? "part" : "layer"), ...buttons);
  }
}

/** Where a band begins and ends, within what the plot shows; in the canvas's pixels, or CSS's. */
function ends(plot: uPlot, band: Band, canvas: boolean): [number, number] {
  const [low, high] = canvas
    ? [plot.bbox.left, plot.bbox.left + plot.bbox.width]
    : [0, plot.over.clientWidth];
  const at = (x: number) => Math.min(high, Math.max(low, plot.valToPos(x, "x", canvas)));
  return [at(band.first - 0.5), at(band.last + 0.5)];
}
