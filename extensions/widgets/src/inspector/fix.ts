// The inspector's panel to try another kernel in an operator's place, and to carry a fault away.

import { h } from "../dom";
import type { Commands, Facts } from "../messages";
import type { Answer, Store } from "../store";
import { copy, copyButton } from "./clipboard";

const NUMPY = `import numpy as np


def kernel(*inputs):
    # NumPy arrays in, in the order of the call; an array (or a tuple of arrays) out
    raise NotImplementedError
`;

export class Fix {
  /** Whether somebody is typing. */
  editing = false;
  /** Texts that were begun, by operator. */
  private drafts = new Map<number, string>();

  constructor(private store: Store) {}

  show(facts: Facts): Node[] {
    const { store } = this;
    const { op, step } = store.selection;
    const area = h("textarea", {
      class: "tapml-code",
      rows: 11,
      spellcheck: "false",
      "aria-label": "A NumPy function or a TIR PrimFunc to run in the operator's place",
    });
    area.value = this.drafts.get(op) ?? NUMPY;
    area.addEventListener("input", () => this.drafts.set(op, area.value));
    area.addEventListener("focus", () => (this.editing = true));
    area.addEventListener("blur", () => (this.editing = false));
    const outcome = h("p", { role: "status" });
    const carved = h("div");
    const attempt =
      <N extends keyof Commands>(
        work: () => Promise<Answer<N>>,
        done: (value: Answer<N>["value"]) => string,
      ) =>
      () => {
        outcome.textContent = "…";
        work().then(
          ({ value }) => (outcome.textContent = done(value)),
          (error: Error) => (outcome.textContent = error.message),
        );
      };
    const override = (text: () => string) =>
      attempt(
        () => store.ask("override", { op, text: text() }),
        (verdict) => verdict,
      );
    const tryIt = override(() => area.value);
    const template = attempt(
      () => store.ask("template", { op }),
      (tir) => {
        area.value = tir;
        this.drafts.set(op, area.value);
        return "The kernel's own TIR: change it and try it.";
      },
    );
    const restore = override(() => "");
    const pytest = attempt(
      () => store.ask("pytest", { op }),
      ({ path, text }) => {
        const view = h("pre", { class: "tapml-code", tabindex: 0 }, text);
        carved.replaceChildren(
          h(
            "div",
            { class: "tapml-bar" },
            h("strong", {}, "test_carved.py"),
            copyButton(() => text),
          ),
          view,
        );
        void copy(text);
        return `Carved into ${path}; run it with: pytest ${path}`;
      },
    );
    const repro = attempt(
      () => store.ask("repro", { op, step }),
      ({ path, text }) => {
        void copy(text);
        return `Written to ${path}, which needs only TVM and NumPy; run it with: python ${path}`;
      },
    );
    const inputs = facts.inputs.map((t) => t.spec).join(", ");
    const outputs = facts.outputs.map((t) => t.spec).join(", ");
    return [
      h(
        "p",
        { class: "tapml-dim" },
        `Takes ${inputs || "nothing"}; makes ${outputs || "nothing"}.`,
      ),
      area,
      h(
        "div",
        { class: "tapml-bar" },
        h("button", { type: "button", class: "tapml-primary", onclick: tryIt }, "try it"),
        h("button", { type: "button", onclick: template }, "start from its TIR"),
        h(
          "button",
          { type: "button", onclick: restore, disabled: !facts.override },
          "take it back",
        ),
        h("button", { type: "button", onclick: pytest }, "copy as pytest"),
        h(
          "button",
          { type: "button", onclick: repro, title: "One script shows the whole cause" },
          "write a repro",
        ),
      ),
      outcome,
      carved,
    ];
  }
}
