// The inspector: everything about the selected operator, and what can be done about it.

import { CauseLine } from "../causes";
import { themeOf } from "../colours";
import { gently, h, keepChildren, keepKeys, select, setText } from "../dom";
import type { Store } from "../store";
import { Fix } from "./fix";
import { code, tensors, verdict } from "./panels";

const TABS = ["verdict", "tensors", "code", "fix"] as const;
type Tab = (typeof TABS)[number];
const TITLES: Record<Tab, string> = {
  verdict: "Verdict",
  tensors: "Tensors",
  code: "Code",
  fix: "Try a fix",
};
const LISTED = 50;
const PAUSE = 150; // ms between two updates while results come in

export class Inspector {
  readonly element: HTMLElement;
  private outcome = h("strong", { role: "status" });
  private culprits = h("div", {
    class: "tapml-culprits",
    role: "group",
    "aria-label": "Culprits, by cause",
  });
  private lines = new Map<string, CauseLine>();
  private title = h("h3");
  private badge = h("span", { class: "tapml-badge" });
  private steps: HTMLSelectElement;
  private tabs: Record<Tab, HTMLButtonElement>;
  private panel = h("div", { class: "tapml-panel", role: "tabpanel", tabindex: 0 });
  private head: HTMLElement;
  private box = h("input", { type: "checkbox" });
  private placing = h("label", {}, this.box, " on the target");
  private again = h(
    "button",
    { type: "button", title: "Judge this operator again", onclick: () => this.rerun() },
    "re-run",
  );
  private tab: Tab = "verdict";
  private turn = 0;
  /** What the panel shows: the operator, the tab, and the results it was made of. */
  private shown = "";
  private fix: Fix;
  private readonly ends: (() => void)[];

  constructor(private store: Store) {
    this.fix = new Fix(store);
    this.steps = select("Step", [], (step) => store.select(store.selection.op, Number(step)));
    const tab = (name: Tab) =>
      h("button", { type: "button", role: "tab", onclick: () => this.setTab(name) }, TITLES[name]);
    this.tabs = {
      verdict: tab("verdict"),
      tensors: tab("tensors"),
      code: tab("code"),
      fix: tab("fix"),
    };
    this.box.addEventListener("change", () => store.place([store.selection.op], this.box.checked));
    this.head = h(
      "div",
      { class: "tapml-inspector-head" },
      this.title,
      h(
        "div",
        { class: "tapml-bar" },
        this.badge,
        this.placing,
        this.steps,
        h("span", { class: "tapml-space" }),
        this.again,
        h(
          "button",
          {
            type: "button",
            title: "Show it in the graph",
            onclick: () => store.reveal(store.selection.op),
          },
          "find",
        ),
      ),
      h(
        "div",
        { class: "tapml-tabs", role: "tablist", "aria-label": "About the operator" },
        ...Object.values(this.tabs),
      ),
    );
    this.head
      .querySelector(".tapml-tabs")!
      .addEventListener("keydown", (event) => this.tabKey(event as KeyboardEvent));
    this.element = h(
      "section",
      { class: "tapml-inspector", "aria-label": "Inspector" },
      this.culprits,
      this.head,
      this.panel,
    );
    keepKeys(this.element);
    const [follow, cancel] = gently(() => this.refresh(false), PAUSE);
    this.ends = [
      cancel,
      store.on("graph", () => this.refresh(true)),
      store.on("results", follow),
      store.on("findings", () => this.listCulprits()),
      store.on("selection", () => this.refresh(false)),
      store.on("placement", () => this.heading()),
      store.on("overrides", () => this.refresh(true)),
    ];
    if (store.ready) this.refresh(true);
  }

  dispose(): void {
    for (const end of this.ends) end();
  }

  private refresh(anew: boolean): void {
    const { store, shown } = this;
    if (!store.ready) return;
    this.listCulprits();
    this.heading();
    const { op, step } = store.selection;
    const at = step * store.ops.length + op;
    const results =
      op < 0 ? [] : [store.verdict[at], store.metrics.ratio[at], store.metrics.acc_ratio[at]];
    const place = `${op} ${step} ${this.tab}`;
    const now = `${place} ${results.join(" ")}`;
    const same = shown.startsWith(`${place} `);
    if (same && this.tab === "fix" && this.fix.editing) return; // somebody is typing
    if (!anew && now === shown) return;
    this.shown = now;
    void this.fill();
  }

  /** A line for each cause. Lines stay where they are while results come in, under the pointer too. */
  private listCulprits(): void {
    const { store } = this;
    const { outcome, causes, missing } = store.findings;
    const kept = this.lines;
    this.lines = new Map();
    for (const cause of [...causes.slice(0, LISTED), ...missing.slice(0, LISTED)]) {
      const key = `${cause.verdict} ${cause.ops[0]}`;
      const line = kept.get(key) ?? new CauseLine(store);
      line.show(cause);
      this.lines.set(key, line);
    }
    setText(this.outcome, outcome);
    keepChildren(this.culprits, [
      this.outcome,
      ...[...this.lines.values()].map((line) => line.element),
    ]);
  }

  private heading(): void {
    const { store } = this;
    const { op, step } = store.selection;
    this.head.hidden = op < 0;
    if (op < 0) return;
    this.title.textContent = store.ops[op]!;
    this.title.title = store.ops[op]!;
    const info = store.verdicts[store.verdict[step * store.ops.length + op]!]!;
    this.badge.textContent = `${info.symbol} ${info.name}`;
    this.badge.style.setProperty("--tapml-verdict", info.colour);
    this.box.checked = store.placement[op] === 1;
    this.box.disabled = !!store.host[op];
    this.steps.hidden = store.steps < 2;
    if (this.steps.options.length !== store.steps) {
      const texts = [...Array(store.steps).keys()].map((k) =>
        h("option", { value: k }, `step ${k}`),
      );
      this.steps.replaceChildren(...texts);
    }
    this.steps.value = String(step);
    // Where no session stands behind the page, some of it cannot be done.
    this.placing.hidden = !store.commands.has("offload");
    this.again.hidden = !store.commands.has("run");
    this.tabs.tensors.hidden = !store.commands.has("values");
    this.tabs.code.hidden = !store.commands.has("code");
    this.tabs.fix.hidden = !store.commands.has("override");
    for (const name of TABS) {
      this.tabs[name].setAttribute("aria-selected", String(name === this.tab));
      this.tabs[name].tabIndex = name === this.tab ? 0 : -1;
    }
  }

  private setTab(tab: Tab): void {
    this.tab = tab;
    this.refresh(true);
  }

  private tabKey(event: KeyboardEvent): void {
    const way = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!way) return;
    const tabs = TABS.filter((name) => !this.tabs[name].hidden);
    this.setTab(tabs.at((tabs.indexOf(this.tab) + way) % tabs.length)!);
    this.tabs[this.tab].focus();
    event.preventDefault();
  }

  private async fill(): Promise<void> {
    const { op, step } = this.store.selection;
    const turn = ++this.turn;
    if (op < 0) {
      this.panel.replaceChildren(
        h("p", { class: "tapml-dim" }, "Select an operator in the graph, the plot or the table."),
      );
      return;
    }
    const wait = setTimeout(
      () => turn === this.turn && this.panel.replaceChildren(h("p", { class: "tapml-dim" }, "…")),
      150,
    );
    try {
      const nodes = await this.contents(op, step);
      if (turn === this.turn) this.panel.replaceChildren(...nodes);
    } catch (error) {
      if (turn === this.turn)
        this.panel.replaceChildren(h("p", { role: "alert" }, (error as Error).message));
    } finally {
      clearTimeout(wait);
    }
  }

  private async contents(op: number, step: number): Promise<Node[]> {
    const { store } = this;
    switch (this.tab) {
      case "verdict":
        return verdict((await store.ask("inspect", { op, step })).value);
      case "tensors": {
        const answer = await store.ask("values", { op, step });
        return tensors(answer, themeOf(this.element), () => this.showTensor(), store.tensors[0]!);
      }
      case "code":
        return code((await store.ask("code", { op, step })).value);
      case "fix":
        return this.fix.show((await store.ask("inspect", { op, step })).value);
    }
  }

  private rerun(): void {
    this.store.tell("run", { ops: [this.store.selection.op] });
  }

  private showTensor(): void {
    this.store.remember("heatmap", "tensor");
    this.store.touch("graph");
  }
}
