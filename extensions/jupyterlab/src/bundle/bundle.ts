// A bundle of carved tests: its graph and verdicts out of the manifest, its tensors as they are asked
// for. What the target computed is in none, so there is no error to plot, and nothing can be run.

import { plural } from "../../../widgets/src/format";
import type {
  CallArguments,
  Commands,
  Facts,
  Spread,
  TensorArguments,
  ValueFacts,
} from "../../../widgets/src/messages";
import type { Cause, Findings, Snapshot } from "../../../widgets/src/protocol";
import { type Answered, REST, type Stored } from "../../../widgets/src/stored";
import { checked, type Entry, type Manifest, type Test } from "./manifest";
import { picture, summarize } from "./pictures";
import { parse, specOf, type Tensor } from "./safetensors";
import { VERDICTS } from "./verdicts";
import { type Zip, ZipError } from "./zip";

const KEPT = 8; // tensors, for zooming
const HEAD = 4096; // bytes of a file of one tensor that say what it is

const UNKNOWN = VERDICTS.findIndex(({ name }) => name === "UNKNOWN");
const RECORD = 44; // bytes of an introduced result
const FIRST_METRIC = 8;

const memberOf = (tensor: string): string => `tensors/${tensor}.safetensors`;

const codeOf = (verdict: string | null): number => {
  const code = VERDICTS.findIndex(({ name }) => name === verdict);
  return code < 0 ? UNKNOWN : code;
};

export class BundleFile implements Stored {
  readonly title: string;
  readonly views = ["graph", "inspector", "heatmap", "table"];
  /** The first test of each operator, in order. */
  private readonly ops: Test[];
  private readonly tests = new Map<string, Test>();
  private readonly steps: number;
  private readonly tensors = new Map<string, Promise<Tensor>>();

  private constructor(
    private readonly zip: Zip,
    private readonly manifest: Manifest,
  ) {
    const { name, tests, versions } = manifest;
    const first = new Map<string, Test>();
    for (const test of tests) {
      if (!first.has(test.op)) first.set(test.op, test);
      this.tests.set(JSON.stringify([test.op, test.step]), test);
    }
    this.ops = [...first.values()];
    this.steps = Math.max(1, new Set(tests.map(({ step }) => step)).size);
    const writers = Object.entries(versions ?? {}).map(([by, version]) => `${by} ${version}`);
    const by = writers.length ? `, written by ${writers.join(", ")}` : "";
    const steps = this.steps > 1 ? ` in ${this.steps} steps` : "";
    this.title = `${name}: ${plural(this.ops.length, "operator")}${steps}${by}`;
  }

  /** Raises an error, in words for people, if the file holds no bundle. */
  static of(zip: Zip, manifest: unknown): BundleFile {
    return new BundleFile(zip, checked(manifest));
  }

  snapshot(): { message: Omit<Snapshot, "seq">; buffers: ArrayBuffer[] } {
    const { ops, manifest } = this;
    const kinds = numbered(ops.map(({ kind }) => kind));
    const scopes = numbered(ops.map(({ scope }) => scope));
    const layers = numbered(ops.map(({ layer }) => layer));
    const message: Omit<Snapshot, "seq"> = {
      kind: "snapshot",
      session: "",
      name: manifest.name,
      target: "",
      limit: 8,
      steps: this.steps,
      ops: ops.map(({ op }) => op),
      kinds: kinds.names,
      scopes: scopes.names,
      layers: layers.names,
      verdicts: [...VERDICTS],
      commands: ["inspect", "values", "tensor"],
      tensors: ["source", "float64"],
      overrides: {},
      findings: this.findings(),
      status: REST,
      selection: { op: this.findings().causes[0]?.worst ?? -1, step: 0 },
      ui: { heatmap: "tensor" },
    };
    const buffers = [
      kinds.places,
      scopes.places,
      layers.places,
      Uint8Array.from(ops, ({ host }) => Number(host)).buffer,
      this.edges(),
      new ArrayBuffer(ops.length), // nothing is on a target
      this.results(),
      new ArrayBuffer(0),
    ];
    return { message, buffers };
  }

  async answer(name: keyof Commands, args: Record<string, unknown>): Promise<Answered> {
    if (name === "select" || name === "remember") return { value: null, buffers: [] };
    if (name === "inspect") {
      const facts = await this.facts(this.test(args as unknown as CallArguments));
      return { value: facts, buffers: [] };
    }
    if (name === "values") return await this.values(args as unknown as CallArguments);
    if (name === "tensor") return await this.tensor(args as unknown as TensorArguments);
    throw new ZipError("a bundle is only looked at here; tapml_nb.Bundle.open(…).replay() runs it");
  }

  private test({ op, step }: CallArguments): Test {
    const id = this.ops[op]?.op;
    const test = this.tests.get(JSON.stringify([id, step]));
    if (!test) throw new ZipError(`the bundle has no test of it in step ${step}`);
    return test;
  }

  private edges(): ArrayBuffer {
    const makers = new Map<string, number>();
    this.ops.forEach(({ outputs }, k) => {
      for (const { value } of outputs) makers.set(value, k);
    });
    const pairs = this.ops.flatMap(({ inputs }, k) => {
      const from = inputs.map(({ value }) => makers.get(value));
      return [...new Set(from)]
        .filter((one) => one !== undefined && one < k)
        .map((one) => [one!, k]);
    });
    return Uint32Array.from(pairs.flat()).buffer;
  }

  /** What the session that carved it said; of how far a target was off it tells in words alone. */
  private results(): ArrayBuffer {
    const number = new Map(this.ops.map(({ op }, k) => [op, k]));
    const judged = this.manifest.tests.filter(({ verdict }) => verdict !== null);
    const view = new DataView(new ArrayBuffer(RECORD * judged.length));
    judged.forEach(({ op, step, verdict }, k) => {
      const at = RECORD * k;
      view.setUint32(at, number.get(op)!, true);
      view.setUint16(at + 4, step, true);
      view.setUint8(at + 6, codeOf(verdict));
      for (let b = at + FIRST_METRIC; b < at + RECORD; b += 4) view.setFloat32(b, NaN, true);
    });
    return view.buffer as ArrayBuffer;
  }

  /** Operators of a kind with the same verdict, the worst verdict first. */
  private findings(): Findings {
    const groups = new Map<string, Cause>();
    const worst = this.ops.map(({ op }) => this.worstOf(op));
    this.ops.forEach(({ kind }, k) => {
      const verdict = worst[k]!;
      const info = VERDICTS[verdict]!;
      if (!info.broken && !info.missing) return;
      const key = JSON.stringify([verdict, kind]);
      const group = groups.get(key);
      if (group) {
        group.ops.push(k);
        group.count++;
      } else groups.set(key, { verdict, worst: k, ratio: null, count: 1, ops: [k] });
    });
    const order = (a: Cause, b: Cause) =>
      VERDICTS[a.verdict]!.severity - VERDICTS[b.verdict]!.severity;
    const all = [...groups.values()].sort(order);
    const causes = all.filter(({ verdict }) => VERDICTS[verdict]!.broken);
    const missing = all.filter(({ verdict }) => VERDICTS[verdict]!.missing);
    const sum = (some: Cause[]) => some.reduce((n, cause) => n + cause.count, 0);
    const unjudged = worst.filter((code) => code === UNKNOWN).length;
    const told = [
      sum(causes) && plural(sum(causes), "culprit"),
      sum(missing) && `${sum(missing)} missing`,
      unjudged && `${unjudged} not judged`,
    ].filter(Boolean);
    const outcome = told.length
      ? told.join(", ")
      : `no culprit among ${plural(this.ops.length, "operator")}`;
    return { outcome: `When it was carved: ${outcome}`, causes, missing };
  }

  /** The worst verdict of an operator over its steps. */
  private worstOf(op: string): number {
    const steps = [...Array(this.steps).keys()];
    const said = steps.map((step) => this.tests.get(JSON.stringify([op, step]))?.verdict ?? null);
    const codes = said.filter((verdict) => verdict !== null).map(codeOf);
    const severity = (code: number) => VERDICTS[code]!.severity;
    return codes.length ? codes.reduce((a, b) => (severity(b) < severity(a) ? b : a)) : UNKNOWN;
  }

  private async facts(test: Test): Promise<Facts> {
    const describe = async ({ value, tensor }: Entry): Promise<ValueFacts> => ({
      name: value,
      role: "",
      spec: specOf(await this.zip.head(memberOf(tensor), HEAD), "data"),
    });
    const { source } = test;
    const said = [test.message, test.unsupported ?? "", test.conversion ?? ""];
    return {
      message: said.filter(Boolean).join("; "),
      diagnosis: null,
      kind: test.kind,
      module: test.module,
      primitives: test.primitives,
      kernel: "",
      override: "",
      file: source?.file ?? "",
      line: source?.line ?? 0,
      text: source?.text ?? "",
      judged: test.verdict !== null,
      inputs: await Promise.all(test.inputs.map(describe)),
      outputs: await Promise.all(test.outputs.map(describe)),
      metrics: {},
    };
  }

  private async values(args: CallArguments): Promise<Answered> {
    const test = this.test(args);
    const shown: [name: string, which: string, tensor: Tensor][] = [];
    for (const { value, tensor } of test.inputs) {
      shown.push([value, "input", await this.read(tensor)]);
    }
    for (const output of test.outputs) {
      shown.push([output.value, "source", await this.read(output.tensor)]);
    }
    const facts = await this.facts(test);
    const summaries = shown.map(([, , tensor]) => summarize(tensor));
    const rows: Spread[] = summaries.map(({ bins: _, ...spread }, k) => ({
      name: shown[k]![0],
      which: shown[k]![1],
      ...spread,
    }));
    const bins = new Float32Array(summaries.flatMap((summary) => [...summary.bins]));
    const note = test.host ? "computes no tensor" : "";
    return { value: { facts, values: rows, note }, buffers: [bins.buffer] };
  }

  private async tensor(args: TensorArguments): Promise<Answered> {
    const test = this.test(args);
    const output = test.outputs[args.output];
    if (!output) throw new ZipError("it computes no tensor");
    if (args.which !== "source" && args.which !== "float64") {
      throw new ZipError("a bundle holds nothing that a target computed");
    }
    let tensor = await this.read(output.tensor);
    if (args.which === "float64") {
      if (!output.delta) throw new ZipError("the bundle holds no float64 result of it");
      const delta = await this.read(output.delta);
      const source = tensor;
      const data = Float64Array.from(source.data, (value, k) => value + delta.data[k]!);
      tensor = { ...source, dtype: "float64", data };
    }
    const { answer, values } = picture(tensor, args);
    const value = { ...answer, outputs: test.outputs.length };
    return { value, buffers: [values.buffer as ArrayBuffer] };
  }

  /** A tensor by its key; the last few are kept. */
  private read(key: string): Promise<Tensor> {
    const known = this.tensors.get(key) ?? this.load(memberOf(key));
    this.tensors.delete(key);
    this.tensors.set(key, known);
    const [oldest] = this.tensors.keys();
    if (this.tensors.size > KEPT) this.tensors.delete(oldest!);
    return known;
  }

  private async load(member: string): Promise<Tensor> {
    const content = await this.zip.read(member);
    // A page of a host without a certificate cannot compute digests.
    const digest = await globalThis.crypto.subtle?.digest("SHA-256", content);
    if (digest && hex(digest) !== this.manifest.members[member]) {
      throw new ZipError(`the bundle is damaged in ${member}: carve or copy it again`);
    }
    return parse(content, "data");
  }
}

function hex(bytes: ArrayBuffer): string {
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Different names in order of appearance, and which of them stands at each place. */
function numbered(all: string[]): { names: string[]; places: ArrayBuffer } {
  const known = new Map<string, number>();
  const places = all.map((name) => {
    if (!known.has(name)) known.set(name, known.size);
    return known.get(name)!;
  });
  return { names: [...known.keys()], places: Uint32Array.from(places).buffer };
}
