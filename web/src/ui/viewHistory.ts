// Keeps the address in step with the view.

import type { Site } from "../data/site";
import type { Camera, ViewTarget } from "../map/camera";
import { formatView, initialView, parseView, type ViewState } from "./urlState";

export class ViewHistory {
  readonly initial: ViewState;

  /** @param currentState returns the view without the camera */
  constructor(
    private readonly site: Site,
    private readonly camera: Camera,
    private readonly currentState: () => Omit<ViewState, keyof ViewTarget>,
  ) {
    this.initial = initialView(site, camera);
  }

  /** Returns the view that the address describes. */
  read(): ViewState {
    return parseView(location.hash, this.initial, this.site);
  }

  /** Writes the view into the address as a step that the back button undoes. */
  push(): void {
    this.write(true, this.camera);
  }

  /** Writes the view that the camera flies to, as a step. */
  pushTarget(target: ViewTarget): void {
    this.write(true, target);
  }

  /** Writes the view into the address in place of the last one. */
  replace(): void {
    this.write(false, this.camera);
  }

  private write(isStep: boolean, { x, y, zoom }: ViewTarget): void {
    const view = { x, y, zoom, ...this.currentState() };
    const fragment = formatView(view, this.initial, this.camera.scaleAt(zoom));
    if (fragment === location.hash.slice(1)) return;
    const address = fragment ? `#${fragment}` : location.pathname + location.search;
    if (isStep) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  }
}
