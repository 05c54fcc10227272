// Tensors of safetensors files (https://huggingface.co/docs/safetensors) as numbers that JavaScript
// has. A complex tensor becomes a real one with a last axis of two.

export interface Tensor {
  dtype: string;
  shape: number[];
  data: Float64Array | Float32Array;
}

export class TensorError extends Error {}

type Read = (view: DataView, count: number) => Float64Array | Float32Array;

function each(bytes: number, value: (view: DataView, at: number) => number): Read {
  return (view, count) => Float64Array.from({ length: count }, (_, k) => value(view, k * bytes));
}

/** A small floating-point number; without infinities the largest exponent holds numbers as well. */
function small(bits: number, exponent: number, mantissa: number, infinite = true): number {
  const sign = bits >> (exponent + mantissa) ? -1 : 1;
  const power = (bits >> mantissa) & ((1 << exponent) - 1);
  const part = bits & ((1 << mantissa) - 1);
  const bias = (1 << (exponent - 1)) - 1;
  const top = power === (1 << exponent) - 1;
  if (top && infinite) return part ? NaN : sign * Infinity;
  if (top && part === (1 << mantissa) - 1) return NaN;
  if (power === 0) return sign * part * 2 ** (1 - bias - mantissa);
  return sign * (1 + part / (1 << mantissa)) * 2 ** (power - bias);
}

const swap = new DataView(new ArrayBuffer(4));

function bfloat16(bits: number): number {
  swap.setUint32(0, bits << 16);
  return swap.getFloat32(0);
}

const float32: Read = (view, count) => {
  const { buffer, byteOffset: at } = view;
  return new Float32Array(buffer.slice(at, at + 4 * count) as ArrayBuffer);
};

const READ: Record<string, [name: string, bytes: number, read: Read]> = {
  BOOL: ["bool", 1, each(1, (v, at) => v.getUint8(at))],
  I8: ["int8", 1, each(1, (v, at) => v.getInt8(at))],
  U8: ["uint8", 1, each(1, (v, at) => v.getUint8(at))],
  I16: ["int16", 2, each(2, (v, at) => v.getInt16(at, true))],
  U16: ["uint16", 2, each(2, (v, at) => v.getUint16(at, true))],
  I32: ["int32", 4, each(4, (v, at) => v.getInt32(at, true))],
  U32: ["uint32", 4, each(4, (v, at) => v.getUint32(at, true))],
  I64: ["int64", 8, each(8, (v, at) => Number(v.getBigInt64(at, true)))],
  U64: ["uint64", 8, each(8, (v, at) => Number(v.getBigUint64(at, true)))],
  F16: ["float16", 2, each(2, (v, at) => small(v.getUint16(at, true), 5, 10))],
  BF16: ["bfloat16", 2, each(2, (v, at) => bfloat16(v.getUint16(at, true)))],
  F32: ["float32", 4, float32],
  F64: ["float64", 8, each(8, (v, at) => v.getFloat64(at, true))],
  F8_E4M3: ["float8_e4m3fn", 1, each(1, (v, at) => small(v.getUint8(at), 4, 3, false))],
  F8_E5M2: ["float8_e5m2", 1, each(1, (v, at) => small(v.getUint8(at), 5, 2))],
  C64: ["complex64", 8, (view, count) => float32(view, 2 * count)],
};

interface Header {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** What a file says of a tensor, and where its tensors begin; the file's first bytes suffice. */
function headerOf(file: ArrayBuffer, name: string): { entry: Header; content: number } {
  const length = file.byteLength < 8 ? -1 : Number(new DataView(file).getBigUint64(0, true));
  if (length < 0 || length > file.byteLength - 8) {
    throw new TensorError("it is no safetensors file");
  }
  let entry: Header | undefined;
  try {
    entry = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length)))[name];
  } catch {
    throw new TensorError("its header is no JSON");
  }
  const { dtype, shape } = entry ?? {};
  if (!entry || !Array.isArray(shape)) throw new TensorError(`it holds no tensor ${name}`);
  if (!READ[dtype!]) throw new TensorError(`tensors of ${dtype} are not read here`);
  return { entry, content: 8 + length };
}

/** Dtype and shape of a tensor as Python writes them. */
export function specOf(file: ArrayBuffer, name: string): string {
  const { dtype, shape } = headerOf(file, name).entry;
  return `${READ[dtype]![0]}[${shape.join(", ")}]`;
}

/** One tensor of a file, by its name; a `TensorError` says why there is none. */
export function parse(file: ArrayBuffer, name: string): Tensor {
  const { entry, content } = headerOf(file, name);
  const { dtype, shape, data_offsets: ends } = entry;
  const [called, bytes, read] = READ[dtype]!;
  const sizes = shape.every((n) => Number.isInteger(n) && n >= 0);
  const count = sizes ? shape.reduce((a, b) => a * b, 1) : -1;
  const [begin, end] = Array.isArray(ends) ? ends : [0, -1];
  const fits = count >= 0 && begin >= 0 && end - begin === count * bytes;
  if (!fits || content + end > file.byteLength) {
    throw new TensorError("its header does not fit its content");
  }
  const data = read(new DataView(file, content + begin, end - begin), count);
  return { dtype: called, shape: dtype === "C64" ? [...shape, 2] : shape, data };
}
