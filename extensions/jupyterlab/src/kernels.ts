// Every running kernel of the server, and every session of tapml_nb's in them.

import type { ServiceManager } from "@jupyterlab/services";
import { Signal } from "@lumino/signaling";
import { KernelLine, type SessionFacts } from "./line";

/** What a tab shows, whichever session of the kernel it is by now. */
export interface Place {
  /** Of the notebook. */
  path: string;
  name: string;
  target: string;
}

export interface Listed {
  path: string;
  line: KernelLine;
  facts: SessionFacts;
}

interface Known {
  line: KernelLine;
  path: string;
}

export class Kernels {
  readonly changed = new Signal<this, void>(this);
  /** A notebook has another path. */
  readonly moved = new Signal<this, { from: string; to: string }>(this);
  private readonly known = new Map<string, Known>();

  constructor(
    private readonly services: ServiceManager.IManager,
    private pace: number,
  ) {
    services.sessions.runningChanged.connect(() => this.refresh());
    void services.sessions.ready.then(() => this.refresh());
    addEventListener("pagehide", () => this.dispose());
  }

  /** The newest first within a notebook. */
  get sessions(): Listed[] {
    const found = [...this.known.values()].flatMap(({ line, path }) =>
      line.sessions.map((facts) => ({ path, line, facts })),
    );
    return found.sort((a, b) => a.path.localeCompare(b.path) || b.facts.made - a.facts.made);
  }

  /** The session to show there: the newest of its kind. */
  at(place: Place): Listed | undefined {
    return this.sessions.find(
      ({ path, facts }) =>
        path === place.path && facts.name === place.name && facts.target === place.target,
    );
  }

  /** The session that a page calls by its id. */
  called(id: string, path: string): Listed | undefined {
    return this.sessions.find((listed) => listed.facts.id === id && listed.path === path);
  }

  line(path: string): KernelLine | undefined {
    return [...this.known.values()].find((known) => known.path === path)?.line;
  }

  setPace(pace: number): void {
    this.pace = pace;
    for (const { line } of this.known.values()) line.listen(pace);
  }

  /** Give up all lines; kernels have then nothing left of this page. */
  private dispose(): void {
    for (const { line } of this.known.values()) line.dispose();
    this.known.clear();
  }

  private refresh(): void {
    const running = new Map<string, string>();
    for (const { kernel, path } of this.services.sessions.running()) {
      if (kernel) running.set(kernel.id, path);
    }
    for (const [id, { line }] of this.known) {
      if (running.has(id)) continue;
      this.known.delete(id);
      line.dispose();
    }
    for (const [id, path] of running) {
      const known = this.known.get(id);
      if (known && known.path !== path) {
        const from = known.path;
        known.path = path;
        this.moved.emit({ from, to: path });
      }
      if (!known) this.known.set(id, { path, line: this.connect(id) });
    }
    this.changed.emit();
  }

  private connect(id: string): KernelLine {
    const name = [...this.services.kernels.running()].find((kernel) => kernel.id === id)?.name;
    const line = new KernelLine(this.services.kernels, { id, name: name ?? "" }, this.pace);
    line.changed.connect(() => this.changed.emit());
    return line;
  }
}
