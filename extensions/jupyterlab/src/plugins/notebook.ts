// "New debugging notebook", in the launcher and the palette.

import type { JupyterFrontEnd, JupyterFrontEndPlugin } from "@jupyterlab/application";
import { Dialog, ICommandPalette, showDialog } from "@jupyterlab/apputils";
import { IDefaultFileBrowser } from "@jupyterlab/filebrowser";
import { ILauncher } from "@jupyterlab/launcher";
import { Widget } from "@lumino/widgets";
import { h, select } from "../../../widgets/src/dom";
import { icon } from "../icon";
import { type Settings, TARGETS, type TargetKind } from "../settings";
import { KINDS, type ModelKind, notebookOf } from "../template";
import { CATEGORY, ISettings } from "../tokens";

const NEW = "tapml-nb:new-notebook";

interface Choice {
  kind: ModelKind;
  target: TargetKind;
}

/** What the dialog asks. */
class Question extends Widget implements Dialog.IBodyWidget<Choice> {
  private readonly kinds = select("What kind of model?", Object.entries(KINDS), () => {});
  private readonly targets = select(
    "What is it brought up on?",
    TARGETS.map((target) => [target, target] as const),
    () => {},
  );

  constructor(target: TargetKind) {
    super();
    this.addClass("tapml-question");
    this.targets.value = target;
    for (const choice of [this.kinds, this.targets]) {
      choice.className = "jp-mod-styled";
      this.node.append(h("p", { "aria-hidden": "true" }, choice.title), choice);
    }
  }

  getValue(): Choice {
    return { kind: this.kinds.value as ModelKind, target: this.targets.value as TargetKind };
  }
}

export const notebook: JupyterFrontEndPlugin<void> = {
  id: "tapml-nb:notebook",
  description: "Makes notebooks that debug a model with tapml_nb",
  autoStart: true,
  requires: [ISettings],
  optional: [ICommandPalette, ILauncher, IDefaultFileBrowser],
  activate: (
    app: JupyterFrontEnd,
    settings: Settings,
    palette: ICommandPalette | null,
    launcher: ILauncher | null,
    files: IDefaultFileBrowser | null,
  ) => {
    const { contents, kernelspecs } = app.serviceManager;
    app.commands.addCommand(NEW, {
      label: (args) => (args.isLauncher ? "Debugging notebook" : "New debugging notebook…"),
      caption: "A notebook that finds which kernels of a model are broken on a target",
      icon,
      execute: async (args) => {
        const { button, value } = await showDialog({
          title: "New debugging notebook",
          body: new Question(settings.target),
          buttons: [Dialog.cancelButton(), Dialog.okButton({ label: "Create" })],
          focusNodeSelector: "select",
        });
        if (!button.accept || !value) return;
        await kernelspecs.ready;
        const kernel = kernelspecs.specs?.default ?? "python3";
        const cwd = typeof args.cwd === "string" ? args.cwd : (files?.model.path ?? "");
        const { path } = await contents.newUntitled({ path: cwd, type: "notebook" });
        const content = notebookOf(value.kind, value.target, kernel);
        await contents.save(path, { type: "notebook", format: "json", content });
        await app.commands.execute("docmanager:open", { path, factory: "Notebook" });
      },
      describedBy: { args: { type: "object", properties: { cwd: { type: "string" } } } },
    });
    palette?.addItem({ command: NEW, category: CATEGORY });
    launcher?.add({ command: NEW, category: "Notebook", rank: 100, args: { isLauncher: true } });
  },
};
