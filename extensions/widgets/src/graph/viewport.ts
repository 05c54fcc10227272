// Which part of the plane a canvas shows: scale and offset, in CSS pixels.

import type { Box } from "../grid";

const MARGIN = 24;
const SCALES = { least: 0.002, most: 2, fit: 1.1, readable: 0.5, first: 0.85 };

interface Plane {
  width: number;
  height: number;
}

export class Viewport {
  width = 0;
  height = 0;
  scale = 1;
  left = 0;
  top = 0;

  constructor(private changed: () => void) {}

  /** The part of the plane that is in view. */
  get box(): Box {
    return this.toPlane({ x: 0, y: 0, w: this.width, h: this.height });
  }

  /** A rectangle of the canvas as one of the plane. */
  toPlane({ x, y, w, h }: Box): Box {
    const { left, top, scale } = this;
    return { x: (x - left) / scale, y: (y - top) / scale, w: w / scale, h: h / scale };
  }

  /** Show the whole plane. */
  fit({ width, height }: Plane): void {
    const across = (this.width - 2 * MARGIN) / width;
    this.scale = Math.min(SCALES.fit, across, (this.height - 2 * MARGIN) / height);
    this.left = (this.width - width * this.scale) / 2;
    this.top = Math.max(MARGIN, (this.height - height * this.scale) / 2);
    this.changed();
  }

  /** Show the whole plane where it can be read so; else its beginning. */
  begin(plane: Plane): void {
    this.fit(plane);
    if (this.scale >= SCALES.readable) return;
    this.scale = SCALES.first;
    this.left = (this.width - plane.width * this.scale) / 2;
    this.top = MARGIN;
  }

  /** Zoom around a point of the canvas. */
  zoom(factor: number, x = this.width / 2, y = this.height / 2): void {
    const scale = Math.min(SCALES.most, Math.max(SCALES.least, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.changed();
  }

  pan(dx: number, dy: number): void {
    this.left += dx;
    this.top += dy;
    this.changed();
  }

  /** Bring a point of the plane into the middle. */
  centreAt(x: number, y: number): void {
    this.left = this.width / 2 - x * this.scale;
    this.top = this.height / 2 - y * this.scale;
    this.changed();
  }

  /** Bring a box into the middle; of a tall one, its beginning. */
  centre({ x, y, w, h }: Box): void {
    this.centreAt(x + w / 2, y + Math.min(h / 2, 200));
  }

  /** Bring a box into view, if it is not. */
  show(box: Box): void {
    if (!this.holds(box)) this.centre(box);
  }

  holds(box: Box): boolean {
    const x = box.x * this.scale + this.left;
    const y = box.y * this.scale + this.top;
    const right = x + box.w * this.scale;
    return x > -10 && y > -10 && right < this.width + 10 && y < this.height - 10;
  }
}
