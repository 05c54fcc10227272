import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { byLayer, byToken, ofTensor } from "../src/heatmap/matrix";
import { FAIL, fakeBrowser, Kernel, PASS, record } from "./kernel";

beforeEach(fakeBrowser);

const NINE = (ratio: number, snr = 40) => [ratio, 1, 0, 0, 0, 0, snr, 1, 1];

function judged(): Kernel {
  const kernel = new Kernel();
  kernel.snapshot({ ops: ["a/x", "a/y", "b/z"], steps: 2 });
  kernel.delta({}, record(0, 0, PASS, NINE(1, 20)));
  kernel.delta({}, record(1, 1, FAIL, NINE(90, 60)));
  return kernel;
}

test("a layer shows its worst operator in each step", () => {
  const { store } = judged();
  const matrix = byLayer(store, "step");
  assert.deepEqual(
    [matrix.rowLabels, matrix.colLabels],
    [
      ["a", "b"],
      ["0", "1"],
    ],
  );
  assert.deepEqual([...matrix.values], [1, 90, Number.NaN, Number.NaN]);
  assert.equal(matrix.name(0, 1), "a, 1: 90\nworst: a/y");
  matrix.pick(0, 1);
  assert.deepEqual(store.selection, { op: 1, step: 1 });
});

test("of signal to noise, the least is the worst", () => {
  const matrix = byLayer(judged().store, "metric");
  const at = matrix.colLabels!.indexOf("snr_db");
  assert.equal(matrix.values[at], 20);
});

test("tokens of every step stand side by side, with the operator that is off there", () => {
  const { store } = judged();
  const values = new Float32Array([1, 90, 2, ...Array(3).fill(Number.NaN)]);
  const matrix = byToken(store, [2, 1], values, new Int32Array([0, 1, 1, -1, -1, -1]));
  assert.deepEqual(matrix.colLabels, ["0:0", "0:1", "1:0"]);
  assert.equal(matrix.name(0, 1), "a, position 0:1: 90 noise floors\na/y");
  assert.equal(matrix.name(1, 0), "b, position 0:0: – noise floors");
  matrix.pick(1, 0);
  assert.equal(store.selection.op, -1, "nothing is known there");
  matrix.pick(0, 2);
  assert.deepEqual(store.selection, { op: 1, step: 1 });
});

test("a cell of a pooled tensor names the elements that it stands for", () => {
  const reply = { shape: [4, 9], axes: [0, 1], window: [0, 4, 0, 9], rows: 2, cols: 3 };
  const answer = { ...reply, outputs: 1, note: "" } as Parameters<typeof ofTensor>[0];
  const values = new Float32Array([0, -2, 4, Number.NaN, 0, 0]);
  const zooms: number[][] = [];
  const matrix = ofTensor(answer, values, "source", (...range) => zooms.push(range));
  assert.equal(matrix.name(1, 2), "axes 0, 1 [2…3, 6…8]: 0");
  assert.deepEqual([...matrix.shade], [0.5, 0.25, 1, Infinity, 0.5, 0.5]);
  matrix.pick(0, 0);
  assert.deepEqual(zooms, [[0, 2, 0, 3]]);
});
