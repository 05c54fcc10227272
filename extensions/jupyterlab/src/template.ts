// The cells of a new debugging notebook: they run as they are, on a small Llama with random weights.

import type { TargetKind } from "./settings";

export const KINDS = {
  torch: "PyTorch",
  onnx: "ONNX",
  relax: "Relax",
  bundle: "Bundle of carved tests",
} as const;
export type ModelKind = keyof typeof KINDS;

interface Cell {
  type: "markdown" | "code";
  source: string;
}

const md = (source: string): Cell => ({ type: "markdown", source });
const code = (source: string): Cell => ({ type: "code", source });

const MODEL = `import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tapml_nb as tapml

torch.manual_seed(0)
config = LlamaConfig(
    hidden_size=256,
    intermediate_size=688,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=2,
    vocab_size=2000,
    initializer_range=256**-0.5,  # activations of scale 1, as in a trained model
    use_cache=False,
)
model = LlamaForCausalLM(config).eval()
input_ids = torch.randint(0, config.vocab_size, (1, 32))`;

const SESSION = [
  md("The workbench follows what happens below; *Open beside* puts it into a tab of its own."),
  code("session"),
  md("Judge every operator on the target, on the inputs that it really gets."),
  code("report = session.run()\nprint(report.summary())"),
  md("What is broken, by cause, and errors over the model in noise floors."),
  code("for cause in report.causes:\n    print(cause.verdict, cause.worst, cause.diagnosis)"),
  code("report.plot()"),
];

const BODIES: Record<ModelKind, (target: string) => Cell[]> = {
  torch: (target) => [
    md("Put your model and inputs of your own in here."),
    code(MODEL),
    code(`session = tapml.debug(model, (input_ids,), target=${target}, name="Llama")`),
    ...SESSION,
  ],
  onnx: (target) => [
    md("Name a file of your own instead, and give inputs for it."),
    code(
      `${MODEL}\ntorch.onnx.export(\n    model, (input_ids,), "llama.onnx", dynamo=True, external_data=False, verbose=False\n)`,
    ),
    code(
      `session = tapml.debug("llama.onnx", (input_ids.numpy(),), target=${target}, name="Llama")`,
    ),
    ...SESSION,
  ],
  relax: (target) => [
    md(
      "Put a module and inputs of your own in here. (This one gets its mask from outside: TVM cannot compile how the model makes it.)",
    ),
    code(
      `${MODEL}\nmask = torch.full((32, 32), float("-inf")).triu(1)[None, None]\n\nfrom tvm.relax.frontend.torch import from_exported_program\n\nwith torch.no_grad():\n    exported = torch.export.export(model, (input_ids, mask), strict=False)\nmodule = from_exported_program(exported)`,
    ),
    code(
      `inputs = (input_ids.numpy(), mask.numpy())\nsession = tapml.debug(module, inputs, target=${target}, name="Llama")`,
    ),
    ...SESSION,
  ],
  bundle: (target) => [
    md(
      "Name a bundle of your own instead. Replaying one compiles and runs what it holds: replay only bundles of people whose programs you would run.",
    ),
    code('from pathlib import Path\n\nimport tapml_nb as tapml\n\npath = Path("llama.tapml")'),
    md("There is none yet? Carve one layer of a small model."),
    code(
      `if not path.exists():\n${indented(
        `${MODEL}\nwith tapml.debug(model, (input_ids,), target="llvm", name="Llama") as carver:\n    carver.carve(path, "model.layers.0")`,
      )}`,
    ),
    code("bundle = tapml.Bundle.open(path)\nbundle.frame()"),
    md("Judge every operator of it on the target, without the model."),
    code(`report = bundle.replay(${target})\nprint(report.summary())`),
    code("report.plot()"),
  ],
};

function indented(text: string): string {
  return text.replace(/^(?=.)/gm, "    ");
}

/** A notebook's content; `kernel` is the name of the kernel to run it. */
export function notebookOf(kind: ModelKind, target: TargetKind, kernel: string): unknown {
  const cells = [
    md(
      `# ${KINDS[kind]} on ${target}\n\nWhich kernels of a model are broken on a target, and why?`,
    ),
    ...BODIES[kind](JSON.stringify(target)),
  ];
  return {
    cells: cells.map(({ type, source }, k) => ({
      cell_type: type,
      id: `tapml-${k}`,
      metadata: {},
      source,
      ...(type === "code" ? { execution_count: null, outputs: [] } : {}),
    })),
    metadata: { kernelspec: { name: kernel, display_name: kernel, language: "python" } },
    nbformat: 4,
    nbformat_minor: 5,
  };
}
