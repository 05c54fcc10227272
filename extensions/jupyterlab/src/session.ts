// A session in a kernel as the model of a workbench.

import type { Model } from "../../widgets/src/store";
import type { FeedMessage, KernelLine } from "./line";

export const VIEWS = ["status", "graph", "inspector", "plot", "table", "heatmap"];

let number = 0;

export class SessionModel implements Model {
  readonly widget_manager = { kernel: { interrupt: () => this.line.interrupt() } };
  /** Whether the session has said anything. */
  heard = false;
  private readonly state: Record<string, unknown>;
  private readonly calls = new Set<(message: unknown, buffers: DataView[]) => void>();

  constructor(
    private readonly line: KernelLine,
    private readonly session: string,
    private readonly onFirst: () => void,
  ) {
    this.state = { _views: VIEWS, _key: `tapml-session-${number++}`, height: 0 };
    line.said.connect(this.receive, this);
  }

  get(name: string): unknown {
    return this.state[name];
  }

  send(content: unknown): void {
    this.line.say(this.session, content);
  }

  on(name: string, call: (...args: never[]) => void): void {
    if (name === "msg:custom") this.calls.add(call as (...args: unknown[]) => void);
  }

  off(): void {
    this.calls.clear();
  }

  dispose(): void {
    this.off();
    this.line.said.disconnect(this.receive, this);
  }

  private receive(_: KernelLine, { session, message, buffers }: FeedMessage): void {
    if (session !== this.session) return;
    for (const call of this.calls) call(message, buffers);
    if (this.heard) return;
    this.heard = true;
    this.onFirst();
  }
}
