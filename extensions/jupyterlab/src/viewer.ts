// A bundle as a document: opened by a double click, shown by the workbench's own views, no kernel.

import {
  ABCWidgetFactory,
  type DocumentRegistry,
  DocumentWidget,
  TextModelFactory,
} from "@jupyterlab/docregistry";
import type { Contents } from "@jupyterlab/services";
import { Widget } from "@lumino/widgets";
import { h, setText } from "../../widgets/src/dom";
import { StoredModel } from "../../widgets/src/stored";
import { openStored } from "./bundle/stored";
import { mount } from "./workbench";

/** The model of a document whose content its view reads by itself. */
export class UnreadModelFactory extends TextModelFactory {
  override get name(): string {
    return "tapml-nb-unread";
  }
  override get fileFormat(): Contents.FileFormat {
    return null;
  }
}

export class BundleViewer extends Widget {
  private readonly header = h("p", { class: "tapml-stored", role: "status" });
  private readonly host = h("div", { class: "tapml-host" });
  private turn = 0;
  private end = () => {};

  constructor(
    private readonly context: DocumentRegistry.Context,
    private readonly fetchBlob: (path: string) => Promise<Blob>,
  ) {
    super();
    this.addClass("tapml-viewer");
    this.node.append(this.header, this.host);
    void context.ready.then(() => this.load());
    context.fileChanged.connect(this.load, this);
  }

  override dispose(): void {
    if (this.isDisposed) return;
    this.turn++;
    this.context.fileChanged.disconnect(this.load, this);
    this.end();
    super.dispose();
  }

  private async load(): Promise<void> {
    const turn = ++this.turn;
    this.end();
    this.end = () => {};
    setText(this.header, "Reading the bundle …");
    try {
      const stored = await openStored(await this.fetchBlob(this.context.path));
      if (turn !== this.turn) return;
      setText(this.header, stored.title);
      const end = await mount(new StoredModel(stored), this.host);
      if (turn !== this.turn) end();
      else this.end = end;
    } catch (error) {
      if (turn !== this.turn) return;
      setText(this.header, `${this.context.path} cannot be shown: ${(error as Error).message}`);
    }
  }
}

export class BundleViewerFactory extends ABCWidgetFactory<DocumentWidget<BundleViewer>> {
  constructor(
    options: DocumentRegistry.IWidgetFactoryOptions,
    private readonly fetchBlob: (path: string) => Promise<Blob>,
  ) {
    super(options);
  }

  protected createNewWidget(context: DocumentRegistry.Context): DocumentWidget<BundleViewer> {
    const content = new BundleViewer(context, this.fetchBlob);
    const widget = new DocumentWidget({ content, context });
    widget.toolbar.hide();
    return widget;
  }
}
