// Elements without HTML strings: text from models only ever becomes a text node.

type Child = Node | string | null | undefined | false;
type Attributes = Record<string, unknown>;

/** Make an element. `on…` attributes are listeners, `true` a bare attribute, `false` none. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value as EventListener);
    } else if (name.startsWith("aria-")) {
      element.setAttribute(name, String(value)); // there, false says something, too
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  element.append(...children.filter((child): child is Node | string => !!child || child === ""));
  return element;
}

/** A labelled choice. */
export function select(
  label: string,
  choices: readonly (readonly [value: string, text: string])[],
  onchange: (value: string) => void,
): HTMLSelectElement {
  const element = h("select", { "aria-label": label, title: label });
  setChoices(element, choices);
  element.addEventListener("change", () => onchange(element.value));
  return element;
}

/** Replace a select's choices, keeping the chosen one where it still exists. */
export function setChoices(
  element: HTMLSelectElement,
  choices: readonly (readonly [value: string, text: string])[],
): void {
  const before = element.value;
  element.replaceChildren(...choices.map(([value, text]) => h("option", { value }, text)));
  if (choices.some(([value]) => value === before)) element.value = before;
}

/**
 * Give an element these children and no others. Those that it has already stay: a press that begins
 * on one ends on it, or it would be no click; and focus is not lost.
 */
export function keepChildren(element: Element, children: readonly Element[]): void {
  const wanted = new Set(children);
  for (const child of [...element.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, k) => {
    const here = element.children[k];
    if (here !== child) element.insertBefore(child, here ?? null);
  });
}

/** Give a canvas a size in CSS pixels, and as many of its own as the screen has there. */
export function fitCanvas(canvas: HTMLCanvasElement, width: number, height: number): void {
  const dpr = devicePixelRatio || 1;
  canvas.width = Math.round(width * dpr);
  canvas.height = Math.round(height * dpr);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
}

/** Set a text, touching nothing where it is the same. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** Keys that reach this element stay here: JupyterLab's shortcuts must not act on them. */
export function keepKeys(element: HTMLElement): void {
  element.setAttribute("data-lm-suppress-shortcuts", "true");
  for (const name of ["keydown", "keyup", "keypress"]) {
    element.addEventListener(name, (event) => event.stopPropagation());
  }
}

/** Call back with the element's size in CSS pixels, now and whenever it changes. */
export function onResize(
  element: Element,
  call: (width: number, height: number) => void,
): () => void {
  const observer = new ResizeObserver((entries) => {
    const box = entries[entries.length - 1]!.contentRect;
    if (box.width > 0 && box.height > 0) call(box.width, box.height);
  });
  observer.observe(element);
  return () => observer.disconnect();
}

/**
 * The same call, at most every so many milliseconds, the last one always: for what need not follow
 * every frame of a run. The second function ends it.
 */
export function gently(call: () => void, pause: number): [() => void, () => void] {
  let last = -Infinity;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const now = () => {
    timer = undefined;
    last = performance.now();
    call();
  };
  const request = () => {
    if (timer !== undefined) return;
    const wait = last + pause - performance.now();
    if (wait <= 0) now();
    else timer = setTimeout(now, wait);
  };
  return [request, () => clearTimeout(timer)];
}
