// Mouse, touch and keys on the map.

import type { Point } from "./camera";

export interface Gestures {
  moveBy(px: number, py: number): void;
  zoomAt(px: number, py: number, steps: number): void;
  hover(at: Point | null): void;
  click(at: Point, touch: boolean): void;
  /** Tells whether a plain drag draws the lasso. */
  drawing(): boolean;
  lasso(path: Point[], done: boolean): void;
  key(name: Key): void;
}

export type Key = "whole" | "pin" | "escape" | "search" | "moved";

const CLICK_PIXELS = 4;
const STEP_PIXELS = 80;
const STEP_ZOOM = 0.5;

/** Listens on an element that covers the map. */
export function listen(element: HTMLElement, to: Gestures): void {
  const fingers = new Map<number, Point>();
  let start: Point | null = null;
  let path: Point[] | null = null;
  let pinched = false;

  const at = (event: MouseEvent): Point => {
    const box = element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };

  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    const here = at(event);
    fingers.set(event.pointerId, here);
    if (fingers.size === 1) {
      start = here;
      pinched = false;
      path = event.shiftKey || to.drawing() ? [here] : null;
    } else {
      pinched = true;
      path = null;
    }
  });

  element.addEventListener("pointermove", (event) => {
    const here = at(event);
    const before = fingers.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") to.hover(here);
      return;
    }
    if (path) {
      const events = event.getCoalescedEvents?.() ?? [];
      path.push(...(events.length ? events : [event]).map(at));
      to.lasso(path, false);
    } else if (fingers.size === 1) {
      const far = start ? Math.hypot(here.x - start.x, here.y - start.y) > CLICK_PIXELS : true;
      if (far && start) {
        element.classList.add("dragging");
        start = null;
        to.hover(null);
      }
      // What the hand trembled before the drag counts too: the point grabbed stays under the cursor.
      if (start) return;
      to.moveBy(here.x - before.x, here.y - before.y);
    } else {
      const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const middle = { x: (here.x + other.x) / 2, y: (here.y + other.y) / 2 };
        to.moveBy((here.x - before.x) / 2, (here.y - before.y) / 2);
        const apart = Math.hypot(here.x - other.x, here.y - other.y);
        const was = Math.hypot(before.x - other.x, before.y - other.y);
        if (apart > 1 && was > 1) to.zoomAt(middle.x, middle.y, Math.log2(apart / was));
      }
    }
    fingers.set(event.pointerId, here);
  });

  const end = (event: PointerEvent, cancelled: boolean): void => {
    if (!fingers.delete(event.pointerId)) return;
    element.classList.remove("dragging");
    if (path) to.lasso(cancelled ? [] : path, true);
    else if (start && !pinched && !cancelled) to.click(at(event), event.pointerType === "touch");
    path = null;
    start = null;
  };
  element.addEventListener("pointerup", (event) => end(event, false));
  element.addEventListener("pointercancel", (event) => end(event, true));
  element.addEventListener("pointerleave", (event) => {
    // A finger leaves whenever it is lifted; what it tapped stays.
    if (event.pointerType !== "touch") to.hover(null);
  });

  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const unit = [1, 30, 300][event.deltaMode] ?? 1;
      const steps = (-event.deltaY * unit) / (event.ctrlKey ? 60 : 250);
      const here = at(event);
      to.zoomAt(here.x, here.y, Math.max(-2, Math.min(2, steps)));
    },
    { passive: false },
  );

  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const middle = { x: element.clientWidth / 2, y: element.clientHeight / 2 };
    const far = event.shiftKey ? STEP_PIXELS * 4 : STEP_PIXELS;
    const moves: Record<string, () => void> = {
      ArrowLeft: () => to.moveBy(far, 0),
      ArrowRight: () => to.moveBy(-far, 0),
      ArrowUp: () => to.moveBy(0, far),
      ArrowDown: () => to.moveBy(0, -far),
      "+": () => to.zoomAt(middle.x, middle.y, STEP_ZOOM),
      "=": () => to.zoomAt(middle.x, middle.y, STEP_ZOOM),
      "-": () => to.zoomAt(middle.x, middle.y, -STEP_ZOOM),
      _: () => to.zoomAt(middle.x, middle.y, -STEP_ZOOM),
    };
    const others: Record<string, Key> = { "0": "whole", Home: "whole", Enter: "pin", " ": "pin", Escape: "escape", "/": "search" };
    if (moves[event.key]) {
      moves[event.key]();
      to.key("moved");
    } else if (others[event.key]) to.key(others[event.key]);
    else return;
    event.preventDefault();
  });
}
