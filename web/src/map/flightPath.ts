// Smooth and efficient zooming and panning (van Wijk and Nuij, 2003): a path between two views that zooms out and in
// again when they are far apart.

import type { Point } from "../data/geometry";

/** A view by its center and the width of the map that it shows, in map units. */
export interface FlightView extends Point {
  width: number;
}

export interface FlightPath {
  /** Length of the path in the metric of the paper. */
  length: number;
  /** Returns the view at a share of the path from 0 to 1. */
  at: (share: number) => FlightView;
}

/** Trade-off between zooming and panning; the square root of 2 is the paper's recommendation. */
const RHO = Math.SQRT2;

export function flightPath(from: FlightView, to: FlightView): FlightPath {
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const squaredDistance = dx * dx + dy * dy;
  const distance = Math.sqrt(squaredDistance);
  if (distance < 1e-6 * Math.min(from.width, to.width)) return zoomPath(from, to, dx, dy);
  const rho2 = RHO * RHO;
  const b0 = (to.width ** 2 - from.width ** 2 + rho2 * rho2 * squaredDistance) / (2 * from.width * rho2 * distance);
  const b1 = (to.width ** 2 - from.width ** 2 - rho2 * rho2 * squaredDistance) / (2 * to.width * rho2 * distance);
  const r0 = Math.log(Math.sqrt(b0 * b0 + 1) - b0);
  const r1 = Math.log(Math.sqrt(b1 * b1 + 1) - b1);
  const length = (r1 - r0) / RHO;
  return {
    length: Math.abs(length),
    at: (share) => {
      const s = share * length;
      const u = (from.width / (rho2 * distance)) * (Math.cosh(r0) * Math.tanh(RHO * s + r0) - Math.sinh(r0));
      return {
        x: from.x + u * dx,
        y: from.y + u * dy,
        width: (from.width * Math.cosh(r0)) / Math.cosh(RHO * s + r0),
      };
    },
  };
}

/** The special case of equal centers: the width changes exponentially. */
function zoomPath(from: FlightView, to: FlightView, dx: number, dy: number): FlightPath {
  const length = Math.log(to.width / from.width) / RHO;
  return {
    length: Math.abs(length),
    at: (share) => ({
      x: from.x + share * dx,
      y: from.y + share * dy,
      width: from.width * Math.exp(RHO * share * length),
    }),
  };
}
