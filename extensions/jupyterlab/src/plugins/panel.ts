// The panel of all sessions, at the left.

import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin,
} from "@jupyterlab/application";
import { ICommandPalette } from "@jupyterlab/apputils";
import type { Kernels, Listed } from "../kernels";
import { SessionPanel } from "../panel";
import { CATEGORY, IKernels, IOpen, type Open } from "../tokens";

const SHOW = "tapml-nb:show-sessions";

export const panel: JupyterFrontEndPlugin<void> = {
  id: "tapml-nb:panel",
  description: "A panel of all sessions of tapml_nb",
  autoStart: true,
  requires: [IKernels],
  optional: [IOpen, ICommandPalette, ILayoutRestorer],
  activate: (
    app: JupyterFrontEnd,
    kernels: Kernels,
    open: Open,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
  ) => {
    const choose = ({ path, facts: { name, target } }: Listed) => {
      if (open) open({ path, name, target });
      else void app.commands.execute("docmanager:open", { path });
    };
    const sessions = new SessionPanel(kernels, choose);
    app.shell.add(sessions, "left", { rank: 650 });
    restorer?.add(sessions, sessions.id);
    app.commands.addCommand(SHOW, {
      label: "Show the debugging sessions",
      execute: () => app.shell.activateById(sessions.id),
      describedBy: { args: { type: "object", properties: {} } },
    });
    palette?.addItem({ command: SHOW, category: CATEGORY });
  },
};
