// The buttons at the lower right.

import { h, iconButton } from "./dom";
import type { Legend } from "./legend";
import type { Navigation } from "./navigation";
import type { ThemeSwitch } from "./theme";

export function createToolbar(
  legend: Legend,
  lassoButton: HTMLButtonElement,
  theme: ThemeSwitch,
  navigation: Navigation,
): HTMLElement {
  return h(
    "nav",
    { class: "tools", "aria-label": "Tools" },
    h(
      "div",
      { class: "panel" },
      createLegendButton(legend),
      lassoButton,
      iconButton("theme", "Dark or light", () => theme.toggle()),
    ),
    h(
      "div",
      { class: "panel" },
      iconButton("plus", "Zoom in", () => navigation.zoomBy(1)),
      iconButton("minus", "Zoom out", () => navigation.zoomBy(-1)),
      iconButton("fit", "Show the whole map", () => navigation.showAll()),
    ),
  );
}

/** Creates the button that opens the legend on narrow screens. */
function createLegendButton(legend: Legend): HTMLButtonElement {
  const button = iconButton("list", "Colors", () => {
    const isOpen = document.body.classList.toggle("legend-open");
    button.setAttribute("aria-expanded", String(isOpen));
  });
  button.classList.add("narrow-only");
  button.setAttribute("aria-controls", legend.element.id);
  button.setAttribute("aria-expanded", "false");
  button.hidden = legend.element.hidden;
  return button;
}
