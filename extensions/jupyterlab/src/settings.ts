// What people have set; `schema/plugin.json` says what there is.

import type { ISettingRegistry } from "@jupyterlab/settingregistry";
import { Signal } from "@lumino/signaling";

export const TARGETS = ["llvm", "c", "cuda", "opencl", "webgpu"] as const;
export type TargetKind = (typeof TARGETS)[number];
export type Colours = "theme" | "light" | "dark";

export class Settings {
  readonly changed = new Signal<this, void>(this);
  target: TargetKind = "llvm";
  /** Seconds. */
  refresh = 1;
  colours: Colours = "theme";

  /** Follow a registry; without one the defaults hold. */
  async follow(registry: ISettingRegistry, plugin: string): Promise<void> {
    const settings = await registry.load(plugin);
    const take = () => {
      const { target, refresh, colours } = settings.composite as Partial<Settings>;
      Object.assign(this, { target, refresh, colours });
      this.changed.emit();
    };
    settings.changed.connect(take);
    take();
  }

  /** Have an element show the colours that are set, until the function that comes back is called. */
  dress(element: HTMLElement): () => void {
    const dress = () => {
      element.classList.toggle("tapml-light", this.colours === "light");
      element.classList.toggle("tapml-dark", this.colours === "dark");
    };
    this.changed.connect(dress);
    dress();
    return () => void this.changed.disconnect(dress);
  }
}
