// Made by ../messages.py of tapml_nb/widgets/messages.py: change that one.

/** Without operators, or with none, a run is of all. */
export interface RunArguments {
  ops?: number[];
}

/** A command without arguments. */
export type Nothing = Record<string, never>;

export interface OpsArguments {
  ops: number[];
}

/** Operator -1 is none. */
export interface SelectArguments {
  op: number;
  step: number;
  origin?: string;
}

export interface RememberArguments {
  key: string;
  value: unknown;
}

export interface CallArguments {
  op: number;
  step: number;
}

export interface DiagnosisFacts {
  pattern: string;
  words: string;
  evidence: string;
  cause: string;
}

export interface ValueFacts {
  name: string;
  role: string;
  spec: string;
}

/** An operator in one step; `metrics` are for people, under their names. */
export interface Facts {
  message: string;
  diagnosis: DiagnosisFacts | null;
  kind: string;
  module: string;
  primitives: string[];
  kernel: string;
  override: string;
  file: string;
  line: number;
  text: string;
  judged: boolean;
  inputs: ValueFacts[];
  outputs: ValueFacts[];
  metrics: Record<string, number | string | null>;
}

/** What a tensor holds; not a number is null, and infinite is text. */
export interface Spread {
  name: string;
  which: string;
  low: number | string | null;
  high: number | string | null;
  mean: number | string | null;
  zeros: number;
  nan: number;
  inf: number;
}

/** Behind it one buffer: float32, every tensor's histogram in turn. */
export interface ValuesAnswer {
  facts: Facts;
  values: Spread[];
  note: string;
}

/**
 * `fixed` is an index by axis that is not shown; `window` the first and last (exclusive) row and
 * column; `marks`: whether to tell what is beyond the limit, which of large tensors takes longer
 * than the picture.
 */
export interface TensorArguments {
  op: number;
  step: number;
  which: "source" | "target" | "float64" | "difference";
  output: number;
  axes: [number, number] | null;
  fixed: Record<string, number>;
  window: [number, number, number, number] | null;
  marks?: boolean;
}

/**
 * Behind it two buffers, `rows` times `cols`: the values (float32), and whether an element there
 * is beyond the limit (bytes). `blocks` are where in the whole of both axes such elements are:
 * first and last (exclusive) row and column of each. Where there is no target to compare with,
 * blocks and the second buffer are missing.
 */
export interface TensorAnswer {
  shape: number[];
  axes: [number, number];
  window: [number, number, number, number];
  rows: number;
  cols: number;
  outputs: number;
  note: string;
  blocks?: [number, number, number, number][];
}

/** As of :func:`tapml_nb.report.cells.cells`; `order` may be empty. */
export interface CellsArguments {
  rows: string;
  cols: string;
  order: "" | "model" | "worst";
  beyond: boolean;
  views: boolean;
}

/**
 * A heatmap's names and what is not to be seen in it. Behind it four buffers by row and column:
 * the worst (float32, NaN where none is known), whether it is beyond the limit (bytes), whose it
 * is (int32, the operator's number or -1) and in which step (int32).
 */
export interface CellsAnswer {
  rows: string[];
  cols: string[];
  notes: string[];
}

export interface CodeAnswer {
  relax: string;
  tir: string;
  source: string;
  language: string;
  message: string;
}

/** Operators go by their number in graph order. */
export interface OpArguments {
  op: number;
}

/** No text takes the override back. */
export interface OverrideArguments {
  op: number;
  text: string;
}

export interface FileAnswer {
  path: string;
  text: string;
}

export interface Commands {
  run: { arguments: RunArguments; answer: null };
  hybrid: { arguments: Nothing; answer: null };
  migrate: { arguments: Nothing; answer: null };
  localize: { arguments: Nothing; answer: null };
  stop: { arguments: Nothing; answer: null };
  offload: { arguments: OpsArguments; answer: number };
  restore: { arguments: OpsArguments; answer: number };
  select: { arguments: SelectArguments; answer: null };
  remember: { arguments: RememberArguments; answer: null };
  inspect: { arguments: CallArguments; answer: Facts };
  values: { arguments: CallArguments; answer: ValuesAnswer };
  tensor: { arguments: TensorArguments; answer: TensorAnswer };
  cells: { arguments: CellsArguments; answer: CellsAnswer };
  code: { arguments: CallArguments; answer: CodeAnswer };
  template: { arguments: OpArguments; answer: string };
  override: { arguments: OverrideArguments; answer: string };
  pytest: { arguments: OpArguments; answer: FileAnswer };
  repro: { arguments: CallArguments; answer: FileAnswer };
}

/** What changes nothing, so that it may be asked again. */
export const QUESTIONS = new Set<keyof Commands>([
  "inspect",
  "values",
  "tensor",
  "cells",
  "code",
  "template",
]);

/** Seconds of silence after which there will be no answer. */
export const PATIENCE: Record<keyof Commands, number> = {
  run: 60,
  hybrid: 60,
  migrate: 3600,
  localize: 3600,
  stop: 60,
  offload: 3600,
  restore: 3600,
  select: 60,
  remember: 60,
  inspect: 60,
  values: 600,
  tensor: 600,
  cells: 60,
  code: 600,
  template: 600,
  override: 3600,
  pytest: 3600,
  repro: 3600,
};
