// A button that puts the workbench into a tab of its own, where somebody listens who can do that:
// JupyterLab with the extension of `extensions/jupyterlab/`.

import { h } from "./dom";
import type { Store } from "./store";

/** What goes up from the button; `detail.session` is the session's id. */
const EVENT = "tapml-beside";

export function besideButton(store: Store): HTMLElement | false {
  if (!("tapmlBeside" in document.body.dataset)) return false;
  const button = h(
    "button",
    {
      type: "button",
      class: "tapml-beside",
      title: "Show the workbench in a tab beside the notebook, where it stays while cells run",
      onclick: () => {
        const detail = { session: store.session };
        const event = new CustomEvent(EVENT, { detail, bubbles: true, cancelable: true });
        if (button.dispatchEvent(event)) {
          store.complain("The workbench cannot be shown beside: its kernel does not answer");
        }
      },
    },
    "Open beside",
  );
  return button;
}
