// The front end of LiveMap, an anywidget module: the layout while it is computed, and the progress beside it.

import type { AnyModel } from "@anywidget/types";
import { createElement } from "./elements";
import { MapCanvas } from "./mapCanvas";
import { createProgressPanel } from "./progressPanel";
import type { ProgressState, Frame, LiveMapState } from "./state";

/** Shows a widget in an element; returns the function that stops its updates. */
function render({ model, el }: { model: AnyModel<LiveMapState>; el: HTMLElement }): () => void {
  const size = model.get("size");
  const canvas = createElement("canvas");
  canvas.setAttribute("role", "img");
  const caption = createElement("div", "nomad-label", "The layout has not started.");
  const map = createElement("div", "nomad-map", canvas, caption);
  map.style.maxWidth = `${size[0]}px`;
  const panel = createElement("div", "nomad-panel");
  el.append(createElement("div", "nomad-live", map, panel));
  const mapCanvas = new MapCanvas(canvas, size);

  const updatePanel = (): void => {
    const progress = model.get("figures");
    if (isNotEmpty<ProgressState>(progress)) panel.replaceChildren(...createProgressPanel(progress));
  };
  const updateMap = (): void => {
    const frame = model.get("frame");
    if (!isNotEmpty<Frame>(frame)) return;
    const description = describeFrame(frame);
    caption.textContent = description;
    canvas.setAttribute("aria-label", `The layout: ${description}`);
    void mapCanvas.show(frame, model.get("data"));
  };
  // The frame and its data arrive together but as two changes, so the map is updated once after both.
  const scheduleUpdate = oncePerFrame(updateMap);

  model.on("change:figures", updatePanel);
  model.on("change:frame", scheduleUpdate);
  model.on("change:data", scheduleUpdate);
  updatePanel();
  scheduleUpdate();
  return () => {
    model.off("change:figures", updatePanel);
    model.off("change:frame", scheduleUpdate);
    model.off("change:data", scheduleUpdate);
  };
}

function isNotEmpty<T extends object>(value: T | Record<string, never>): value is T {
  return Object.keys(value).length > 0;
}

function describeFrame(frame: Frame): string {
  const sample = frame.n_points < frame.n_rows ? `${frame.n_points.toLocaleString("en")} of ` : "";
  return `epoch ${frame.epoch} of ${frame.n_epochs}, ${sample}${frame.n_rows.toLocaleString("en")} points`;
}

/** Returns a function that runs `action` at most once per animation frame. */
function oncePerFrame(action: () => void): () => void {
  let isScheduled = false;
  return () => {
    if (isScheduled) return;
    isScheduled = true;
    requestAnimationFrame(() => {
      isScheduled = false;
      action();
    });
  };
}

export default { render };
