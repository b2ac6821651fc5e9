// Translates keys into gestures. The map is what the page is about, so its keys work wherever the focus is, except where
// a control of the page needs them.

import type { GestureHandlers, KeyCommand } from "./gestures";

const KEY_PAN_PIXELS = 80;
const KEY_ZOOM_STEPS = 0.5;

const KEY_COMMANDS: Partial<Record<string, KeyCommand>> = {
  "0": "showAll",
  Home: "showAll",
  Enter: "pin",
  " ": "pin",
  Escape: "escape",
  "/": "search",
};

/** Where all keys are text, or choose a value. */
const FIELDS = "input:not([type=checkbox]), select, textarea, [contenteditable]";
/** What Enter and the space bar press. */
const BUTTONS = "button, a, input, label, summary";
/** What arrow keys and Home scroll. */
const SCROLLERS = "[role=region]";

/** Adds listeners for the keys of a map that an element covers. */
export function addKeyListeners(element: HTMLElement, handlers: GestureHandlers): void {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isForControl(event)) return;
    const command = KEY_COMMANDS[event.key];
    if (command) handlers.key(command);
    else if (navigateByKey(element, event, handlers)) handlers.key("navigate");
    else return;
    event.preventDefault();
  });
}

/** Returns whether the control that has the focus needs a key. */
function isForControl(event: KeyboardEvent): boolean {
  const { target, key } = event;
  if (!(target instanceof Element)) return false;
  if (target.closest(FIELDS)) return true;
  if (key === "Enter" || key === " ") return target.closest(BUTTONS) !== null;
  return (key.startsWith("Arrow") || key === "Home") && target.matches(SCROLLERS);
}

/** Pans or zooms by a key. Returns whether the key does so. */
function navigateByKey(element: HTMLElement, event: KeyboardEvent, handlers: GestureHandlers): boolean {
  const pan = event.shiftKey ? KEY_PAN_PIXELS * 4 : KEY_PAN_PIXELS;
  const zoom = (steps: number): void => handlers.zoomAt(element.clientWidth / 2, element.clientHeight / 2, steps);
  switch (event.key) {
    case "ArrowLeft":
      handlers.panBy(pan, 0);
      return true;
    case "ArrowRight":
      handlers.panBy(-pan, 0);
      return true;
    case "ArrowUp":
      handlers.panBy(0, pan);
      return true;
    case "ArrowDown":
      handlers.panBy(0, -pan);
      return true;
    case "+":
    case "=":
      zoom(KEY_ZOOM_STEPS);
      return true;
    case "-":
    case "_":
      zoom(-KEY_ZOOM_STEPS);
      return true;
    default:
      return false;
  }
}
