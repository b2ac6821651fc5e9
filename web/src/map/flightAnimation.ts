// An animated flight of the camera to another view.

import { clamp } from "../data/geometry";
import type { Camera, ViewTarget } from "./camera";
import { flightPath, type FlightPath } from "./flightPath";

const MS_PER_LENGTH = 350;
const MIN_MS = 120;
const MAX_MS = 1500;

export class FlightAnimation {
  private readonly path: FlightPath;
  private readonly duration: number;
  private readonly start = performance.now();

  constructor(
    private readonly camera: Camera,
    private readonly target: ViewTarget,
  ) {
    const width = (zoom: number): number => camera.extent.side * 2 ** -zoom;
    this.path = flightPath(
      { x: camera.x, y: camera.y, width: width(camera.zoom) },
      { x: target.x, y: target.y, width: width(target.zoom) },
    );
    this.duration = clamp(this.path.length * MS_PER_LENGTH, MIN_MS, MAX_MS);
  }

  /** Moves the camera to where it is at a time. Returns whether it has arrived. */
  advance(now: number): boolean {
    const { camera, target } = this;
    const share = clamp((now - this.start) / this.duration, 0, 1);
    if (share === 1) {
      camera.moveTo(target.x, target.y, target.zoom);
      return true;
    }
    // The smoothstep function starts and ends at rest.
    const view = this.path.at(share * share * (3 - 2 * share));
    camera.moveTo(view.x, view.y, Math.log2(camera.extent.side / view.width));
    return false;
  }
}
