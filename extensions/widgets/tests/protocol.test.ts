import assert from "node:assert/strict";
import { test } from "node:test";
import { ACCUMULATED, decode, floats, INTRODUCED, numbers, octets, words } from "../src/protocol";
import { record } from "./kernel";

/** The same bytes at an odd place, as in a message. */
function unaligned(view: DataView): DataView {
  const bytes = new Uint8Array(view.byteLength + 3);
  bytes.set(new Uint8Array(view.buffer, view.byteOffset, view.byteLength), 3);
  return new DataView(bytes.buffer, 3, view.byteLength);
}

function decoded(view: DataView, accumulated: boolean) {
  const found: { kind: string; at: number[]; metrics: number[] }[] = [];
  const take =
    (kind: string, count: number) =>
    (op: number, step: number, verdict: number, read: (metric: number) => number) => {
      const metrics = [...Array(count).keys()].map(read);
      found.push({ kind, at: [op, step, verdict], metrics });
    };
  const sink = {
    introduced: take("introduced", INTRODUCED.length),
    accumulated: take("accumulated", ACCUMULATED.length),
  };
  assert.equal(decode(view, accumulated, sink), found.length);
  return found;
}

test("records come out as they went in", () => {
  const metrics = [1, 2, 3, 4, 5, 6, 7, 8, 9];
  assert.deepEqual(decoded(unaligned(record(70_000, 3, 2, metrics)), false), [
    { kind: "introduced", at: [70_000, 3, 2], metrics },
  ]);
  assert.deepEqual(decoded(unaligned(record(1, 65_535, 0, [1, 2, 3, 4])), true), [
    { kind: "accumulated", at: [1, 65_535, 0], metrics: [1, 2, 3, 4] },
  ]);
  assert.deepEqual(decoded(new DataView(new ArrayBuffer(0)), false), []);
});

test("what is not finite stays so", () => {
  const [found] = decoded(record(0, 0, 0, [Number.NaN, Infinity, -Infinity, 0]), true);
  assert.deepEqual(found!.metrics, [Number.NaN, Infinity, -Infinity, 0]);
});

test("buffers are read wherever they begin", () => {
  const view = (array: { buffer: ArrayBufferLike }) =>
    unaligned(new DataView(array.buffer as ArrayBuffer));
  assert.deepEqual([...words(view(new Uint32Array([1, 2 ** 32 - 1])))], [1, 2 ** 32 - 1]);
  assert.deepEqual([...numbers(view(new Int32Array([-1, 7])))], [-1, 7]);
  assert.deepEqual([...floats(view(new Float32Array([0.5, -2])))], [0.5, -2]);
  assert.deepEqual([...octets(view(new Uint8Array([0, 255])))], [0, 255]);
});
