// The whole graph in a corner, and which part of it is in view.

import { fitCanvas, h } from "../dom";
import type { Painter } from "./painter";
import type { Scene } from "./scene";
import type { Viewport } from "./viewport";

const WIDTH = 110;
const HEIGHT = 130;

export class Minimap {
  readonly element = h("canvas", { class: "tapml-minimap", "aria-hidden": "true" });
  private image: HTMLCanvasElement | null = null;

  constructor(
    private scene: Scene,
    private viewport: Viewport,
    private painter: Painter,
  ) {
    this.element.addEventListener("pointerdown", (event) => this.jump(event));
    this.element.addEventListener("pointermove", (event) => event.buttons && this.jump(event));
  }

  /** The page's pixels may have another size. */
  resize(): void {
    fitCanvas(this.element, WIDTH, HEIGHT);
  }

  /** Results, layout or theme have changed. */
  forget(): void {
    this.image = null;
  }

  draw(): void {
    const context = this.element.getContext("2d", { willReadFrequently: true })!;
    const dpr = devicePixelRatio || 1;
    const { factor, x, y } = this.place();
    this.image ??= this.paint();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(this.image, 0, 0);
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    context.strokeStyle = this.painter.theme.accent;
    context.lineWidth = 1.5;
    const view = this.viewport.box;
    const left = Math.max(1, x + view.x * factor);
    const top = Math.max(1, y + view.y * factor);
    const right = Math.min(WIDTH - 1, x + (view.x + view.w) * factor);
    const bottom = Math.min(HEIGHT - 1, y + (view.y + view.h) * factor);
    context.strokeRect(left, top, Math.max(3, right - left), Math.max(3, bottom - top));
  }

  private place(): { factor: number; x: number; y: number } {
    const { width, height } = this.scene.picture!;
    const factor = Math.min((WIDTH - 8) / width, (HEIGHT - 8) / height);
    return { factor, x: (WIDTH - width * factor) / 2, y: (HEIGHT - height * factor) / 2 };
  }

  private paint(): HTMLCanvasElement {
    const { painter, scene } = this;
    const { theme } = painter;
    const { factor, x, y } = this.place();
    const canvas = h("canvas");
    fitCanvas(canvas, WIDTH, HEIGHT);
    const image = canvas.getContext("2d", { willReadFrequently: true })!;
    const dpr = devicePixelRatio || 1;
    image.setTransform(dpr, 0, 0, dpr, 0, 0);
    image.fillStyle = theme.back;
    image.fillRect(0, 0, WIDTH, HEIGHT);
    for (const n of scene.picture!.leaves) {
      const fill = painter.fillOf(n);
      const [w, height] = [Math.max(1, n.w * factor), Math.max(1, n.h * factor)];
      image.fillStyle = fill === theme.raised ? theme.border : fill;
      image.fillRect(x + n.x * factor, y + n.y * factor, w, height);
    }
    for (const n of scene.faulty()) {
      const [w, height] = [Math.max(3, n.w * factor), Math.max(3, n.h * factor)];
      image.fillStyle = painter.fillOf(n);
      image.fillRect(x + n.x * factor - 1, y + n.y * factor - 1, w, height);
    }
    return canvas;
  }

  private jump(event: PointerEvent): void {
    if (!this.scene.picture) return;
    const { factor, x, y } = this.place();
    this.viewport.centreAt((event.offsetX - x) / factor, (event.offsetY - y) / factor);
  }
}
