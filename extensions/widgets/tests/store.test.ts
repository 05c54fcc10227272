import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { PATIENCE } from "../src/messages";
import { EMPTY, FAIL, fakeBrowser, Kernel, PASS, paint, record, settle } from "./kernel";

const OPS = { ops: ["a/x", "a/y", "b/z"] };
const NINE = (ratio: number) => [ratio, 1, 0, 0, 0, 0, 40, 1, 1];

beforeEach(fakeBrowser);

function ready(more = {}, graph = {}): Kernel {
  const kernel = new Kernel();
  kernel.snapshot({ ...OPS, ...graph }, more);
  return kernel;
}

test("it asks for a snapshot until one comes", () => {
  const kernel = new Kernel();
  const asked = () => kernel.sent.filter((message) => message.kind === "ready").length;
  assert.equal(asked(), 1);
  mock.timers.tick(3000);
  assert.equal(asked(), 2);
  mock.timers.tick(5999);
  assert.equal(asked(), 2);
  kernel.snapshot(OPS);
  mock.timers.tick(100_000);
  assert.equal(asked(), 2);
  assert.deepEqual(kernel.store.ops, OPS.ops);
});

test("a gap in the deltas asks for a snapshot, and nothing counts until it comes", () => {
  const kernel = ready();
  kernel.delta({}, record(0, 0, FAIL, NINE(9)));
  assert.equal(kernel.store.info(0).name, "FAIL");
  kernel.lose();
  kernel.delta({}, record(1, 0, FAIL, NINE(9)));
  assert.equal(kernel.store.info(1).name, "UNKNOWN");
  assert.equal(kernel.store.ready, false);
  assert.equal(kernel.sent.filter((message) => message.kind === "ready").length, 2);
  kernel.snapshot(OPS);
  assert.equal(kernel.store.ready, true);
});

test("listeners of a topic are called once a frame", () => {
  const kernel = ready();
  paint();
  let calls = 0;
  const end = kernel.store.on("results", () => calls++);
  for (let op = 0; op < 3; op++) kernel.delta({}, record(op, 0, PASS, NINE(1)));
  assert.equal(calls, 0);
  paint();
  assert.equal(calls, 1);
  end();
  kernel.delta({}, record(0, 0, PASS, NINE(1)));
  paint();
  assert.equal(calls, 1);
});

test("an operator's worst verdict is taken back with its results", () => {
  const kernel = ready({}, { steps: 2 });
  const { store } = kernel;
  kernel.delta({}, record(0, 0, PASS, NINE(1)));
  kernel.delta({}, record(0, 1, FAIL, NINE(20)));
  assert.equal(store.info(0).name, "FAIL");
  assert.equal(store.worstStep(0), 1);
  assert.equal(store.metric("ratio", 0), 20);
  assert.deepEqual([...store.tree.byPath.get("a")!.verdicts], [0, 1, 1, 0]);
  kernel.delta({ cleared: [[0, 1]] });
  // UNKNOWN is worse than PASS
  assert.equal(store.info(0).name, "UNKNOWN");
  assert.ok(Number.isNaN(store.metrics.ratio[3]));
});

test("the least signal to noise is the worst", () => {
  const kernel = ready({}, { steps: 2 });
  kernel.delta({}, record(0, 0, PASS, [1, 1, 0, 0, 0, 0, 60, 1, 1]));
  kernel.delta({}, record(0, 1, PASS, [1, 1, 0, 0, 0, 0, 30, 1, 1]));
  assert.equal(kernel.store.metric("snr_db", 0), 30);
});

test("what is worst of a set is the most severe, then the farthest off", () => {
  const kernel = ready();
  kernel.delta({}, record(0, 0, PASS, NINE(5)));
  kernel.delta({}, record(1, 0, FAIL, NINE(9)));
  kernel.delta({}, record(2, 0, FAIL, NINE(90)));
  assert.equal(kernel.store.worstOf([0, 1, 2]), 2);
  assert.equal(kernel.store.worstOf([0, 1]), 1);
});

test("placement shows at once and is taken back when it fails", async () => {
  const kernel = ready({}, { host: [2] });
  const { store } = kernel;
  store.toggle([0, 1, 2]);
  assert.deepEqual([...store.placement], [1, 1, 0]);
  assert.deepEqual(kernel.asked("offload")[0]!.args, { ops: [0, 1] });
  kernel.reply("offload", { ok: false, error: "no compiler" });
  await settle();
  assert.deepEqual([...store.placement], [0, 0, 0]);
  assert.equal(store.status.message, "no compiler");
  assert.equal(store.tree.root.onTarget, 0);
});

test("its own selection does not come back to it, another page's does", () => {
  const kernel = ready();
  kernel.store.select(1);
  const { origin } = kernel.asked("select")[0]!.args;
  kernel.store.select(2);
  kernel.delta({ selection: { op: 1, step: 0, origin } });
  assert.equal(kernel.store.selection.op, 2);
  kernel.delta({ selection: { op: 0, step: 0, origin: "another" } });
  assert.equal(kernel.store.selection.op, 0);
});

test("what is remembered is told once, after a pause", () => {
  const kernel = ready({ ui: { table: 1 } });
  assert.equal(kernel.store.recall("table", 0), 1);
  kernel.store.remember("table", 2);
  kernel.store.remember("table", 3);
  assert.equal(kernel.store.recall("table", 0), 3);
  mock.timers.tick(300);
  assert.deepEqual(
    kernel.asked("remember").map((message) => message.args),
    [{ key: "table", value: 3 }],
  );
});

test("a reply answers the question with its number", async () => {
  const kernel = ready();
  const first = kernel.store.ask("template", { op: 0 });
  const second = kernel.store.ask("template", { op: 1 });
  kernel.reply("template", { value: "the second" });
  assert.equal((await second).value, "the second");
  kernel.say({ kind: "reply", id: kernel.asked("template")[0]!.id, ok: false, error: "no" });
  await assert.rejects(first, { message: "no" });
});

test("a question is asked again, an action is not", () => {
  const kernel = ready();
  kernel.store.ask("template", { op: 0 });
  kernel.store.tell("run", {});
  mock.timers.tick(3000);
  assert.equal(kernel.asked("template").length, 2);
  assert.equal(kernel.asked("template")[0]!.id, kernel.asked("template")[1]!.id);
  mock.timers.tick(6000);
  assert.equal(kernel.asked("template").length, 3);
  assert.equal(kernel.asked("run").length, 1);
});

test("asking ends with an error when nothing is heard", async () => {
  const kernel = ready();
  const answer = kernel.store.ask("inspect", { op: 0, step: 0 });
  const failed = assert.rejects(answer, {
    message: "inspect: no word from the notebook's kernel for 60 s; it is busy, or gone",
  });
  mock.timers.tick(1000 * PATIENCE.inspect);
  await failed;
  const asked = kernel.asked("inspect").length;
  mock.timers.tick(1_000_000);
  assert.equal(kernel.asked("inspect").length, asked, "it is not asked again");
  kernel.reply("inspect", { value: null }); // too late, and no harm
});

test("asking goes on while anything is heard", async () => {
  const kernel = ready();
  const answer = kernel.store.ask("inspect", { op: 0, step: 0 });
  for (let k = 0; k < 5; k++) {
    mock.timers.tick(1000 * (PATIENCE.inspect - 1));
    kernel.delta({ status: { done: k } }, EMPTY);
  }
  kernel.reply("inspect", { value: { kind: "aten.silu" } });
  assert.equal((await answer).value.kind, "aten.silu");
});

test("an action that nobody answers is told in the status line", async () => {
  const kernel = ready();
  kernel.store.tell("run", {});
  mock.timers.tick(1000 * PATIENCE.run);
  await settle();
  assert.match(kernel.store.status.message, /^run: no word from .* for 60 s/);
});

test("Stop interrupts a kernel whose cell waits and that does not hear", async () => {
  const kernel = ready();
  kernel.store.stop();
  mock.timers.tick(700);
  assert.equal(kernel.interrupted, 0, "no cell waits");
  kernel.delta({ status: { waiting: true } });
  kernel.store.stop();
  kernel.reply("stop", { value: null });
  await settle();
  mock.timers.tick(700);
  assert.equal(kernel.interrupted, 0, "it has heard");
  kernel.store.stop();
  mock.timers.tick(700);
  assert.equal(kernel.interrupted, 1);
});

test("where nobody has chosen, what the session chose is revealed", () => {
  const kernel = ready();
  let revealed = 0;
  kernel.store.on("reveal", () => revealed++);
  kernel.delta({ selection: { op: 1, step: 0, origin: "another page" } });
  paint();
  assert.equal(revealed, 0);
  kernel.delta({ selection: { op: 2, step: 0, origin: "" } });
  paint();
  assert.equal(revealed, 1);
  assert.equal(kernel.store.selection.op, 2);
});
