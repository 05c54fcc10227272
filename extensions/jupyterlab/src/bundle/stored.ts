// What a viewer shows: something that was stored, and answers what a session's feed would, as far as
// it can without a session.

import type { Commands } from "../../../widgets/src/messages";
import type { Snapshot } from "../../../widgets/src/protocol";
import { BundleFile } from "./bundle";
import { Zip, ZipError } from "./zip";

export interface Answered {
  value: unknown;
  buffers: ArrayBuffer[];
}

export interface Stored {
  /** What it is, in a line. */
  readonly title: string;
  readonly views: readonly string[];
  snapshot(): { message: Omit<Snapshot, "seq">; buffers: ArrayBuffer[] };
  /** Raises an error, in words for people, where it has no answer. */
  answer(name: keyof Commands, args: Record<string, unknown>): Promise<Answered>;
}

const MANIFEST = "manifest.json";

/** What is in a file, by its manifest; an error says why nothing is. */
export async function openStored(blob: Blob): Promise<Stored> {
  const zip = await Zip.open(blob);
  if (!zip.has(MANIFEST)) throw new ZipError(`it has no ${MANIFEST}`);
  const bytes = await zip.read(MANIFEST);
  let manifest: unknown;
  try {
    manifest = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new ZipError(`its ${MANIFEST} is no JSON: ${(error as Error).message}`);
  }
  return BundleFile.of(zip, manifest);
}
