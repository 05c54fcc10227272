// A workbench in a tab. It belongs to a notebook, a model and a target, and shows the newest session
// of these: cells may run again, be cleared or go, and the page may be loaded anew.

import { Widget } from "@lumino/widgets";
import { h, setText } from "../../widgets/src/dom";
import type { Kernels, Listed, Place } from "./kernels";
import { SessionModel } from "./session";
import { mount } from "./workbench";

export class SessionTab extends Widget {
  private readonly notice = h("p", { class: "tapml-notice", role: "status", hidden: true });
  private shown: { id: string; made: number; line: unknown } | undefined;
  private model: SessionModel | undefined;
  private end = () => {};

  constructor(
    private readonly kernels: Kernels,
    public place: Place,
    private readonly openNotebook: (path: string) => void,
  ) {
    super();
    this.addClass("tapml-tab");
    this.node.append(this.notice);
    kernels.changed.connect(this.follow, this);
    this.follow();
  }

  override dispose(): void {
    if (this.isDisposed) return;
    this.kernels.changed.disconnect(this.follow, this);
    this.end();
    super.dispose();
  }

  private follow(): void {
    const listed = this.kernels.at(this.place);
    if (listed) this.present(listed);
    const text = listed ? this.silence(listed) : this.absence();
    this.notice.hidden = !text;
    this.toggleClass("tapml-gone", !listed && !!this.shown);
    if (this.notice.firstChild?.textContent === text) return;
    const open = h(
      "button",
      { type: "button", class: "jp-Button", onclick: () => this.openNotebook(this.place.path) },
      "Open the notebook",
    );
    this.notice.replaceChildren(h("span", {}, text), ...(text ? [open] : []));
  }

  /** Why there is nothing to see yet of a session that is there. */
  private silence({ path, line }: Listed): string {
    if (this.model?.heard || !line.busy) return "";
    return `Waiting for the kernel of ${path}, which is at work.`;
  }

  /** Why there is nothing new to see. */
  private absence(): string {
    const { path, name, target } = this.place;
    const line = this.kernels.line(path);
    const what = `the session of ${name} on ${target}`;
    const last = this.shown ? " Below is what it told last." : "";
    if (!line) return `Waiting for the kernel: none runs for ${path}.${last}`;
    if (line.busy) return `Waiting for the kernel of ${path}, which is at work.${last}`;
    return `Waiting for the kernel: in ${path} no cell has made ${what} yet.${last}`;
  }

  private present({ facts, line }: Listed): void {
    const { shown } = this;
    if (shown?.id === facts.id && shown.made === facts.made && shown.line === line) return;
    this.shown = { id: facts.id, made: facts.made, line };
    this.end();
    const model = new SessionModel(line, facts.id, () => this.follow());
    this.model = model;
    const host = h("div", { class: "tapml-host" });
    let unmount = () => {};
    let ended = false;
    this.end = () => {
      ended = true;
      unmount();
      model.dispose();
      host.remove();
    };
    this.node.append(host);
    mount(model, host).then(
      (end) => {
        if (ended) end();
        else unmount = end;
      },
      (error: Error) => setText(host, `The workbench could not be loaded: ${error.message}`),
    );
  }
}
