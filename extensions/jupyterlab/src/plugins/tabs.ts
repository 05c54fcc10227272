// Workbenches in tabs beside their notebooks.

import {
  ILabShell,
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin,
} from "@jupyterlab/application";
import { MainAreaWidget, WidgetTracker } from "@jupyterlab/apputils";
import { INotebookTracker } from "@jupyterlab/notebook";
import { icon } from "../icon";
import type { Kernels, Place } from "../kernels";
import type { Settings } from "../settings";
import { SessionTab } from "../tab";
import { IKernels, IOpen, ISettings, type Open } from "../tokens";
import { preload } from "../workbench";

const OPEN = "tapml-nb:open-beside";

/** What a workbench's button sends up; `extensions/widgets/src/beside.ts` is the other end. */
const BESIDE = "tapml-beside";

type Tab = MainAreaWidget<SessionTab>;

const captionOf = ({ path, name, target }: Place): string => `${name} on ${target}, ${path}`;

const nameOf = ({ path, name, target }: Place): string => JSON.stringify([path, name, target]);

export const tabs: JupyterFrontEndPlugin<Open> = {
  id: "tapml-nb:tabs",
  description: "Workbenches of tapml_nb in tabs beside their notebooks",
  autoStart: true,
  provides: IOpen,
  requires: [IKernels, ISettings],
  optional: [ILabShell, ILayoutRestorer, INotebookTracker],
  activate: (
    app: JupyterFrontEnd,
    kernels: Kernels,
    settings: Settings,
    shell: ILabShell | null,
    restorer: ILayoutRestorer | null,
    notebooks: INotebookTracker | null,
  ): Open => {
    if (!shell) return null; // Notebook 7
    const tracker = new WidgetTracker<Tab>({ namespace: "tapml-nb" });
    const openNotebook = (path: string) => void app.commands.execute("docmanager:open", { path });

    const open = (place: Place): void => {
      const known = tracker.find((tab) => nameOf(tab.content.place) === nameOf(place));
      const tab = known ?? make(place);
      if (!tab.isAttached) {
        const notebook = notebooks?.find((panel) => panel.sessionContext.path === place.path);
        const beside = tracker.find((other) => other !== tab && other.isAttached);
        const where = beside
          ? ({ mode: "tab-after", ref: beside.id } as const)
          : ({ mode: "split-right", ref: notebook?.id ?? null } as const);
        shell.add(tab, "main", where);
      }
      shell.activateById(tab.id);
    };

    const make = (place: Place): Tab => {
      const content = new SessionTab(kernels, place, openNotebook);
      const tab: Tab = new MainAreaWidget({ content });
      tab.id = `tapml-nb-${nameOf(place)}`;
      tab.title.label = `${place.name} on ${place.target}`;
      tab.title.caption = captionOf(place);
      tab.title.icon = icon;
      tab.title.closable = true;
      tab.toolbar.hide();
      tab.disposed.connect(settings.dress(content.node));
      void tracker.add(tab);
      return tab;
    };

    kernels.moved.connect((_, { from, to }) =>
      tracker.forEach((tab) => {
        const { content } = tab;
        if (content.place.path !== from) return;
        content.place = { ...content.place, path: to };
        tab.title.caption = captionOf(content.place);
        void tracker.save(tab);
      }),
    );

    app.commands.addCommand(OPEN, {
      label: "Open the workbench beside the notebook",
      execute: (args) => open(args as unknown as Place),
      describedBy: {
        args: {
          type: "object",
          properties: {
            path: { type: "string" },
            name: { type: "string" },
            target: { type: "string" },
          },
          required: ["path", "name", "target"],
        },
      },
    });
    if (restorer) {
      void restorer.restore(tracker, {
        command: OPEN,
        args: (tab) => ({ ...tab.content.place }),
        name: (tab) => nameOf(tab.content.place),
      });
    }

    document.addEventListener(BESIDE, (event) => {
      const { session } = (event as CustomEvent<{ session: string }>).detail;
      const panel = notebooks?.find((one) => one.node.contains(event.target as Node));
      const listed = panel && kernels.called(session, panel.sessionContext.path);
      if (!panel || !listed) return;
      event.preventDefault();
      const { name, target } = listed.facts;
      open({ path: panel.sessionContext.path, name, target });
    });
    document.body.dataset.tapmlBeside = "";
    kernels.changed.connect(preload);
    return open;
  },
};
