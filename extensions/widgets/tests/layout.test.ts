import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { Scene } from "../src/graph/scene";
import { Viewport } from "../src/graph/viewport";
import { type Layout, layout, markCrossings, openAtFirst } from "../src/layout";
import type { Store } from "../src/store";
import { fakeBrowser, Kernel } from "./kernel";

beforeEach(fakeBrowser);

/** Layers in a row, of three operators each: in, middle and out. */
function model(layers: number): Store {
  const kernel = new Kernel();
  const ops: string[] = [];
  const edges: [number, number][] = [];
  for (let k = 0; k < layers; k++) {
    for (const name of ["in", "middle", "out"]) {
      if (ops.length) edges.push([ops.length - 1, ops.length]);
      ops.push(`model.layers.${k}/${name}`);
    }
  }
  kernel.snapshot({ ops, edges });
  return kernel.store;
}

const ALL = new Set(["model", "model.layers", "model.layers.0", "model.layers.1"]);
const labels = (picture: Layout) => picture.leaves.map((leaf) => leaf.label);

test("a closed scope stands for all of its operators", () => {
  const picture = layout(model(2), new Set());
  assert.deepEqual(labels(picture), ["model"]);
  assert.deepEqual(picture.edges, []);
  assert.ok(picture.leafOf.every((leaf) => leaf === picture.leaves[0]));
});

test("open scopes show what is in them, in trace order", () => {
  const picture = layout(model(2), ALL);
  assert.deepEqual(labels(picture), ["in", "middle", "out", "in", "middle", "out"]);
  assert.equal(picture.edges.length, 5);
  const half = layout(model(2), new Set(["model", "model.layers", "model.layers.0"]));
  assert.deepEqual(labels(half), ["in", "middle", "out", "1"]);
  assert.equal(half.edges.length, 3);
});

test("readers stand below what they read, children within their frame, boxes apart", () => {
  const picture = layout(model(2), ALL);
  for (const { from, to } of picture.edges) assert.ok(to.y >= from.y + from.h);
  for (const node of picture.nodes) {
    const outer = node.parent;
    if (!outer) continue;
    assert.ok(node.x >= outer.x && node.x + node.w <= outer.x + outer.w);
    assert.ok(node.y >= outer.y && node.y + node.h <= outer.y + outer.h);
    for (const other of outer.children) {
      if (other === node) continue;
      const apart =
        node.x + node.w <= other.x ||
        other.x + other.w <= node.x ||
        node.y + node.h <= other.y ||
        other.y + other.h <= node.y;
      assert.ok(apart, `${node.label} lies on ${other.label}`);
    }
  }
});

test("what very many read is drawn as ports", () => {
  const kernel = new Kernel();
  const ops = ["mask", ...Array.from({ length: 9 }, (_, k) => `reader_${k}`)];
  kernel.snapshot({ ops, edges: ops.slice(1).map((_, k) => [0, k + 1]) });
  assert.ok(layout(kernel.store, new Set()).edges.every((edge) => edge.port));
  kernel.snapshot({ ops: ops.slice(0, 9), edges: ops.slice(1, 9).map((_, k) => [0, k + 1]) });
  assert.ok(layout(kernel.store, new Set()).edges.every((edge) => !edge.port));
});

test("edges count the tensors that cross", () => {
  const store = model(2);
  const picture = layout(store, ALL);
  const placement = new Uint8Array([0, 1, 1, 0, 0, 0]);
  markCrossings(picture, store.edges, placement);
  assert.deepEqual(
    picture.edges.map((edge) => edge.crossing),
    [1, 0, 1, 0, 0],
  );
});

test("at first as much is open as there is room for", () => {
  assert.deepEqual([...openAtFirst(model(3), 48)], ["model", "model.layers"]);
  assert.deepEqual([...openAtFirst(model(60), 48)], ["model"]);
});

test("a scene finds boxes by place, and opens scopes around an operator", () => {
  const scene = new Scene(model(2));
  scene.rebuild();
  assert.equal(scene.openAround(4), true);
  assert.equal(scene.openAround(4), false);
  scene.rebuild();
  const node = scene.nodeOf(4)!;
  assert.equal(node.label, "middle");
  assert.equal(scene.at({ x: node.x + 1, y: node.y + 1, w: 0, h: 0 }), node);
  scene.mark(node);
  assert.deepEqual(scene.chosen(), [4]);
  scene.marked.clear();
  scene.cursor = scene.ofScope("model.layers.0")!;
  assert.deepEqual(scene.chosen(), [0, 1, 2]);
  scene.find("out");
  assert.deepEqual([...scene.matches], [2, 5]);
  assert.equal(scene.setOpen(scene.ofScope("model.layers.1")!, true), false, "it is open");
});

test("a viewport zooms around a point and brings boxes into view", () => {
  let changes = 0;
  const view = new Viewport(() => changes++);
  Object.assign(view, { width: 400, height: 300 });
  view.fit({ width: 4000, height: 1000 });
  assert.deepEqual([view.box.x <= 0, view.box.x + view.box.w >= 4000], [true, true]);
  const before = view.toPlane({ x: 100, y: 50, w: 0, h: 0 });
  view.zoom(2, 100, 50);
  const after = view.toPlane({ x: 100, y: 50, w: 0, h: 0 });
  assert.ok(Math.abs(before.x - after.x) < 1e-6 && Math.abs(before.y - after.y) < 1e-6);
  const far = { x: 3900, y: 900, w: 50, h: 26 };
  assert.equal(view.holds(far), false);
  view.show(far);
  assert.equal(view.holds(far), true);
  view.begin({ width: 4000, height: 100_000 });
  assert.equal(view.scale, 0.85, "too large to be read as a whole");
  assert.ok(changes >= 4);
});
