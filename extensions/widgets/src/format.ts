// Numbers for people.

/** Three significant digits, as plain as the size allows; NaN is a dash. */
export function number(value: number | string | null | undefined): string {
  if (typeof value === "string") return value; // what JSON knows no number for
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  if (size >= 100) return value.toFixed(0);
  return String(Number(value.toPrecision(3)));
}

export function bytes(count: number): string {
  if (count < 1e3) return `${count} B`;
  if (count < 1e6) return `${(count / 1e3).toFixed(1)} kB`;
  if (count < 1e9) return `${(count / 1e6).toFixed(1)} MB`;
  return `${(count / 1e9).toFixed(2)} GB`;
}

export function seconds(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (value < 60) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Cut a text in its middle, where paths differ least. */
export function shorten(text: string, length: number): string {
  if (text.length <= length) return text;
  const tail = Math.ceil((length - 1) * 0.6);
  return `${text.slice(0, Math.max(0, length - 1 - tail))}…${text.slice(text.length - tail)}`;
}

export function plural(count: number, noun: string): string {
  const many = noun.endsWith("x") ? `${noun}es` : `${noun}s`;
  return `${count} ${count === 1 ? noun : many}`;
}
