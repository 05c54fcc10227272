// All sessions of all running kernels, by notebook. Lines stay where they are while news come in.

import { Widget } from "@lumino/widgets";
import { h, keepChildren, setText } from "../../widgets/src/dom";
import { number, plural } from "../../widgets/src/format";
import { icon } from "./icon";
import type { Kernels, Listed } from "./kernels";
import type { CauseFacts, SessionFacts } from "./line";

const PHASES: Record<string, string> = {
  source: "running on the source",
  compile: "compiling",
  introduced: "judging",
  augmented: "trying derived inputs",
  hybrid: "running the hybrid model",
  migrate: "migrating",
  localize: "localizing",
};

const EMPTY =
  "No debugging session lives in a running kernel. " +
  "A cell with tapml_nb.debug(model, inputs, target=…) makes one.";

class SessionLine {
  readonly element: HTMLElement;
  private readonly symbol = h("span", { class: "tapml-symbol", "aria-hidden": "true" });
  private readonly title = h("span", { class: "tapml-title" });
  private readonly work = h("span", { class: "tapml-dim" });
  private readonly bar = h("progress", { max: 1, value: 0, hidden: true });
  private readonly causes = h("ul", { class: "tapml-causes" });
  private readonly button: HTMLButtonElement;

  constructor(
    private listed: Listed,
    choose: (listed: Listed) => void,
  ) {
    this.button = h(
      "button",
      { type: "button", class: "tapml-session", onclick: () => choose(this.listed) },
      h("span", { class: "tapml-row1" }, this.symbol, this.title),
      this.work,
      this.bar,
    );
    this.element = h("li", {}, this.button, this.causes);
  }

  draw(listed: Listed): void {
    this.listed = listed;
    const { facts } = listed;
    const { worst } = facts;
    setText(this.symbol, worst.symbol);
    this.symbol.style.borderColor = facts.judged ? worst.colour : "";
    setText(this.title, `${facts.name} on ${facts.target}`);
    setText(this.work, workOf(facts));
    this.bar.hidden = !facts.busy;
    this.bar.value = facts.total ? facts.done / facts.total : 0;
    this.bar.setAttribute("aria-label", `Progress of ${facts.name}`);
    this.button.title = `${facts.name} on ${facts.target}: worst verdict ${worst.name}`;
    const texts = facts.causes.map(causeText);
    if (facts.more) texts.push(`and ${facts.more} more`);
    while (this.causes.children.length > texts.length) this.causes.lastChild!.remove();
    texts.forEach((text, k) => {
      if (!this.causes.children[k]) this.causes.append(h("li"));
      setText(this.causes.children[k]!, text);
    });
  }
}

function workOf(facts: SessionFacts): string {
  if (facts.busy) {
    const phase = PHASES[facts.phase] ?? "starting";
    return facts.total ? `${phase} ${facts.done} of ${facts.total}` : phase;
  }
  const state = facts.state === "closed" ? "closed; " : "";
  if (!facts.judged) return `${state}${facts.operators} operators, nothing judged yet`;
  return `${state}${facts.judged} of ${facts.operators} operators judged: ${facts.outcome}`;
}

function causeText({ verdict, symbol, op, ratio, count }: CauseFacts): string {
  const far = ratio === null ? "" : `, ${number(ratio)} noise floors`;
  const others = count > 1 ? `, ${plural(count, "operator")}` : "";
  return `${symbol} ${verdict} ${op}${far}${others}`;
}

interface Group {
  element: HTMLElement;
  list: HTMLElement;
}

export class SessionPanel extends Widget {
  private readonly empty = h("p", { class: "tapml-empty" }, EMPTY);
  private readonly groups = new Map<string, Group>();
  private readonly lines = new Map<string, SessionLine>();

  constructor(
    private readonly kernels: Kernels,
    private readonly choose: (listed: Listed) => void,
  ) {
    super();
    this.id = "tapml-nb-sessions";
    this.addClass("tapml-panel");
    this.title.icon = icon;
    this.title.caption = "Debugging sessions (tapml_nb)";
    this.node.setAttribute("role", "region");
    this.node.setAttribute("aria-label", "Debugging sessions");
    kernels.changed.connect(() => this.draw());
    this.draw();
  }

  private draw(): void {
    const { sessions } = this.kernels;
    const paths = [...new Set(sessions.map(({ path }) => path))];
    keepChildren(
      this.node,
      paths.length ? paths.map((path) => this.group(path).element) : [this.empty],
    );
    const drawn = new Set<string>();
    for (const path of paths) {
      const here = sessions.filter((listed) => listed.path === path);
      const lines = here.map((listed) => {
        const key = JSON.stringify([path, listed.facts.id, listed.facts.made]);
        drawn.add(key);
        let line = this.lines.get(key);
        if (!line) this.lines.set(key, (line = new SessionLine(listed, this.choose)));
        line.draw(listed);
        return line.element;
      });
      keepChildren(this.group(path).list, lines);
    }
    for (const key of this.lines.keys()) if (!drawn.has(key)) this.lines.delete(key);
    for (const path of this.groups.keys()) if (!paths.includes(path)) this.groups.delete(path);
  }

  private group(path: string): Group {
    let group = this.groups.get(path);
    if (!group) {
      const list = h("ul", { class: "tapml-sessions" });
      const element = h("section", { "aria-label": path }, h("h3", {}, path), list);
      this.groups.set(path, (group = { element, list }));
    }
    return group;
  }
}
