// What the plugins have of each other.

import { Token } from "@lumino/coreutils";
import type { Kernels, Place } from "./kernels";
import type { Settings } from "./settings";

export const CATEGORY = "tapml_nb";

export const ISettings = new Token<Settings>("tapml-nb:settings");
export const IKernels = new Token<Kernels>("tapml-nb:kernels");

/** Shows a workbench in a tab; null where tabs cannot stand beside a notebook. */
export type Open = ((place: Place) => void) | null;
export const IOpen = new Token<Open>("tapml-nb:open");
