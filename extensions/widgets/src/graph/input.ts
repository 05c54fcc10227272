// What the mouse and the keyboard do in the graph.

import type { Box } from "../grid";
import { HEADER, type Node } from "../layout";
import type { Scene } from "./scene";
import type { Viewport } from "./viewport";

const TWICE = 350; // ms between two clicks on a box that move it
const ARROW = 24; // pixels at a scope's left where a click opens it

/** What the graph view does for whoever asks. */
export interface Actions {
  /** Move the keyboard's cursor; the selection follows. */
  point(node: Node): void;
  setOpen(node: Node, open: boolean): void;
  /** Move what is marked, or the cursor's box, between source and target. */
  toggle(): void;
  markOne(): void;
  mark(box: Box): void;
  unmark(): void;
  hover(node: Node | null, x: number, y: number): void;
  fit(): void;
  search(): void;
  repaint(): void;
}

export function listen(
  canvas: HTMLCanvasElement,
  scene: Scene,
  viewport: Viewport,
  act: Actions,
): void {
  listenToPointer(canvas, scene, viewport, act);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey || !event.shiftKey) {
      viewport.zoom(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
    } else {
      viewport.pan(-(event.deltaX || event.deltaY), 0);
    }
  });
  canvas.addEventListener("keydown", (event) => {
    if (!scene.picture || event.altKey || event.ctrlKey || event.metaKey) return;
    if (press(event, scene, viewport, act)) event.preventDefault();
  });
  canvas.addEventListener("focus", () => act.repaint());
  canvas.addEventListener("blur", () => act.repaint());
}

function listenToPointer(
  canvas: HTMLCanvasElement,
  scene: Scene,
  viewport: Viewport,
  act: Actions,
): void {
  let drag: { x: number; y: number; moved: boolean; mark: boolean } | null = null;
  let clicked = 0;
  const plane = (x: number, y: number) => viewport.toPlane({ x, y, w: 0, h: 0 });
  const click = (x: number, y: number) => {
    const at = plane(x, y);
    const node = scene.at(at);
    const again = performance.now() - clicked < TWICE && node === scene.cursor;
    clicked = performance.now();
    if (!node?.parent) {
      act.unmark();
      return;
    }
    act.point(node);
    if (again) {
      clicked = 0;
      act.toggle();
    } else if (node.scope && at.x - node.x < ARROW && (!node.open || at.y - node.y < HEADER)) {
      act.setOpen(node, !node.open);
    }
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus();
    canvas.setPointerCapture(event.pointerId);
    drag = { x: event.offsetX, y: event.offsetY, moved: false, mark: event.shiftKey };
  });
  canvas.addEventListener("pointermove", ({ offsetX: x, offsetY: y }) => {
    if (!drag) return act.hover(scene.at(plane(x, y)), x, y);
    const [dx, dy] = [x - drag.x, y - drag.y];
    drag.moved ||= Math.abs(dx) + Math.abs(dy) > 4;
    if (!drag.moved) return;
    if (drag.mark) {
      const [left, top] = [Math.min(drag.x, x), Math.min(drag.y, y)];
      scene.marquee = { x: left, y: top, w: Math.abs(dx), h: Math.abs(dy) };
      act.repaint();
    } else {
      viewport.pan(dx, dy);
      [drag.x, drag.y] = [x, y];
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const was = drag;
    const { marquee } = scene;
    drag = scene.marquee = null;
    if (marquee) act.mark(viewport.toPlane(marquee));
    else if (was && !was.moved) click(event.offsetX, event.offsetY);
  });
  canvas.addEventListener("pointerleave", () => act.hover(null, 0, 0));
}

const PAN: Record<string, [number, number]> = {
  ArrowUp: [0, 60],
  ArrowDown: [0, -60],
  ArrowLeft: [60, 0],
  ArrowRight: [-60, 0],
};

/** Do what a key asks for; whether it asks for anything. */
export function press(
  event: KeyboardEvent,
  scene: Scene,
  viewport: Viewport,
  act: Actions,
): boolean {
  const { cursor } = scene;
  const { nodes } = scene.picture!;
  const here = cursor ? nodes.indexOf(cursor) : 0;
  const go = (k: number) => {
    if (nodes[k]?.parent) act.point(nodes[k]);
  };
  if (event.shiftKey && event.key in PAN) {
    viewport.pan(...PAN[event.key]!);
    return true;
  }
  const keys: Record<string, () => void> = {
    ArrowDown: () => go(here + 1),
    ArrowUp: () => go(here - 1),
    ArrowRight: () => (cursor?.scope && !cursor.open ? act.setOpen(cursor, true) : go(here + 1)),
    ArrowLeft: () => {
      if (cursor?.open) act.setOpen(cursor, false);
      else if (cursor?.parent?.parent) act.point(cursor.parent);
    },
    Enter: () => cursor && act.setOpen(cursor, !cursor.open),
    " ": () => act.toggle(),
    "/": () => act.search(),
    f: () => act.fit(),
    "+": () => viewport.zoom(1.3),
    "=": () => viewport.zoom(1.3),
    "-": () => viewport.zoom(1 / 1.3),
    m: () => act.markOne(),
    Home: () => go(1),
    End: () => go(nodes.length - 1),
    Escape: () => act.unmark(),
  };
  const key = Object.hasOwn(keys, event.key) ? keys[event.key] : undefined;
  key?.();
  return key !== undefined;
}
