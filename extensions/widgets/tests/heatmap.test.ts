import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { type Choice, gather } from "../src/heatmap/cells";
import { apart } from "../src/heatmap/labels";
import { type Matrix, ofCells, ofTensor, profiles } from "../src/heatmap/matrix";
import { FAIL, fakeBrowser, Kernel, PASS, record, SKIPPED } from "./kernel";
import LABELS from "./labels.json";

beforeEach(fakeBrowser);

const NINE = (ratio: number, snr = 40) => [ratio, 1, 0, 0, 0, 0, snr, 1, 1];

function judged(): Kernel {
  const kernel = new Kernel();
  kernel.snapshot({ ops: ["a/x", "a/y", "b/z"], steps: 2 });
  kernel.delta({}, record(0, 0, PASS, NINE(1, 20)));
  kernel.delta({}, record(1, 1, FAIL, NINE(90, 60)));
  return kernel;
}

const CHOICE: Choice = { rows: "layer", cols: "kind", beyond: false, views: false, order: "" };

test("a layer shows its worst operator in each step", () => {
  const { store } = judged();
  const cells = gather(store, { ...CHOICE, cols: "step" });
  assert.deepEqual([cells.rowNames, cells.colNames], [["a"], ["0", "1"]]);
  assert.deepEqual([...cells.values], [1, 90]);
  assert.deepEqual([...cells.beyond], [0, 1]);
  assert.deepEqual(cells.notes, ["left out: 1 layer without a number"]);
  const matrix = ofCells(store, cells);
  assert.equal(matrix.name(0, 1), "a, step 1: 90 noise floors, beyond the limit\nworst: a/y");
  matrix.pick(0, 1);
  assert.deepEqual(store.selection, { op: 1, step: 1 });
});

test("of signal to noise, the least is the worst", () => {
  const cells = gather(judged().store, { ...CHOICE, cols: "metric" });
  assert.equal(cells.values[cells.colNames.indexOf("snr_db")], 20);
  assert.deepEqual(
    cells.colNames.filter((_, c) => cells.beyond[c]),
    ["ratio"],
  );
});

function kinds(): Kernel {
  const kernel = new Kernel();
  kernel.snapshot({ ops: ["a/view", "a/x", "b/x", "b/z"], kinds: ["v", "x", "x", "z"] });
  kernel.delta({}, record(0, 0, SKIPPED, NINE(0)));
  kernel.delta({}, record(1, 0, PASS, NINE(2)));
  kernel.delta({}, record(2, 0, PASS, NINE(1)));
  kernel.delta({}, record(3, 0, FAIL, NINE(50)));
  return kernel;
}

test("columns are sorted by worst, and views are left out unless asked for", () => {
  const { store } = kinds();
  const cells = gather(store, CHOICE);
  assert.deepEqual(cells.colNames, ["z", "x"]);
  assert.deepEqual([...cells.values], [Number.NaN, 2, 50, 1]);
  assert.deepEqual(cells.notes, ["left out: 1 kind of views only"]);
  const whole = gather(store, { ...CHOICE, views: true, order: "model" });
  assert.deepEqual([whole.colNames, whole.notes], [["v", "x", "z"], []]);
  assert.deepEqual(gather(store, { ...CHOICE, order: "worst" }).rowNames, ["b", "a"]);
});

test("only what is beyond the limit", () => {
  const { store } = kinds();
  const cells = gather(store, { ...CHOICE, beyond: true });
  assert.deepEqual([cells.rowNames, cells.colNames], [["b"], ["z"]]);
  assert.deepEqual([...cells.values, ...cells.beyond, ...cells.ops], [50, 1, 3]);
});

test("scopes at a depth", () => {
  const kernel = new Kernel();
  kernel.snapshot({ ops: ["m.0.q/x", "m.0.k/x", "m.1.q/x", "head/x"] });
  const by = (rows: string) => gather(kernel.store, { ...CHOICE, rows }).rowNames;
  assert.deepEqual(by("scope:1"), ["m", "head"]);
  assert.deepEqual(by("scope:2"), ["m.0", "m.1", "head"]);
  assert.deepEqual(by("scope"), ["m.0.q", "m.0.k", "m.1.q", "head"]);
});

test("labels stay apart, and are those of Python", () => {
  for (const { names, most, labels } of LABELS) assert.deepEqual(apart(names, most), labels);
});

test("the largest of every row and column", () => {
  const shade = new Float32Array([0, 0.25, Infinity, 0.5, Number.NaN, 0]);
  const found = profiles({ rows: 2, cols: 3, shade, signed: false } as unknown as Matrix);
  assert.deepEqual([...found.rows], [1, 1]);
  assert.deepEqual([...found.cols], [0.5, 1, 1]);
});

test("a cell of a pooled tensor names the elements that it stands for", () => {
  const reply = { shape: [4, 9], axes: [0, 1], window: [0, 4, 0, 9], rows: 2, cols: 3 };
  const answer = { ...reply, outputs: 1, note: "", blocks: [] } as unknown as Parameters<
    typeof ofTensor
  >[0];
  const values = new Float32Array([0, -2, 4, Number.NaN, 0, 0]);
  const zooms: number[][] = [];
  const beyond = new Uint8Array([0, 0, 1, 0, 0, 0]);
  const matrix = ofTensor(answer, values, beyond, "source", (...range) => zooms.push(range));
  assert.equal(matrix.name(1, 2), "axes 0, 1 [2…3, 6…8]: 0");
  assert.equal(matrix.name(0, 2), "axes 0, 1 [0…1, 6…8]: 4, beyond the limit");
  assert.deepEqual([...matrix.shade], [0.5, 0.25, 1, Infinity, 0.5, 0.5]);
  matrix.pick(0, 0);
  assert.deepEqual(zooms, [[0, 2, 0, 3]]);
});
