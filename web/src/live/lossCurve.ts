// The loss by epoch as a line.

import { createSvgElement } from "./elements";

const WIDTH = 320;
const HEIGHT = 90;
const MARGIN_X = 4;
const MARGIN_Y = 8;

/** Returns the points of the line in pixels; the highest loss is at the top. */
export function curvePoints(losses: readonly (readonly [number, number])[], nEpochs: number): [number, number][] {
  const values = losses.map(([, loss]) => loss);
  const low = Math.min(...values);
  const high = Math.max(...values);
  return losses.map(([epoch, loss]) => [
    MARGIN_X + (epoch / nEpochs) * (WIDTH - 2 * MARGIN_X),
    MARGIN_Y + ((high - loss) / (high - low || 1)) * (HEIGHT - 2 * MARGIN_Y),
  ]);
}

/** Draws the curve; `losses` has pairs of epoch and loss. */
export function createLossCurve(losses: readonly (readonly [number, number])[], nEpochs: number): SVGSVGElement {
  const svg = createSvgElement("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "nomad-loss" });
  const title = createSvgElement("title", {});
  svg.append(title);
  if (losses.length < 2) return svg;
  const first = losses[0][1];
  const last = losses[losses.length - 1][1];
  title.textContent = `Loss by epoch, from ${first.toFixed(3)} to ${last.toFixed(3)}`;
  const y = HEIGHT - MARGIN_X;
  svg.append(createSvgElement("line", { x1: MARGIN_X, x2: WIDTH - MARGIN_X, y1: y, y2: y, class: "nomad-axis" }));
  const points = curvePoints(losses, nEpochs).map((point) => point.map((v) => v.toFixed(1)).join(","));
  svg.append(createSvgElement("polyline", { points: points.join(" "), class: "nomad-curve" }));
  return svg;
}
