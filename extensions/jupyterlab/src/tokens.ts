// What the plugins have of each other.

import { Token } from "@lumino/coreutils";
import type { Kernels, Place } from "./kernels";
import type { Settings } from "./settings";

export const CATEGORY = "tapml_nb";

export const ISettings = new Token<Settings>("tapml-nb:settings");
export const IKernels = new Token<Kernels>("tapml-nb:kernels");

/** Shows a workbench in a tab; where tabs cannot stand beside a notebook, there is none. */
export const IOpen = new Token<(place: Place) => void>("tapml-nb:open");
