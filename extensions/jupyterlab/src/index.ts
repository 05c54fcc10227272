// What JupyterLab loads: each plugin is one thing that tapml_nb adds to it.

import type { JupyterFrontEndPlugin } from "@jupyterlab/application";
import { kernels, settings } from "./plugins/kernels";
import { notebook } from "./plugins/notebook";
import { panel } from "./plugins/panel";
import { tabs } from "./plugins/tabs";
import { viewer } from "./plugins/viewer";

const plugins: JupyterFrontEndPlugin<unknown>[] = [
  settings,
  kernels,
  tabs,
  panel,
  notebook,
  viewer,
];

export default plugins;
