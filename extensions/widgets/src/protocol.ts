// What travels between Python and the page; `tapml_nb/report/protocol.py` is the other end.

export interface VerdictInfo {
  name: string;
  colour: string;
  symbol: string;
  /** 0 is the worst. */
  severity: number;
  fault: boolean;
  /** Whether it makes an operator a culprit. */
  broken: boolean;
  /** Whether an operator has no kernel on the target. */
  missing: boolean;
}

/** Operators that are broken, or missing, in the same way. */
export interface Cause {
  verdict: number;
  /** The operator to begin with, and how far it is off. */
  worst: number;
  ratio: number | string | null;
  count: number;
  /** In graph order; the first of very many. */
  ops: number[];
}

export interface Findings {
  /** What is broken, what is missing and what was not judged, in Python's words. */
  outcome: string;
  /** The worst first. */
  causes: Cause[];
  missing: Cause[];
}

export interface Status {
  state: "idle" | "connected" | "lost" | "closed";
  address: string;
  restarts: number;
  kernels: number;
  compiled: number;
  cache_hits: number;
  sent: number;
  busy: boolean;
  /** Whether a cell of the notebook waits for the run, so that interrupting it stops the run. */
  waiting: boolean;
  run: string;
  phase: string;
  done: number;
  total: number;
  current: number;
  step: number;
  /** Seconds since the run began, when this was sent. */
  elapsed: number;
  /** Seconds until it ends, from then on; null where no estimate would hold. */
  left: number | null;
  stopped: boolean;
  /** What is known of the model's outputs, in Python's words; empty where it has none. */
  outputs: string;
  /** Whether they are right; null if that is not known. */
  right: boolean | null;
  message: string;
}

export interface Selection {
  op: number;
  step: number;
  /**
   * The store that chose it, which must not be moved back by its own echo; empty where nobody chose,
   * and the session shows where to look first.
   */
  origin?: string;
}

export interface Snapshot {
  kind: "snapshot";
  seq: number;
  session: string;
  name: string;
  target: string;
  limit: number;
  steps: number;
  ops: string[];
  kinds: string[];
  scopes: string[];
  layers: string[];
  verdicts: VerdictInfo[];
  commands: string[];
  /** Which tensors of an operator there are, where it is not all. */
  tensors?: string[];
  overrides: Record<string, string>;
  findings: Findings;
  status: Status;
  selection: Selection;
  /** What views asked to be remembered: expanded scopes, filters, modes. */
  ui: Record<string, unknown>;
}

export interface Delta {
  kind: "delta";
  seq: number;
  status?: Partial<Status>;
  selection?: Selection;
  overrides?: Record<string, string>;
  findings?: Findings;
  /** Calls whose results no longer hold, as `[operator, step]`. */
  cleared?: [number, number][];
  /** Whether a whole new placement is the third buffer. */
  placement?: boolean;
}

export interface Reply {
  kind: "reply";
  id: number;
  ok: boolean;
  error?: string;
  value?: unknown;
}

export type Message = Snapshot | Delta | Reply;

/** Where a snapshot's binary parts are. */
export const SNAPSHOT = {
  kind: 0,
  scope: 1,
  layer: 2,
  host: 3,
  edges: 4,
  placement: 5,
  introduced: 6,
  accumulated: 7,
};

const INTRODUCED_BYTES = 44;
const ACCUMULATED_BYTES = 24;

/** Metrics of an introduced record, in order, from byte 8. */
export const INTRODUCED = [
  "ratio",
  "floor",
  "max_abs",
  "max_rel",
  "max_ulp",
  "rmse",
  "snr_db",
  "target_ms",
  "source_ms",
] as const;
/** Metrics of an accumulated record, in order, from byte 8. */
export const ACCUMULATED = ["acc_ratio", "acc_max_abs", "acc_snr_db", "gain"] as const;

export type Metric = (typeof INTRODUCED)[number] | (typeof ACCUMULATED)[number];

export interface Sink {
  introduced(op: number, step: number, verdict: number, read: (metric: number) => number): void;
  accumulated(op: number, step: number, verdict: number, read: (metric: number) => number): void;
}

export function decode(view: DataView, accumulated: boolean, sink: Sink): number {
  const size = accumulated ? ACCUMULATED_BYTES : INTRODUCED_BYTES;
  const accept = (accumulated ? sink.accumulated : sink.introduced).bind(sink);
  const count = Math.floor(view.byteLength / size);
  for (let k = 0; k < count; k++) {
    const base = k * size;
    accept(
      view.getUint32(base, true),
      view.getUint16(base + 4, true),
      view.getUint8(base + 6),
      (m) => view.getFloat32(base + 8 + 4 * m, true),
    );
  }
  return count;
}

/** A copy of a buffer: a view of a message may not be aligned. */
function copied(view: DataView): ArrayBuffer {
  return view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength) as ArrayBuffer;
}

export const words = (view: DataView) => new Uint32Array(copied(view));
export const octets = (view: DataView) => new Uint8Array(copied(view));
export const numbers = (view: DataView) => new Int32Array(copied(view));
export const floats = (view: DataView) => new Float32Array(copied(view));
