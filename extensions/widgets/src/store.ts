// One store per widget model: what Python has sent, shared by all its views, repainted once a frame.

import { type Commands, PATIENCE, QUESTIONS } from "./messages";
import { type Overlay, overlayOf } from "./plot/overlay";
import {
  ACCUMULATED,
  type Delta,
  decode,
  type Findings,
  INTRODUCED,
  type Message,
  type Metric,
  octets,
  type Reply,
  type Selection,
  SNAPSHOT,
  type Snapshot,
  type Status,
  type VerdictInfo,
  words,
} from "./protocol";
import { ScopeTree } from "./scopes";

export interface Model {
  get(name: string): unknown;
  send(content: unknown, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
  on(name: string, call: (...args: never[]) => void): void;
  off(name?: string | null, call?: ((...args: never[]) => void) | null): void;
  widget_manager?: { kernel?: { interrupt?: () => Promise<void> } };
}

export type Topic =
  | "graph"
  | "results"
  | "placement"
  | "selection"
  | "status"
  | "overrides"
  | "reveal"
  | "inspect"
  | "findings";

type Name = keyof Commands;

export interface Answer<N extends Name> {
  value: Commands[N]["answer"];
  buffers: DataView[];
}

interface Question {
  resolve: (answer: Answer<Name>) => void;
  reject: (error: Error) => void;
}

export class CommandError extends Error {}

const COMPILING = "Compiling what has no kernel yet …";
const REMINDER = 3000; // ms before a question is asked again, twice as many each time
const STOP_PATIENCE = 700; // ms before a Stop that the kernel cannot hear interrupts it

export class Store {
  ready = false;
  session = "";
  name = "";
  target = "";
  limit = 8;
  steps = 1;
  ops: string[] = [];
  kinds: string[] = [];
  layers: string[] = [];
  kindOf = new Uint32Array();
  layerOf = new Uint32Array();
  host = new Uint8Array();
  /** Pairs of producer and consumer. */
  edges = new Uint32Array();
  verdicts: VerdictInfo[] = [];
  unknown = 0;
  commands = new Set<string>();
  /** Which tensors of an operator can be asked for. */
  tensors = ["difference", "target", "source", "float64"];
  overrides: Record<string, string> = {};
  findings: Findings = { outcome: "", causes: [], missing: [] };
  tree = new ScopeTree([], new Uint32Array(), 0, 0);
  placement = new Uint8Array();
  /** Verdict codes and metrics by `step * ops.length + op`. */
  verdict = new Uint8Array();
  metrics = {} as Record<Metric, Float32Array>;
  /** Each operator's worst verdict over its steps. */
  worst = new Uint8Array();
  status = { state: "idle" } as Status;
  selection: Selection = { op: -1, step: 0 };
  /** Results received so far. */
  received = 0;
  /** When `status` last came, to go on counting between two messages. */
  statusAt = 0;

  readonly against: Overlay | null;

  private ui: Record<string, unknown> = {};
  private memos = new Map<string, ReturnType<typeof setTimeout>>();
  private listeners = new Map<Topic, Set<() => void>>();
  private dirty = new Set<Topic>();
  private frame = 0;
  private seq = -1;
  private reminder: ReturnType<typeof setTimeout> | undefined;
  /** Selections of this page's that Python does not know yet. */
  private selecting = 0;
  private waiting = new Map<number, Question>();
  /** Messages from Python so far. */
  private heard = 0;
  private readonly origin = Math.random().toString(36).slice(2);
  private nextId = Math.floor(Math.random() * 2 ** 40);

  constructor(private model: Model) {
    this.against = overlayOf(model.get("_against"));
    model.on("msg:custom", (message: Message, buffers: DataView[]) =>
      this.receive(message, buffers),
    );
    this.announce();
  }

  /** Ask for a snapshot until one comes; what Python sends before somebody listens is lost. */
  private announce(patience = REMINDER): void {
    this.model.send({ kind: "ready" });
    clearTimeout(this.reminder);
    this.reminder = setTimeout(() => !this.ready && this.announce(2 * patience), patience);
  }

  on(topic: Topic, call: () => void): () => void {
    let calls = this.listeners.get(topic);
    if (!calls) this.listeners.set(topic, (calls = new Set()));
    calls.add(call);
    return () => calls.delete(call);
  }

  /** Have the listeners of a topic called in the next frame, once. */
  touch(topic: Topic): void {
    this.dirty.add(topic);
    if (!this.frame) this.frame = requestAnimationFrame(() => this.paint());
  }

  /** Ask Python for something; rejects with what went wrong, in words. */
  ask<N extends Name>(name: N, args: Commands[N]["arguments"]): Promise<Answer<N>> {
    const id = this.nextId++;
    const message = { kind: "command", id, name, args };
    this.model.send(message);
    if (QUESTIONS.has(name)) this.remind(id, message, REMINDER);
    this.expire(id, name);
    return new Promise((resolve, reject) =>
      this.waiting.set(id, { resolve: resolve as (a: Answer<Name>) => void, reject }),
    );
  }

  /**
   * Ask again for what was not answered: a server in between may have dropped one. Python does
   * nothing twice at a time.
   */
  private remind(id: number, message: unknown, patience: number): void {
    setTimeout(() => {
      if (!this.waiting.has(id)) return;
      this.model.send(message);
      this.remind(id, message, 2 * patience);
    }, patience);
  }

  /** Give up once nothing at all was heard for too long; a run makes itself heard. */
  private expire(id: number, name: Name): void {
    const { heard } = this;
    setTimeout(() => {
      if (this.heard !== heard && this.waiting.has(id)) return this.expire(id, name);
      this.waiting
        .get(id)
        ?.reject(
          new CommandError(
            `${name}: no word from the notebook's kernel for ${PATIENCE[name]} s; it is busy, or gone`,
          ),
        );
      this.waiting.delete(id);
    }, 1000 * PATIENCE[name]);
  }

  /** Ask for something whose failure is shown in the status line. */
  tell<N extends Name>(name: N, args: Commands[N]["arguments"]): void {
    this.ask(name, args).catch((error: Error) => this.complain(error.message));
  }

  complain(message: string): void {
    this.status.message = message;
    this.touch("status");
  }

  /** Stop the run, even when a cell that waits for it keeps the kernel from hearing us. */
  stop(): void {
    const interrupt = setTimeout(() => {
      if (this.status.waiting) void this.model.widget_manager?.kernel?.interrupt?.();
    }, STOP_PATIENCE);
    this.ask("stop", {}).then(
      () => clearTimeout(interrupt),
      (error: Error) => this.complain(error.message),
    );
  }

  select(op: number, step = this.selection.step): void {
    if (op === this.selection.op && step === this.selection.step) return;
    this.selection = { op, step };
    this.touch("selection");
    this.selecting++;
    this.ask("select", { op, step, origin: this.origin })
      .catch((error: Error) => this.complain(error.message))
      .finally(() => this.selecting--);
  }

  /** Select an operator and have the graph open the scopes around it. */
  reveal(op: number, step?: number): void {
    this.select(op, step);
    this.touch("reveal");
  }

  /** The operator of a set that should be seen first. */
  worstOf(ops: readonly number[]): number {
    const ratios = this.metrics.ratio;
    let best = ops[0] ?? -1;
    for (const op of ops) {
      const more = this.info(op).severity - this.info(best).severity;
      if (more < 0 || (more === 0 && (ratios[op]! > ratios[best]! || Number.isNaN(ratios[best]!))))
        best = op;
    }
    return best;
  }

  /** Move operators; shown at once, confirmed by Python. */
  place(ops: readonly number[], target: boolean): void {
    if (!this.commands.has("offload")) return;
    const moved = ops.filter((op) => !this.host[op] && (this.placement[op] === 1) !== target);
    if (!moved.length) return;
    for (const op of moved) this.setPlacement(op, target ? 1 : 0);
    this.touch("placement");
    const slow = setTimeout(() => this.complain(COMPILING), 400);
    this.ask(target ? "offload" : "restore", { ops: moved })
      .catch((error: Error) => {
        for (const op of moved) this.setPlacement(op, target ? 0 : 1);
        this.touch("placement");
        this.complain(error.message);
      })
      .finally(() => {
        clearTimeout(slow);
        if (this.status.message === COMPILING) this.complain("");
      });
  }

  toggle(ops: readonly number[]): void {
    const movable = ops.filter((op) => !this.host[op]);
    this.place(
      movable,
      movable.some((op) => this.placement[op] === 0),
    );
  }

  /** The step in which an operator is worst. */
  worstStep(op: number): number {
    const n = this.ops.length;
    for (let step = 0; step < this.steps; step++) {
      if (this.verdict[step * n + op] === this.worst[op]) return step;
    }
    return 0;
  }

  /** A metric of an operator: the worst over its steps. */
  metric(name: Metric, op: number): number {
    const values = this.metrics[name];
    const n = this.ops.length;
    let worst = NaN;
    for (let i = op; i < values.length; i += n) {
      const value = values[i]!;
      const more = name.endsWith("snr_db") ? value < worst : value > worst;
      if (more || Number.isNaN(worst)) worst = value;
    }
    return worst;
  }

  info(op: number): VerdictInfo {
    return this.verdicts[this.worst[op]!]!;
  }

  /** What a view kept with `remember`, in this page or before it was reloaded. */
  recall<T>(key: string, otherwise: T): T {
    return key in this.ui ? (this.ui[key] as T) : otherwise;
  }

  remember(key: string, value: unknown): void {
    this.ui[key] = value;
    clearTimeout(this.memos.get(key));
    const tell = () => {
      this.memos.delete(key);
      this.tell("remember", { key, value });
    };
    this.memos.set(key, setTimeout(tell, 300));
  }

  private receive(message: Message, buffers: DataView[]): void {
    this.heard++;
    if (message.kind === "reply") {
      this.answer(message, buffers);
    } else if (message.kind === "snapshot") {
      this.load(message, buffers);
    } else if (this.ready && message.seq === this.seq + 1) {
      this.seq = message.seq;
      this.update(message, buffers);
    } else if (this.ready && message.seq > this.seq) {
      this.ready = false; // something was lost: begin anew
      this.announce();
    }
  }

  private answer(reply: Reply, buffers: DataView[]): void {
    const asked = this.waiting.get(reply.id);
    this.waiting.delete(reply.id);
    if (reply.ok) asked?.resolve({ value: reply.value as Commands[Name]["answer"], buffers });
    else asked?.reject(new CommandError(reply.error));
  }

  private load(message: Snapshot, buffers: DataView[]): void {
    const at = (part: keyof typeof SNAPSHOT) => buffers[SNAPSHOT[part]]!;
    const { kind: _, commands, scopes, status, selection, ui, ...told } = message;
    Object.assign(this, told);
    const { ops, steps, verdicts } = told;
    this.commands = new Set(commands);
    this.kindOf = words(at("kind"));
    this.layerOf = words(at("layer"));
    this.host = octets(at("host"));
    this.edges = words(at("edges"));
    this.unknown = verdicts.findIndex((v) => v.name === "UNKNOWN");
    this.tree = new ScopeTree(scopes, words(at("scope")), verdicts.length, this.unknown);
    this.placement = new Uint8Array(ops.length);
    this.setPlacements(octets(at("placement")));
    const calls = ops.length * steps;
    this.verdict = new Uint8Array(calls).fill(this.unknown);
    this.worst = new Uint8Array(ops.length).fill(this.unknown);
    for (const metric of [...INTRODUCED, ...ACCUMULATED]) {
      this.metrics[metric] = new Float32Array(calls).fill(NaN);
    }
    this.received = decode(at("introduced"), false, this);
    decode(at("accumulated"), true, this);
    // A later snapshot does not take back what was done here since Python made it.
    if (!this.selecting) this.selection = selection;
    const untold = [...this.memos.keys()].map((key) => [key, this.ui[key]] as const);
    this.ui = { ...ui, ...Object.fromEntries(untold) };
    this.setStatus(status);
    this.ready = true;
    for (const topic of [
      "graph",
      "results",
      "placement",
      "selection",
      "status",
      "overrides",
      "findings",
    ] as const) {
      this.touch(topic);
    }
  }

  private update(message: Delta, buffers: DataView[]): void {
    for (const [op, step] of message.cleared ?? []) {
      for (const metric of INTRODUCED) this.metrics[metric][step * this.ops.length + op] = NaN;
      this.setVerdict(op, step, this.unknown);
      this.touch("results");
    }
    const judged = decode(buffers[0]!, false, this);
    this.received += judged;
    if (judged + decode(buffers[1]!, true, this)) this.touch("results");
    if (message.placement) {
      this.setPlacements(octets(buffers[2]!));
      this.touch("placement");
    }
    if (message.overrides) {
      this.overrides = message.overrides;
      this.touch("overrides");
    }
    if (message.findings) {
      this.findings = message.findings;
      this.touch("findings");
    }
    if (message.selection && message.selection.origin !== this.origin) {
      this.selection = message.selection;
      this.touch("selection");
      if (message.selection.origin === "") this.touch("reveal");
    }
    if (message.status) {
      this.setStatus(message.status);
      this.touch("status");
    }
  }

  introduced(op: number, step: number, verdict: number, read: (metric: number) => number): void {
    const at = step * this.ops.length + op;
    INTRODUCED.forEach((metric, k) => (this.metrics[metric][at] = read(k)));
    this.setVerdict(op, step, verdict);
  }

  accumulated(op: number, step: number, _verdict: number, read: (metric: number) => number): void {
    const at = step * this.ops.length + op;
    ACCUMULATED.forEach((metric, k) => (this.metrics[metric][at] = read(k)));
  }

  private setStatus(status: Partial<Status>): void {
    this.status = { ...this.status, ...status };
    this.statusAt = performance.now();
  }

  private setVerdict(op: number, step: number, verdict: number): void {
    const n = this.ops.length;
    this.verdict[step * n + op] = verdict;
    let worst = verdict;
    for (let i = op; i < this.verdict.length; i += n) {
      if (this.verdicts[this.verdict[i]!]!.severity < this.verdicts[worst]!.severity) {
        worst = this.verdict[i]!;
      }
    }
    if (worst !== this.worst[op]) {
      this.tree.countVerdict(op, this.worst[op]!, worst);
      this.worst[op] = worst;
    }
  }

  private setPlacement(op: number, where: number): void {
    if (this.placement[op] === where) return;
    this.placement[op] = where;
    this.tree.countPlacement(op, where ? 1 : -1);
  }

  private setPlacements(placement: Uint8Array): void {
    placement.forEach((where, op) => this.setPlacement(op, where));
  }

  private paint(): void {
    this.frame = 0;
    const topics = [...this.dirty];
    this.dirty.clear();
    for (const topic of topics) for (const call of this.listeners.get(topic) ?? []) call();
    // For benchmarks and tests: the page now shows this many results.
    if (topics.includes("results")) {
      window.dispatchEvent(
        new CustomEvent("tapml-painted", { detail: { received: this.received } }),
      );
    }
  }
}
