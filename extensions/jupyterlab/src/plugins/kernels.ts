// The running kernels with their sessions, and the settings: what all other plugins build on.

import type { JupyterFrontEndPlugin } from "@jupyterlab/application";
import { ISettingRegistry } from "@jupyterlab/settingregistry";
import { Kernels } from "../kernels";
import { Settings } from "../settings";
import { IKernels, ISettings } from "../tokens";
import { addSheet } from "../workbench";

const PLUGIN = "tapml-nb:plugin";

export const settings: JupyterFrontEndPlugin<Settings> = {
  id: PLUGIN,
  description: "The settings of tapml_nb's extension",
  autoStart: true,
  provides: ISettings,
  optional: [ISettingRegistry],
  activate: (_, registry: ISettingRegistry | null) => {
    addSheet("workbench.css");
    addSheet("style.css");
    const chosen = new Settings();
    if (registry) {
      chosen.follow(registry, PLUGIN).catch((error) => console.warn("tapml_nb: settings", error));
    }
    return chosen;
  },
};

export const kernels: JupyterFrontEndPlugin<Kernels> = {
  id: "tapml-nb:kernels",
  description: "The sessions of tapml_nb in all running kernels",
  autoStart: true,
  provides: IKernels,
  requires: [ISettings],
  activate: (app, chosen: Settings) => {
    const found = new Kernels(app.serviceManager, chosen.refresh);
    chosen.changed.connect(() => found.setPace(chosen.refresh));
    return found;
  },
};
