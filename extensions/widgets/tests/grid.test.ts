import assert from "node:assert/strict";
import { test } from "node:test";
import { type Box, Grid } from "../src/grid";

const touch = (a: Box, b: Box) =>
  a.x <= b.x + b.w && b.x <= a.x + a.w && a.y <= b.y + b.h && b.y <= a.y + a.h;

test("nothing that touches a rectangle is missed, wherever it lies", () => {
  let seed = 1;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  const box = (size: number) => ({
    x: random() * 6000 - 500, // some lie outside
    y: random() * 6000 - 500,
    w: random() * size,
    h: random() * size,
  });
  const boxes = Array.from({ length: 300 }, () => box(900));
  const grid = new Grid<Box>(5000, 5000);
  for (const one of boxes) grid.add(one, one);
  for (let k = 0; k < 100; k++) {
    const view = box(1500);
    const near = grid.near(view);
    for (const one of boxes) if (touch(one, view)) assert.ok(near.has(one));
  }
});

test("what is far away is not near", () => {
  const grid = new Grid<string>(10_000, 10_000);
  grid.add("here", { x: 0, y: 0, w: 10, h: 10 });
  grid.add("there", { x: 9000, y: 9000, w: 10, h: 10 });
  assert.deepEqual([...grid.near({ x: 5, y: 5, w: 1, h: 1 })], ["here"]);
});

test("a huge plane has no more cells than it may", () => {
  const grid = new Grid<string>(1e7, 1e7);
  grid.add("one", { x: 0, y: 0, w: 1e7, h: 1e7 });
  assert.deepEqual([...grid.near({ x: 5e6, y: 5e6, w: 0, h: 0 })], ["one"]);
});
