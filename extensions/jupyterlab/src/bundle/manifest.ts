// The manifest of a bundle, as `tapml_nb/carve/manifest.py` describes it: checked as far as this page
// relies on it.

export interface Entry {
  value: string;
  tensor: string;
  delta?: string | null;
}

export interface Test {
  op: string;
  kind: string;
  scope: string;
  module: string;
  layer: string;
  source: { file: string; line: number; text: string } | null;
  primitives: string[];
  host: boolean;
  step: number;
  inputs: Entry[];
  outputs: Entry[];
  unsupported: string | null;
  conversion?: string;
  verdict: string | null;
  message: string;
}

export interface Manifest {
  schema: number;
  name: string;
  tests: Test[];
  members: Record<string, string>;
  versions?: Record<string, string>;
}

const SCHEMA = 1;

export class Malformed extends Error {}

type Check = (value: unknown) => boolean;

const text: Check = (v) => typeof v === "string";
const whole: Check = (v) => Number.isInteger(v) && (v as number) >= 0;
const maybe =
  (check: Check): Check =>
  (v) =>
    v === null || v === undefined || check(v);
const list =
  (check: Check): Check =>
  (v) =>
    Array.isArray(v) && v.every(check);
const record =
  (parts: Record<string, Check>): Check =>
  (v) =>
    typeof v === "object" &&
    v !== null &&
    Object.entries(parts).every(([name, check]) => check((v as Record<string, unknown>)[name]));
const texts: Check = (v) => typeof v === "object" && v !== null && Object.values(v).every(text);

const entry = record({ value: text, tensor: text, delta: maybe(text) });
const test: Record<string, Check> = {
  op: text,
  kind: text,
  scope: text,
  module: text,
  layer: text,
  source: maybe(record({ file: text, line: whole, text })),
  primitives: list(text),
  host: (v) => typeof v === "boolean",
  step: whole,
  inputs: list(entry),
  outputs: list(entry),
  unsupported: maybe(text),
  conversion: maybe(text),
  verdict: maybe(text),
  message: text,
};

/** The manifest, if it is one; a `Malformed` says what is wrong. */
export function checked(manifest: unknown): Manifest {
  const found = manifest as Manifest;
  if (found?.schema !== SCHEMA) {
    throw new Malformed(
      `its schema is ${JSON.stringify(found?.schema)}; this page reads ${SCHEMA}`,
    );
  }
  const sound = record({
    name: text,
    tests: Array.isArray,
    members: texts,
    versions: maybe(texts),
  });
  if (!sound(found)) throw new Malformed("its manifest is malformed");
  const calls = new Set<string>();
  found.tests.forEach((one, k) => {
    if (!record(test)(one)) {
      const wrong = Object.entries(test).find(([name, check]) => !check(one?.[name as keyof Test]));
      throw new Malformed(`its manifest is malformed: tests[${k}].${wrong?.[0]}`);
    }
    const call = JSON.stringify([one.op, one.step]);
    if (calls.has(call)) throw new Malformed(`its manifest has tests[${k}] twice`);
    calls.add(call);
  });
  const steps = new Set(found.tests.map(({ step }) => step));
  if (Math.max(-1, ...steps) >= steps.size) throw new Malformed("its manifest leaves out a step");
  return found;
}
