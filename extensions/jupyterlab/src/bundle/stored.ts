// What a file holds that a viewer shows.

import type { Stored } from "../../../widgets/src/stored";
import { BundleFile } from "./bundle";
import { Zip, ZipError } from "./zip";

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
