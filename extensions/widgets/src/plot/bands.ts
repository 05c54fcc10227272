// The plot's x axis: the model's layers as bands with names, or the parts of one that fills it.

import type { Store } from "../store";

/** Operators in a row that belong together. */
export interface Band {
  /** A layer's path; or a part's name within its layer. */
  name: string;
  first: number;
  last: number;
}

export interface Label {
  band: Band;
  /** Empty where there is no room. */
  text: string;
}

const CHARACTER = 6.6; // pixels
const GAP = 8; // between two names

/** The layers between two operators; the parts of the layer if it is only one. */
export function bandsOf(store: Store, low: number, high: number): Band[] {
  const first = Math.max(0, Math.ceil(low));
  const last = Math.min(store.ops.length - 1, Math.floor(high));
  const layers = gathered(first, last, (op) => layerOf(store, op));
  return layers.length === 1 ? gathered(first, last, (op) => partOf(store, op)) : layers;
}

/** The band of an operator's layer. */
export function layerAround(store: Store, op: number): Band {
  const layer = store.layerOf[op]!;
  let [first, last] = [op, op];
  while (first > 0 && store.layerOf[first - 1] === layer) first--;
  while (last < store.ops.length - 1 && store.layerOf[last + 1] === layer) last++;
  return { name: layerOf(store, op), first, last };
}

export function layerOf(store: Store, op: number): string {
  return store.layers[store.layerOf[op]!] || "(model)";
}

/** The scope right below its layer that an operator is in. */
function partOf(store: Store, op: number): string {
  const layer = store.layers[store.layerOf[op]!]!;
  const { path } = store.tree.home[op]!;
  const inner = layer ? path.slice(layer.length + 1) : path;
  return inner.split(".", 1)[0] || "(itself)";
}

function gathered(first: number, last: number, name: (op: number) => string): Band[] {
  const bands: Band[] = [];
  for (let op = first; op <= last; op++) {
    const here = name(op);
    const band = bands.at(-1);
    if (band?.name === here) band.last = op;
    else bands.push({ name: here, first: op, last: op });
  }
  return bands;
}

/**
 * What to write at each band, `pixels` wide an operator. Numbered layers are written alike: with the
 * list's name or without, every one or every second, fifth, … ; others where they have room.
 */
export function labelsOf(bands: readonly Band[], pixels: number): Label[] {
  const wide = (text: string) => text.length * CHARACTER + GAP;
  const width = (band: Band) => (band.last - band.first + 1) * pixels;
  const index = (band: Band) => /(?:^|\.)(\d+)$/.exec(band.name)?.[1];
  const numbered = bands.filter((band) => index(band) !== undefined);
  const room = median(numbered.map(width));
  const short = (band: Band) => band.name.split(".").slice(-2).join(".");
  const long = numbered.every((band) => wide(short(band)) <= room);
  const longest = Math.max(...numbered.map((band) => wide(index(band)!)));
  const every = [1, 2, 5, 10, 20, 50, 100].find((k) => k * room >= longest) ?? 200;
  return bands.map((band) => {
    const number = index(band);
    let text = "";
    if (number !== undefined) {
      if (long) text = short(band);
      else if (Number(number) % every === 0) text = number;
    } else {
      text =
        [band.name, short(band), short(band).split(".").at(-1)!].find(
          (name) => wide(name) <= width(band),
        ) ?? "";
    }
    return { band, text };
  });
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1] ?? 0;
}
