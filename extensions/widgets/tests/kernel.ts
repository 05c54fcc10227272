// A notebook's kernel that tests play, and frames that they paint: no browser.

import { mock } from "node:test";
import type { Cause, Snapshot } from "../src/protocol";
import { type Model, Store } from "../src/store";

const VERDICTS = [
  { name: "PASS", colour: "#0a0", symbol: "✓", severity: 2 },
  { name: "FAIL", colour: "#a00", symbol: "✗", severity: 0, fault: true, broken: true },
  { name: "UNKNOWN", colour: "#888", symbol: "?", severity: 1 },
  { name: "SKIPPED", colour: "#ccc", symbol: "-", severity: 3 },
].map((info) => ({ fault: false, broken: false, missing: false, ...info }));

export const PASS = 0;
export const FAIL = 1;
export const SKIPPED = 3;

export interface Sent {
  kind: string;
  id: number;
  name: string;
  args: Record<string, unknown>;
}

const words = (values: number[]): DataView => new DataView(new Uint32Array(values).buffer);
const octets = (values: number[]): DataView => new DataView(new Uint8Array(values).buffer);

/** A record of an operator's result: nine metrics for an introduced one, four for an accumulated. */
export function record(op: number, step: number, verdict: number, metrics: number[]): DataView {
  const view = new DataView(new ArrayBuffer(8 + 4 * metrics.length));
  view.setUint32(0, op, true);
  view.setUint16(4, step, true);
  view.setUint8(6, verdict);
  metrics.forEach((metric, k) => view.setFloat32(8 + 4 * k, metric, true));
  return view;
}

export const EMPTY: DataView = new DataView(new ArrayBuffer(0));

/** Operators by id in their scopes, and pairs of producer and consumer. */
export interface Graph {
  ops: string[];
  /** Of each operator; by custom all are of one. */
  kinds?: string[];
  edges?: [number, number][];
  steps?: number;
  host?: number[];
}

export class Kernel {
  readonly sent: Sent[] = [];
  interrupted = 0;
  readonly store: Store;
  private seq = 0;
  private hear: (message: unknown, buffers: DataView[]) => void = () => {};

  constructor() {
    const model: Model = {
      get: () => undefined,
      send: (message) => this.sent.push(message as Sent),
      on: (_, call) => {
        this.hear = call as typeof this.hear;
      },
      off: () => {},
      widget_manager: { kernel: { interrupt: async () => void this.interrupted++ } },
    };
    this.store = new Store(model);
  }

  say(message: object, buffers: DataView[] = []): void {
    this.hear(message, buffers);
  }

  snapshot(
    { ops, kinds = ops.map(() => "aten.op"), edges = [], steps = 1, host = [] }: Graph,
    more: Partial<Snapshot> = {},
  ): void {
    const scope = (op: string) => op.slice(0, Math.max(0, op.lastIndexOf("/")));
    const scopes = [...new Set(ops.map(scope))];
    const known = [...new Set(kinds)];
    const at = words(ops.map((op) => scopes.indexOf(scope(op))));
    const nothing = { state: "connected", busy: false, message: "", waiting: false };
    this.say(
      {
        kind: "snapshot",
        seq: ++this.seq,
        session: "s",
        name: "Model",
        target: "llvm",
        limit: 8,
        steps,
        ops,
        kinds: known,
        scopes,
        layers: scopes,
        verdicts: VERDICTS,
        commands: ["offload", "restore"],
        overrides: {},
        findings: { outcome: "", causes: [] as Cause[], missing: [] as Cause[] },
        status: nothing,
        selection: { op: -1, step: 0 },
        ui: {},
        ...more,
      },
      [
        words(kinds.map((kind) => known.indexOf(kind))),
        at,
        at,
        octets(ops.map((_, k) => Number(host.includes(k)))),
        words(edges.flat()),
        octets(ops.map(() => 0)),
        EMPTY,
        EMPTY,
      ],
    );
  }

  delta(parts: object, introduced = EMPTY, accumulated = EMPTY, ...others: DataView[]): void {
    this.say({ kind: "delta", seq: ++this.seq, ...parts }, [introduced, accumulated, ...others]);
  }

  /** Lose a delta on the way. */
  lose(): void {
    this.seq++;
  }

  asked(name: string): Sent[] {
    return this.sent.filter((message) => message.name === name);
  }

  reply(name: string, answer: object, buffers: DataView[] = []): void {
    this.say({ kind: "reply", id: this.asked(name).at(-1)!.id, ok: true, ...answer }, buffers);
  }
}

let frames: (() => void)[] = [];

/** Paint what waits for the next frame. */
export function paint(): void {
  const now = frames;
  frames = [];
  for (const frame of now) frame();
}

/** Time that tests let pass, and frames that they paint. */
export function fakeBrowser(): void {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
  frames = [];
  Object.assign(globalThis, {
    requestAnimationFrame: (call: () => void) => frames.push(call),
    window: new EventTarget(),
  });
}

/** Let what awaits an answer go on. */
export const settle = () => new Promise((done) => setImmediate(done));
