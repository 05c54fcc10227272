// Makes the page it runs in a target: the whole of a page that a link opens, or a widget in a
// notebook. It waits at the target server until a session wants a device, serves it, and waits
// for the next one.

import { h } from "./dom";
import { type Description, Gpu, type Work } from "./gpu";
import type { Model } from "./store";

const CHUNK = 4 << 20; // servers in between drop larger messages
const PAUSE = 1000; // milliseconds before another attempt

type State =
  | { is: "waiting" | "serving"; device: Description }
  | { is: "opening" | "stuck" | "gone" }
  | { is: "unable"; why: string };

class Page {
  private ended = false;
  private socket: WebSocket | undefined;

  /** Serve whoever is behind one of the addresses, tried in turn; `tell` hears how it goes. */
  constructor(
    private addresses: string[],
    private tell: (state: State) => void,
  ) {
    void this.live();
  }

  close(): void {
    this.ended = true;
    this.socket?.close();
  }

  private async live(): Promise<void> {
    for (let attempt = 0; !this.ended; attempt++) {
      let gpu: Gpu;
      try {
        this.tell({ is: "opening" });
        const stuck = setTimeout(() => this.tell({ is: "stuck" }), 10 * PAUSE);
        gpu = await Gpu.open().finally(() => clearTimeout(stuck));
      } catch (error) {
        this.tell({ is: "unable", why: (error as Error).message });
        await sleep(5 * PAUSE);
        continue;
      }
      const opened = await this.serve(gpu, this.addresses[attempt % this.addresses.length]!);
      gpu.close();
      if (this.ended) return;
      if (opened) {
        attempt--; // this address is the right one
        await sleep(PAUSE / 10);
      } else {
        this.tell({ is: "gone" });
        await sleep(Math.min(PAUSE * (attempt + 1), 10 * PAUSE));
      }
    }
  }

  /** One device's life at the server; whether there was a server. */
  private serve(gpu: Gpu, address: string): Promise<boolean> {
    const socket = (this.socket = new WebSocket(address));
    socket.binaryType = "arraybuffer";
    let opened = false;
    let order: { works: Work[]; size: number } | undefined;
    let chunks: Uint8Array[] = [];
    let turn = Promise.resolve();
    const answer = (header: object, data: Uint8Array[] = []) => {
      if (socket.readyState !== WebSocket.OPEN) return;
      const size = data.reduce((sum, part) => sum + part.length, 0);
      socket.send(JSON.stringify({ ...header, size }));
      const whole = join(data, size);
      for (let at = 0; at < size; at += CHUNK) socket.send(whole.subarray(at, at + CHUNK));
    };
    const act = async (works: Work[], data: Uint8Array<ArrayBuffer>) => {
      try {
        answer({}, await gpu.do(works, data));
      } catch (error) {
        answer({ error: (error as Error).message });
      }
    };
    void gpu.lost.then((why) => {
      answer({ lost: why });
      socket.close();
    });
    socket.onopen = () => {
      opened = true;
      this.tell({ is: "waiting", device: gpu.description });
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") {
        const request = JSON.parse(data);
        if (request.begin) {
          this.tell({ is: "serving", device: gpu.description });
          answer({ device: gpu.description });
          return;
        }
        order = request;
      } else {
        chunks.push(new Uint8Array(data as ArrayBuffer));
      }
      const here = chunks.reduce((sum, part) => sum + part.length, 0);
      if (!order || here < order.size) return;
      const [{ works }, whole] = [order, join(chunks, here)];
      [order, chunks] = [undefined, []];
      turn = turn.then(() => act(works, whole));
    };
    return new Promise((done) => (socket.onclose = () => done(opened)));
  }
}

function join(parts: Uint8Array[], size: number): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const sleep = (milliseconds: number) => new Promise((done) => setTimeout(done, milliseconds));

function words(state: State): string {
  switch (state.is) {
    case "opening":
      return "Asking the browser for its GPU …";
    case "stuck":
      return (
        "The browser's GPU does not answer; a kernel may never end in it. End the browser's GPU " +
        "process (in Chrome: its task manager), or the browser, and open this page again."
      );
    case "waiting":
      return `Ready: ${state.device.name}. Kernels will run here when the session calls.`;
    case "serving":
      return `This page is the target: ${state.device.name}. Keep it open.`;
    case "gone":
      return "The session has ended, or cannot be reached. Trying again …";
    case "unable":
      return `This page cannot be the target: ${state.why}`;
  }
}

/** Whether the page comes from this machine, or from what seems to be it. */
const local = () => ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

/** The target server's page by way of the Jupyter server that this page is from. */
function relayed(port: number, key: string): string {
  const config = document.getElementById("jupyter-config-data")?.textContent;
  const base = (config ? (JSON.parse(config).baseUrl as string | undefined) : undefined) ?? "/";
  return new URL(`${base}tapml-nb/${port}/${key}/`, location.href).href;
}

function socketOf(page: string): string {
  const address = new URL("device", page);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return address.href;
}

/** Where a notebook's page finds the target server: directly, or through its Jupyter server. */
function addresses(port: number, key: string): string[] {
  const there = socketOf(relayed(port, key));
  // A Jupyter server that seems to be on this machine may come through a tunnel.
  return local() ? [`ws://127.0.0.1:${port}/${key}/device`, there] : [there];
}

const pages = new Map<string, { page: Page; state: State; views: Set<(state: State) => void> }>();

function initialize({ model }: { model: Model }): () => void {
  const key = model.get("_key") as string;
  const entry = { views: new Set<(state: State) => void>(), state: { is: "opening" } as State };
  const page = new Page(addresses(model.get("_port") as number, key), (state) => {
    entry.state = state;
    for (const view of entry.views) view(state);
  });
  pages.get(key)?.page.close();
  pages.set(key, Object.assign(entry, { page }));
  return () => page.close();
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const line = h("span", { role: "status", class: "tapml-page-state" });
  const away = () => relayed(model.get("_port") as number, model.get("_key") as string);
  const link = local() ? (model.get("link") as string) : away();
  const elsewhere = h("a", { href: link, target: "_blank", rel: "noopener" }, link);
  el.append(
    h("div", { class: "tapml-page" }, line, h("br"), "Or open in another browser: ", elsewhere),
  );
  const entry = pages.get(model.get("_key") as string)!;
  const view = (state: State) => {
    line.textContent = words(state);
    line.dataset.state = state.is;
  };
  view(entry.state);
  entry.views.add(view);
  return () => void entry.views.delete(view);
}

/** What the page behind a link calls. */
export function serve(line: HTMLElement): void {
  new Page([socketOf(location.href)], (state) => {
    line.textContent = words(state);
    line.dataset.state = state.is;
  });
}

export default { initialize, render };
