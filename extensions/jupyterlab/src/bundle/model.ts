// Something stored as the model of a workbench: it answers as a session's feed does.

import type { Commands } from "../../../widgets/src/messages";
import type { Model } from "../../../widgets/src/store";
import type { Stored } from "./stored";

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
