// Translates mouse and touch events on the map into gestures.

import type { Point } from "../data/geometry";

/** What a gesture does. Positions are in pixels of the element. */
export interface GestureHandlers {
  panBy(px: number, py: number): void;
  zoomAt(px: number, py: number, steps: number): void;
  hover(position: Point | null): void;
  click(position: Point, isTouch: boolean): void;
  /** Returns whether a plain drag draws a lasso. */
  isLassoActive(): boolean;
  /** Receives the path of a lasso while it is drawn, and finally with `isDone`; an empty path means cancelled. */
  lasso(path: Point[], isDone: boolean): void;
  key(command: KeyCommand): void;
}

export type KeyCommand = "showAll" | "pin" | "escape" | "search" | "navigate";

const MIN_DRAG_PIXELS = 4;
const MAX_WHEEL_STEPS = 2;
/** Pixels of one unit of a wheel event, by its deltaMode: pixels, lines, pages. */
const WHEEL_UNITS = [1, 30, 300];

/** Adds listeners to an element that covers the map. */
export function addGestureListeners(element: HTMLElement, handlers: GestureHandlers): void {
  addPointerListeners(element, handlers);
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const unit = WHEEL_UNITS[event.deltaMode] ?? 1;
      // Browsers report pinching on a touchpad as a wheel event with Ctrl and small deltas.
      const steps = (-event.deltaY * unit) / (event.ctrlKey ? 60 : 250);
      const { x, y } = positionIn(element, event);
      handlers.zoomAt(x, y, Math.max(-MAX_WHEEL_STEPS, Math.min(MAX_WHEEL_STEPS, steps)));
    },
    { passive: false },
  );
}

function addPointerListeners(element: HTMLElement, handlers: GestureHandlers): void {
  const pointers = new Map<number, Point>();
  /** Where the pointer was pressed, until it has moved far enough for a drag. */
  let pressed: Point | null = null;
  let lassoPath: Point[] | null = null;
  let wasPinched = false;

  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    const position = positionIn(element, event);
    pointers.set(event.pointerId, position);
    if (pointers.size === 1) {
      pressed = position;
      wasPinched = false;
      lassoPath = event.shiftKey || handlers.isLassoActive() ? [position] : null;
    } else {
      wasPinched = true;
      lassoPath = null;
    }
  });

  element.addEventListener("pointermove", (event) => {
    const position = positionIn(element, event);
    const previous = pointers.get(event.pointerId);
    if (!previous) {
      if (event.pointerType !== "touch") handlers.hover(position);
      return;
    }
    if (lassoPath) {
      lassoPath.push(...coalescedEvents(event).map((e) => positionIn(element, e)));
      handlers.lasso(lassoPath, false);
    } else if (pointers.size === 1) {
      if (pressed && Math.hypot(position.x - pressed.x, position.y - pressed.y) > MIN_DRAG_PIXELS) {
        element.classList.add("dragging");
        pressed = null;
        handlers.hover(null);
      }
      // Returning here keeps the previous position, so that the first pan includes the movement before the drag.
      if (pressed) return;
      handlers.panBy(position.x - previous.x, position.y - previous.y);
    } else {
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) pinch(previous, position, other, handlers);
    }
    pointers.set(event.pointerId, position);
  });

  const release = (event: PointerEvent, isCancelled: boolean): void => {
    if (!pointers.delete(event.pointerId)) return;
    element.classList.remove("dragging");
    if (lassoPath) handlers.lasso(isCancelled ? [] : lassoPath, true);
    else if (pressed && !wasPinched && !isCancelled) {
      handlers.click(positionIn(element, event), event.pointerType === "touch");
    }
    lassoPath = null;
    pressed = null;
  };
  element.addEventListener("pointerup", (event) => release(event, false));
  element.addEventListener("pointercancel", (event) => release(event, true));
  element.addEventListener("pointerleave", (event) => {
    // A lifted finger leaves the element, too, and its tooltip should stay.
    if (event.pointerType !== "touch") handlers.hover(null);
  });
}

/** Pans and zooms by one of two fingers that moved. */
function pinch(previous: Point, position: Point, other: Point, handlers: GestureHandlers): void {
  handlers.panBy((position.x - previous.x) / 2, (position.y - previous.y) / 2);
  const distance = Math.hypot(position.x - other.x, position.y - other.y);
  const previousDistance = Math.hypot(previous.x - other.x, previous.y - other.y);
  if (distance <= 1 || previousDistance <= 1) return;
  const steps = Math.log2(distance / previousDistance);
  handlers.zoomAt((position.x + other.x) / 2, (position.y + other.y) / 2, steps);
}

function positionIn(element: HTMLElement, event: MouseEvent): Point {
  const box = element.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

/** Returns all positions since the last event, where the browser reports them. */
function coalescedEvents(event: PointerEvent): PointerEvent[] {
  // Safari before 17 lacks the method, whatever the types say.
  const events = (event as Partial<PointerEvent>).getCoalescedEvents?.call(event) ?? [];
  return events.length ? events : [event];
}
