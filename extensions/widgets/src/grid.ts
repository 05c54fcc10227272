// A uniform grid over the plane: what is near a rectangle, without looking at the rest.

export interface Box {
  x: number;
  y: number;
  w: number;
  h: number;
}

const CELL = 400;
const MOST_CELLS = 20_000;

export class Grid<T> {
  private readonly cell: number;
  private readonly columns: number;
  private readonly rows: number;
  private readonly cells: T[][];
  private seen = new Set<T>();

  constructor(width: number, height: number) {
    this.cell = Math.max(CELL, Math.sqrt((width * height) / MOST_CELLS));
    this.columns = Math.max(1, Math.ceil(width / this.cell));
    this.rows = Math.max(1, Math.ceil(height / this.cell));
    this.cells = Array.from({ length: this.columns * this.rows }, () => []);
  }

  add(item: T, box: Box): void {
    this.walk(box, (cell) => cell.push(item));
  }

  /** Everything whose box may touch this one, each once. */
  near(box: Box): Set<T> {
    this.seen = new Set();
    this.walk(box, (cell) => {
      for (const item of cell) this.seen.add(item);
    });
    return this.seen;
  }

  private walk(box: Box, visit: (cell: T[]) => void): void {
    const clamp = (value: number, most: number) =>
      Math.min(most, Math.max(0, Math.floor(value / this.cell)));
    const right = clamp(box.x + box.w, this.columns - 1);
    const bottom = clamp(box.y + box.h, this.rows - 1);
    for (let row = clamp(box.y, this.rows - 1); row <= bottom; row++) {
      for (let column = clamp(box.x, this.columns - 1); column <= right; column++) {
        visit(this.cells[row * this.columns + column]!);
      }
    }
  }
}
