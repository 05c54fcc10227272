// Something stored in a session's place: it answers a page as a session's feed would, as far as it can.

import type { Commands } from "./messages";
import type { Snapshot, Status } from "./protocol";
import type { Model } from "./store";

export interface Answered {
  value: unknown;
  buffers: ArrayBuffer[];
}

export interface Stored {
  /** What it is, in a line. */
  readonly title: string;
  readonly views: readonly string[];
  snapshot(): { message: Omit<Snapshot, "seq">; buffers: ArrayBuffer[] };
  /** Raises an error, in words for people, where it has no answer. */
  answer(name: keyof Commands, args: Record<string, unknown>): Promise<Answered>;
}

/** The status of what no session stands behind. */
export const REST: Status = {
  state: "closed",
  address: "",
  restarts: 0,
  kernels: 0,
  compiled: 0,
  cache_hits: 0,
  sent: 0,
  busy: false,
  waiting: false,
  run: "",
  phase: "",
  done: 0,
  total: 0,
  current: -1,
  step: 0,
  elapsed: 0,
  left: null,
  stopped: false,
  outputs: "",
  right: null,
  message: "",
};

type Call = (message: unknown, buffers: DataView[]) => void;

interface Asked {
  kind: "ready" | "command";
  id: number;
  name: keyof Commands;
  args: Record<string, unknown>;
}

let number = 0;

export class StoredModel implements Model {
  private readonly state: Record<string, unknown>;
  private readonly calls = new Set<Call>();
  private seq = 0;

  constructor(private readonly stored: Stored) {
    this.state = { _views: stored.views, _key: `tapml-stored-${number++}`, height: 0 };
  }

  get(name: string): unknown {
    return this.state[name];
  }

  on(name: string, call: (...args: never[]) => void): void {
    if (name === "msg:custom") this.calls.add(call as unknown as Call);
  }

  off(): void {
    this.calls.clear();
  }

  send(content: unknown): void {
    const asked = content as Asked;
    // Whoever asks goes on first, as with a kernel.
    queueMicrotask(() => void this.answer(asked));
  }

  private async answer({ kind, id, name, args }: Asked): Promise<void> {
    if (kind === "ready") {
      const { message, buffers } = this.stored.snapshot();
      return this.say({ ...message, seq: this.seq++ }, buffers);
    }
    try {
      const { value, buffers } = await this.stored.answer(name, args);
      this.say({ kind: "reply", id, ok: true, value }, buffers);
    } catch (error) {
      this.say({ kind: "reply", id, ok: false, error: (error as Error).message }, []);
    }
  }

  private say(message: unknown, buffers: ArrayBuffer[]): void {
    const views = buffers.map((buffer) => new DataView(buffer));
    for (const call of this.calls) call(message, views);
  }
}
