// Names cut to what an axis has room for, so that they stay apart; `tapml_nb/report/labels.py` does
// the same, and says why.

import { shorten } from "../format";

type Word = [mark: string, word: string];

/** A label of at most `most` characters for each name; different names, different labels. */
export function apart(names: readonly string[], most: number): string[] {
  let whole = names.map(plain);
  if (new Set(whole).size < new Set(names).size) whole = [...names]; // "aten." told two apart
  const words = whole.map(wordsOf);
  const common = new Map<string, number>();
  for (const of of words)
    for (const word of new Set(of.map(([, word]) => word)))
      common.set(word, (common.get(word) ?? 0) + 1);
  const labels = whole.map((name, k) =>
    name.length <= most ? name : cut(words[k]!, common, most),
  );
  return numbered(whole, labels, most);
}

/** A kind in fewer letters: without the library's name, repeated calls as a number. */
function plain(name: string): string {
  const runs: [string, number][] = [];
  for (const part of name.split("+")) {
    const call = part.replace(/^aten\./, "");
    const last = runs[runs.length - 1];
    if (last?.[0] === call) last[1]++;
    else runs.push([call, 1]);
  }
  return runs.map(([call, n]) => (n === 1 ? call : `${call}*${n}`)).join("+");
}

function wordsOf(name: string): Word[] {
  return [...name.matchAll(/([+./]?)([^+./]*)/g)]
    .map((match): Word => [match[1]!, match[2]!])
    .filter(([mark, word]) => mark || word);
}

/** The words that fewest other names have, of those the last, as far as there is room. */
function cut(words: readonly Word[], common: Map<string, number>, most: number): string {
  const kept = new Set<number>();
  const rare = (k: number) => common.get(words[k]![1])!;
  const order = [...words.keys()].sort((a, b) => rare(a) - rare(b) || b - a);
  for (const k of order) {
    kept.add(k);
    if (joined(words, kept).length > most) kept.delete(k);
  }
  return kept.size ? joined(words, kept) : shorten(words[order[0]!]![1], most);
}

function joined(words: readonly Word[], kept: Set<number>): string {
  let text = "";
  let last = -1;
  for (const k of [...kept].sort((a, b) => a - b)) {
    const [mark, word] = words[k]!;
    text += k === last + 1 ? mark + word : `…${word}`;
    last = k;
  }
  return last === words.length - 1 ? text : `${text}…`;
}

/** Labels that several names share, with a number each. */
function numbered(names: readonly string[], labels: readonly string[], most: number): string[] {
  const sharing = new Map<string, Map<string, number>>();
  labels.forEach((label, k) => {
    const of = sharing.get(label) ?? new Map<string, number>();
    sharing.set(label, of);
    if (!of.has(names[k]!)) of.set(names[k]!, of.size + 1);
  });
  return labels.map((label, k) => {
    const of = sharing.get(label)!;
    if (of.size < 2) return label;
    const mark = ` (${of.get(names[k]!)})`;
    return shorten(label, most - mark.length) + mark;
  });
}
