// The target's status, the run's progress, and the buttons that begin and end runs.

import { besideButton } from "./beside";
import { h, keepKeys, setText } from "./dom";
import { bytes, plural, seconds } from "./format";
import type { Store } from "./store";

const STATES = {
  idle: "not started yet",
  connected: "connected",
  lost: "restarting",
  closed: "closed",
} as const;

const PHASES: Record<string, string> = {
  source: "running on the source",
  compile: "compiling",
  introduced: "judging",
  hybrid: "running the hybrid model",
  migrate: "migrating",
  localize: "localizing: hybrid run",
};

const RUNS: Record<string, string> = {
  introduced: "run",
  hybrid: "hybrid run",
  migration: "migration",
  localization: "localization",
};

const BUTTONS = [
  ["run", "Run", "Judge every operator on the target, on the source's inputs"],
  ["hybrid", "Hybrid", "Run the model once with today's placement"],
  ["migrate", "Migrate", "Offload gradually, as far as the model stays right"],
  ["localize", "Localize", "Find which operators, alone or together, break the model"],
] as const;

export class TargetStatus {
  readonly element: HTMLElement;
  private dot = h("i", { class: "tapml-dot", "aria-hidden": "true" });
  private state = h("span", { role: "status", class: "tapml-state" });
  private facts = h("span", { class: "tapml-dim" });
  private buttons: Record<string, HTMLButtonElement> = {};
  private bar = h("progress", { "aria-label": "Progress of the run", max: 1, value: 0 });
  private work = h("span", { class: "tapml-work" });
  private outputs = h("strong", { class: "tapml-outputs", role: "status", hidden: true });
  private message = h("p", { class: "tapml-warning", role: "alert", hidden: true });
  private clock = 0;
  private readonly ends: (() => void)[];

  constructor(private store: Store) {
    for (const [name, text, title] of BUTTONS) {
      this.buttons[name] = h(
        "button",
        { type: "button", title, onclick: () => store.tell(name, {}) },
        text,
      );
    }
    const stop = "Stop the run; what was judged is kept";
    this.buttons.stop = h(
      "button",
      { type: "button", title: stop, onclick: () => store.stop() },
      "Stop",
    );
    this.buttons.run!.classList.add("tapml-primary");
    this.element = h(
      "section",
      { class: "tapml-status", "aria-label": "Target" },
      h(
        "div",
        { class: "tapml-bar" },
        this.dot,
        this.state,
        ...Object.values(this.buttons),
        besideButton(store),
      ),
      h(
        "div",
        { class: "tapml-bar" },
        this.bar,
        this.work,
        this.outputs,
        h("span", { class: "tapml-space" }),
        this.facts,
      ),
      this.message,
    );
    keepKeys(this.element);
    this.ends = [
      store.on("status", () => this.draw()),
      store.on("graph", () => this.draw()),
      store.on("findings", () => this.draw()),
    ];
    if (store.ready) this.draw();
  }

  dispose(): void {
    clearTimeout(this.clock);
    for (const end of this.ends) end();
  }

  private draw(): void {
    const { store } = this;
    const { status } = store;
    if (!store.ready) return;
    this.dot.dataset.state = status.state;
    const restarts = status.restarts ? `, ${plural(status.restarts, "restart")}` : "";
    const address = status.address ? ` at ${status.address}` : "";
    this.state.textContent = `${store.name} on ${store.target}: ${STATES[status.state]}${address}${restarts}`;
    this.facts.textContent =
      `${plural(status.kernels, "kernel")} (${status.compiled} compiled, ${status.cache_hits} from the cache), ` +
      `${bytes(status.sent)} sent`;
    for (const [name, button] of Object.entries(this.buttons)) {
      button.hidden = !store.commands.has(name);
      button.disabled = status.state === "closed" || (name === "stop") !== status.busy;
    }
    const since = status.busy ? (performance.now() - store.statusAt) / 1000 : 0;
    const elapsed = status.elapsed + since;
    this.bar.hidden = !status.busy;
    if (status.busy) {
      this.bar.value = status.total ? status.done / status.total : 0;
      const left =
        status.left === null ? "" : `, about ${seconds(Math.max(status.left - since, 0))} left`;
      const at = status.current >= 0 ? ` · ${store.ops[status.current]}` : "";
      const phase = PHASES[status.phase] ?? "starting";
      this.work.textContent = `${phase} ${status.done} of ${status.total}, ${seconds(elapsed)}${left}${at}`;
    } else if (status.run) {
      const ended = status.stopped ? "stopped after" : "done in";
      const told = store.findings.outcome;
      this.work.textContent = `${RUNS[status.run]} ${ended} ${seconds(status.elapsed)}: ${told}`;
    } else {
      this.work.textContent = `${plural(store.ops.length, "operator")}: ${store.findings.outcome}`;
    }
    this.outputs.hidden = status.busy || !status.outputs;
    const { right } = status;
    const mark = right === null ? "?" : right ? "✓" : "✗";
    if (!this.outputs.hidden) setText(this.outputs, `${mark} ${status.outputs}`);
    this.outputs.dataset.right = String(right);
    this.message.hidden = !status.message;
    this.message.textContent = status.message;
    clearTimeout(this.clock);
    if (status.busy) this.clock = window.setTimeout(() => this.draw(), 500);
  }
}
