// A report's page: the workbench's views over what the page itself holds (tapml_nb/report/live.py).

import workbench from "./main";
import type { CallArguments, Commands, Facts } from "./messages";
import type { Snapshot } from "./protocol";
import { type Answered, REST, type Stored, StoredModel } from "./stored";

/** Where Python put it. */
const PLACE = "tapml-report";

interface Content {
  message: Omit<Snapshot, "seq" | "session" | "commands" | "overrides" | "status" | "ui">;
  /** In base64. */
  buffers: string[];
  /** Of operators, by number and step: `"7:0"`. */
  facts: Record<string, Facts>;
}

class StoredReport implements Stored {
  readonly views = ["graph", "inspector", "plot", "heatmap", "table"];

  constructor(private readonly content: Content) {}

  get title(): string {
    return this.content.message.name;
  }

  snapshot(): { message: Omit<Snapshot, "seq">; buffers: ArrayBuffer[] } {
    const { message, buffers } = this.content;
    return {
      message: {
        ...message,
        session: "",
        commands: ["inspect"],
        tensors: [],
        overrides: {},
        status: REST,
        ui: {},
      },
      buffers: buffers.map(bytes),
    };
  }

  async answer(name: keyof Commands, args: Record<string, unknown>): Promise<Answered> {
    if (name === "select" || name === "remember") return { value: null, buffers: [] };
    if (name !== "inspect")
      throw new Error("this page is a report, and no session stands behind it");
    const { op, step } = args as unknown as CallArguments;
    const facts = this.content.facts[`${op}:${step}`];
    if (!facts) throw new Error("it is one of too many operators for this page to tell more of");
    return { value: facts, buffers: [] };
  }
}

function bytes(text: string): ArrayBuffer {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

const place = document.getElementById(PLACE)!;
const content = JSON.parse(place.querySelector("script")!.textContent!) as Content;
const model = new StoredModel(new StoredReport(content));
const host = document.createElement("div");
place.append(host);
workbench.initialize({ model });
workbench.render({ model, el: host });
