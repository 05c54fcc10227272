// The viewer of bundles, and the command that opens one.

import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin,
} from "@jupyterlab/application";
import { ICommandPalette, WidgetTracker } from "@jupyterlab/apputils";
import { IDocumentManager } from "@jupyterlab/docmanager";
import type { DocumentWidget } from "@jupyterlab/docregistry";
import { FileDialog } from "@jupyterlab/filebrowser";
import { ServerConnection } from "@jupyterlab/services";
import { icon } from "../icon";
import type { Settings } from "../settings";
import { CATEGORY, ISettings } from "../tokens";
import { type BundleViewer, BundleViewerFactory, UnreadModelFactory } from "../viewer";

const OPEN = "tapml-nb:open-bundle";
const EXTENSION = ".tapml";
const FACTORY = "Bundle of carved tests";

export const viewer: JupyterFrontEndPlugin<void> = {
  id: "tapml-nb:viewer",
  description: "Shows bundles of carved tests without a kernel",
  autoStart: true,
  requires: [ISettings, IDocumentManager],
  optional: [ICommandPalette, ILayoutRestorer],
  activate: (
    app: JupyterFrontEnd,
    settings: Settings,
    documents: IDocumentManager,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
  ) => {
    const { docRegistry } = app;
    docRegistry.addFileType({
      name: "tapml-bundle",
      displayName: FACTORY,
      extensions: [EXTENSION],
      mimeTypes: ["application/vnd.tapml.bundle"],
      contentType: "file",
      fileFormat: "base64",
      icon,
    });
    const { contents, serverSettings } = app.serviceManager;
    const fetchBlob = async (path: string): Promise<Blob> => {
      const url = await contents.getDownloadUrl(path);
      const response = await ServerConnection.makeRequest(url, {}, serverSettings);
      if (!response.ok) throw new ServerConnection.ResponseError(response);
      return await response.blob();
    };
    const model = new UnreadModelFactory();
    docRegistry.addModelFactory(model);
    const factory = new BundleViewerFactory(
      {
        name: FACTORY,
        modelName: model.name,
        fileTypes: ["tapml-bundle"],
        defaultFor: ["tapml-bundle"],
        readOnly: true,
      },
      fetchBlob,
    );
    docRegistry.addWidgetFactory(factory);
    const tracker = new WidgetTracker<DocumentWidget<BundleViewer>>({
      namespace: "tapml-nb-bundles",
    });
    factory.widgetCreated.connect((_, widget) => {
      widget.title.icon = icon;
      const undress = settings.dress(widget.content.node);
      widget.disposed.connect(undress);
      void tracker.add(widget);
    });
    void restorer?.restore(tracker, {
      command: "docmanager:open",
      args: (widget) => ({ path: widget.context.path, factory: FACTORY }),
      name: (widget) => widget.context.path,
    });

    app.commands.addCommand(OPEN, {
      label: "Open a bundle…",
      caption: "Show a bundle of carved tests (*.tapml)",
      icon,
      execute: async () => {
        const { value } = await FileDialog.getOpenFiles({
          manager: documents,
          title: "Open a bundle",
          filter: ({ name, type }) =>
            type === "directory" || name.endsWith(EXTENSION) ? {} : null,
        });
        for (const { path, type } of value ?? []) {
          if (type !== "directory") documents.openOrReveal(path, FACTORY);
        }
      },
      describedBy: { args: { type: "object", properties: {} } },
    });
    palette?.addItem({ command: OPEN, category: CATEGORY });
  },
};
