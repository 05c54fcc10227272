// Colours: of the theme around us, of verdicts, of errors.

export interface Theme {
  dark: boolean;
  text: string;
  dim: string;
  back: string;
  raised: string;
  border: string;
  accent: string;
  crossing: string;
  font: string;
}

let known: Theme | null = null;

/** The page's theme; read at an element of ours, and kept: reading it costs a layout. */
export function themeOf(element: Element): Theme {
  return (known ??= read(element));
}

function read(element: Element): Theme {
  const style = getComputedStyle(element);
  const at = (name: string, otherwise: string) => style.getPropertyValue(name).trim() || otherwise;
  const back = at("--tapml-back", "#ffffff");
  return {
    dark: luminance(parse(back)) < 0.4,
    text: at("--tapml-text", "#1b1b1b"),
    dim: at("--tapml-dim", "#666666"),
    back,
    raised: at("--tapml-raised", "#f5f5f5"),
    border: at("--tapml-border", "#bdbdbd"),
    accent: at("--tapml-accent", "#1976d2"),
    crossing: "#e69f00",
    font: style.fontFamily || "sans-serif",
  };
}

/** Call back when the page changes its theme. */
export function onTheme(call: () => void): () => void {
  const changed = () => {
    known = null;
    call();
  };
  const observer = new MutationObserver(changed);
  const filter = {
    attributes: true,
    attributeFilter: ["class", "data-jp-theme-light", "data-jp-theme-name", "style"],
  };
  observer.observe(document.body, filter);
  observer.observe(document.documentElement, filter);
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", changed);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", changed);
  };
}

type Rgb = readonly [number, number, number];

const parsed = new Map<string, Rgb>();

function parse(colour: string): Rgb {
  let rgb = parsed.get(colour);
  if (!rgb) {
    const context = document
      .createElement("canvas")
      .getContext("2d", { willReadFrequently: true })!;
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b] = context.getImageData(0, 0, 1, 1).data;
    parsed.set(colour, (rgb = [r!, g!, b!]));
  }
  return rgb;
}

/** Relative luminance as WCAG 2.2 defines it. */
function luminance(rgb: Rgb): number {
  const [r, g, b] = rgb.map((c) => (c <= 10 ? c / 3294 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
}

/** Black or white, whichever is easier to read on a colour. */
export function inkOn(colour: string): string {
  return luminance(parse(colour)) > 0.18 ? "#000000" : "#ffffff";
}

/** `share` of one colour over another. */
export function mix(over: string, under: string, share: number): string {
  const a = parse(over);
  const b = parse(under);
  const at = (k: 0 | 1 | 2) => Math.round(a[k] * share + b[k] * (1 - share));
  return `rgb(${at(0)}, ${at(1)}, ${at(2)})`;
}

/** How strongly a passing operator shows: near its limit stronger than at its floor. */
export function strength(ratio: number, limit: number): number {
  if (!(ratio > 0)) return 0.3;
  return 0.3 + 0.6 * Math.min(1, Math.max(0, 1 + Math.log10(ratio / limit) / 2));
}

// Anchors of cividis (Nuñez, Anderton and Renslow, PLoS ONE 2018), the same for people who see
// colours differently; and of a blue–white–orange scale for signed values.
const CIVIDIS: Rgb[] = [
  [0, 34, 78],
  [18, 53, 112],
  [59, 73, 108],
  [87, 93, 109],
  [112, 113, 115],
  [138, 134, 120],
  [165, 156, 116],
  [195, 179, 105],
  [225, 204, 85],
  [254, 232, 56],
];
const SIGNED: Rgb[] = [
  [0, 68, 136],
  [86, 152, 205],
  [247, 247, 247],
  [238, 153, 68],
  [153, 68, 0],
];

function ramp(anchors: Rgb[]): Uint32Array {
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const x = (i / 255) * (anchors.length - 1);
    const k = Math.min(anchors.length - 2, Math.floor(x));
    const mixed = [0, 1, 2].map((c) =>
      Math.round(anchors[k]![c]! + (x - k) * (anchors[k + 1]![c]! - anchors[k]![c]!)),
    );
    table[i] = (255 << 24) | (mixed[2]! << 16) | (mixed[1]! << 8) | mixed[0]!;
  }
  return table;
}

/** 256 colours as little-endian RGBA words, for `ImageData`. */
export const RAMP = { size: ramp(CIVIDIS), signed: ramp(SIGNED) };

/** NaN and infinities are drawn in this, which neither ramp contains. */
export const NOT_FINITE = 0xff_a7_4f_cc;

export function css(word: number): string {
  return `rgb(${word & 255}, ${(word >> 8) & 255}, ${(word >> 16) & 255})`;
}
