import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { bandsOf, labelsOf, layerAround } from "../src/plot/bands";
import type { Store } from "../src/store";
import { fakeBrowser, Kernel } from "./kernel";

beforeEach(fakeBrowser);

/** An embedding, layers of four operators each, and a head of one. */
function model(layers: number): Store {
  const kernel = new Kernel();
  const ops = ["embed/embedding"];
  const scopes = ["embed"];
  for (let k = 0; k < layers; k++) {
    for (const part of ["norm", "mlp", "mlp"]) {
      ops.push(`layers.${k}.${part}/${ops.length}`);
      scopes.push(`layers.${k}`);
    }
    ops.push(`layers.${k}/add`);
    scopes.push(`layers.${k}`);
  }
  ops.push("head/linear");
  scopes.push("head");
  kernel.snapshot({ ops });
  const names = [...new Set(scopes)];
  kernel.store.layers = names;
  kernel.store.layerOf = new Uint32Array(scopes.map((scope) => names.indexOf(scope)));
  return kernel.store;
}

const names = (store: Store, low: number, high: number) =>
  bandsOf(store, low, high).map(({ name, first, last }) => `${name} ${first}-${last}`);

test("bands are the layers, cut where the view ends", () => {
  assert.deepEqual(names(model(2), -1, 10), [
    "embed 0-0",
    "layers.0 1-4",
    "layers.1 5-8",
    "head 9-9",
  ]);
  assert.deepEqual(names(model(2), 2.5, 5.4), ["layers.0 3-4", "layers.1 5-5"]);
});

test("one layer alone shows its parts", () => {
  const store = model(2);
  const { first, last } = layerAround(store, 6);
  assert.deepEqual([first, last], [5, 8]);
  assert.deepEqual(names(store, first - 0.5, last + 0.5), ["norm 5-5", "mlp 6-7", "(itself) 8-8"]);
});

test("names are as long as there is room, and never in each other's way", () => {
  const written = (layers: number, pixels: number) =>
    labelsOf(bandsOf(model(layers), 0, 4 * layers + 1), pixels).map((label) => label.text);
  assert.deepEqual(written(2, 100), ["embed", "layers.0", "layers.1", "head"]);
  assert.deepEqual(written(2, 6), ["", "0", "1", ""]);
  assert.deepEqual(
    written(30, 1.5).filter(Boolean),
    [0, 5, 10, 15, 20, 25].map(String),
    "every fifth",
  );
});
