// Text to take away.

import { h } from "../dom";

export function copyButton(text: () => string): HTMLButtonElement {
  const button = h("button", { type: "button" }, "copy");
  button.addEventListener("click", () => {
    void copy(text()).then((done) => {
      button.textContent = done ? "copied" : "cannot copy here";
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
  });
  return button;
}

/** Whether it could be copied: only some pages may. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
