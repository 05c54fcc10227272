// The inspector's panels that only show: verdict, tensors, code.

import type { Theme } from "../colours";
import { fitCanvas, h, select } from "../dom";
import { number } from "../format";
import type { CodeAnswer, DiagnosisFacts, Facts, ValueFacts } from "../messages";
import { floats } from "../protocol";
import type { Answer } from "../store";
import { copyButton } from "./clipboard";

/** How an operator was judged, and what it is. */
export function verdict(facts: Facts): Node[] {
  const rows = Object.entries(facts.metrics).map(([name, metric]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      h("td", {}, typeof metric === "number" ? number(metric) : metric),
    ),
  );
  const tensors = (list: ValueFacts[]) =>
    h(
      "ul",
      {},
      ...list.map((t) =>
        h(
          "li",
          {},
          h("code", {}, t.spec),
          ` ${t.name}`,
          t.role === "operator" ? "" : ` (${t.role})`,
        ),
      ),
    );
  const nodes: Node[] = [
    h(
      "p",
      { class: "tapml-why" },
      facts.message || (facts.judged ? "Within its noise floor." : "Not judged yet."),
    ),
  ];
  if (facts.diagnosis) nodes.push(diagnosis(facts.diagnosis));
  if (facts.override)
    nodes.push(h("p", { class: "tapml-warning" }, `In its place runs ${facts.override}.`));
  if (facts.file) {
    nodes.push(
      h(
        "p",
        { class: "tapml-line" },
        h("span", { class: "tapml-dim" }, `${facts.file}:${facts.line}`),
        h("code", {}, facts.text),
      ),
    );
  }
  nodes.push(h("table", { class: "tapml-facts" }, ...rows));
  nodes.push(
    h(
      "p",
      {},
      h("code", {}, facts.kind),
      facts.module ? ` in ${facts.module}` : "",
      facts.kernel ? `; kernel ${facts.kernel}` : "",
    ),
    h("p", { class: "tapml-dim" }, facts.primitives.join(", ")),
    h("strong", {}, "reads"),
    tensors(facts.inputs),
    h("strong", {}, "makes"),
    tensors(facts.outputs),
  );
  return nodes;
}

function diagnosis({ pattern, words, evidence, cause }: DiagnosisFacts): Node {
  const line = (name: string, text: string) => [h("dt", {}, name), h("dd", {}, text)];
  return h(
    "dl",
    { class: "tapml-diagnosis", "aria-label": "Diagnosis" },
    ...line(pattern, words),
    ...line("evidence", evidence),
    ...line("usual cause", cause.replace(/^usually /, "")),
  );
}

/** What every tensor of an operator holds, with histograms. */
export function tensors(
  { value, buffers }: Answer<"values">,
  theme: Theme,
  showTensor: () => void,
  which: string,
): Node[] {
  const { facts, values, note } = value;
  const bins = buffers.length ? floats(buffers[0]!) : new Float32Array();
  const per = values.length ? bins.length / values.length : 0;
  const specs = new Map([...facts.inputs, ...facts.outputs].map((t) => [t.name, t]));
  const cards = values.map((v, k) => {
    const canvas = h("canvas", {
      role: "img",
      "aria-label": `Histogram of ${v.name}, ${v.which}`,
    });
    fitCanvas(canvas, 128, 34);
    const context = canvas.getContext("2d")!;
    const dpr = devicePixelRatio || 1;
    context.scale(dpr, dpr);
    const counts = bins.subarray(k * per, (k + 1) * per);
    const most = Math.max(1, ...counts);
    context.fillStyle = theme.accent;
    counts.forEach((count, b) => {
      const height = count ? Math.max(1, (32 * Math.log1p(count)) / Math.log1p(most)) : 0;
      context.fillRect((b * 128) / per, 34 - height, 128 / per - 0.5, height);
    });
    const odd = [v.nan && `${v.nan} NaN`, v.inf && `${v.inf} infinite`].filter(Boolean).join(", ");
    const spec = specs.get(v.name);
    return h(
      "li",
      {},
      h("div", {}, h("b", {}, v.which), ` ${v.name}`),
      h("div", { class: "tapml-dim" }, spec ? `${spec.spec} ` : ""),
      h(
        "div",
        { class: "tapml-bar" },
        canvas,
        h("span", {}, `${number(v.low)} … ${number(v.high)}, mean ${number(v.mean)}`),
      ),
      odd ? h("div", { class: "tapml-warning" }, odd) : null,
    );
  });
  return [
    note ? h("p", { class: "tapml-warning" }, note) : h("span"),
    h(
      "p",
      { class: "tapml-dim" },
      "Counts on a logarithmic scale. The heatmap shows these tensors element by element.",
    ),
    h("button", { type: "button", onclick: showTensor }, `show the ${which} as a heatmap`),
    h("ul", { class: "tapml-values" }, ...cards),
  ];
}

/** An operator's kernel in each of its forms. */
export function code(forms: CodeAnswer): Node[] {
  const texts: [string, string][] = [
    ["TIR", forms.tir],
    [forms.language || "source", forms.source],
    ["Relax", forms.relax],
  ];
  const present = texts.filter(([, text]) => text);
  const view = h("pre", { class: "tapml-code", tabindex: 0 });
  const show = (k: string) => (view.textContent = present[Number(k)]![1]);
  const nodes: Node[] = [];
  if (forms.message) nodes.push(h("p", { class: "tapml-warning" }, forms.message));
  if (!present.length) return nodes;
  const choice = select(
    "Which code",
    present.map(([name], k) => [String(k), name] as const),
    show,
  );
  nodes.push(
    h(
      "div",
      { class: "tapml-bar" },
      choice,
      copyButton(() => view.textContent ?? ""),
    ),
    view,
  );
  show("0");
  return nodes;
}
