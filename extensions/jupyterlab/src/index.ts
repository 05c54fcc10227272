// What JupyterLab loads: each plugin is one thing that tapml_nb adds to it.

import type { JupyterFrontEndPlugin } from "@jupyterlab/application";
import { kernels, settings } from "./plugins/kernels";
import { panel } from "./plugins/panel";
import { tabs } from "./plugins/tabs";

const plugins: JupyterFrontEndPlugin<unknown>[] = [settings, kernels, tabs, panel];

export default plugins;
