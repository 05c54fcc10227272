// The widgets' own front end, put up where no widget is: it wants a model to talk to, and who
// stands behind that model it does not ask.

import { PageConfig, URLExt } from "@jupyterlab/coreutils";
import type { Model } from "../../widgets/src/store";

interface FrontEnd {
  initialize(given: { model: Model }): () => void;
  render(given: { model: Model; el: HTMLElement }): () => void;
}

const address = (name: string): string =>
  URLExt.join(PageConfig.getOption("fullLabextensionsUrl"), "tapml-nb", "static", name);

let loaded: Promise<FrontEnd> | undefined;

function load(): Promise<FrontEnd> {
  loaded ??= import(address("workbench.js")).then((module) => module.default as FrontEnd);
  loaded.catch(() => (loaded = undefined)); // the next one tries again
  return loaded;
}

/** Have the front end there before somebody wants to see something; who does will hear of failures. */
export function preload(): void {
  load().catch(() => undefined);
}

/** Have the page use a sheet that lies beside this script. */
export function addSheet(name: string): void {
  const sheet = document.createElement("link");
  sheet.rel = "stylesheet";
  sheet.href = address(name);
  document.head.append(sheet);
}

/** Show what a model tells in an element; the function that comes back ends it. */
export async function mount(model: Model, el: HTMLElement): Promise<() => void> {
  const front = await load();
  const forget = front.initialize({ model });
  const remove = front.render({ model, el });
  return () => {
    remove();
    forget();
  };
}
