import { describe, expect, it } from "vitest";
import { flightPath, type FlightView } from "../src/map/flightPath";
import { createRandom } from "./helpers";

const N_STEPS = 5000;

/** Integrates the metric of van Wijk and Nuij along a path: ds² = ρ² dx² / w² + dw² / (ρ² w²), with ρ² = 2. */
function integrateLength(at: (share: number) => FlightView): number {
  let length = 0;
  for (let i = 0; i < N_STEPS; i++) {
    const [a, b] = [at(i / N_STEPS), at((i + 1) / N_STEPS)];
    const width = (a.width + b.width) / 2;
    const squaredPan = (b.x - a.x) ** 2 + (b.y - a.y) ** 2;
    length += Math.sqrt((2 * squaredPan) / width ** 2 + (b.width - a.width) ** 2 / (2 * width ** 2));
  }
  return length;
}

function randomView(random: () => number): FlightView {
  return { x: random(), y: random(), width: 2 ** (-6 * random()) };
}

describe("flightPath", () => {
  it("starts and ends at its views, at constant speed in the metric of the paper", () => {
    const random = createRandom(1);
    for (let i = 0; i < 20; i++) {
      const [from, to] = [randomView(random), randomView(random)];
      const path = flightPath(from, to);
      for (const [share, view] of [
        [0, from],
        [1, to],
      ] as const) {
        expect(path.at(share).x).toBeCloseTo(view.x, 8);
        expect(path.at(share).y).toBeCloseTo(view.y, 8);
        expect(path.at(share).width).toBeCloseTo(view.width, 8);
      }
      expect(integrateLength(path.at) / path.length).toBeCloseTo(1, 3);
      expect(integrateLength((share) => path.at(share / 2)) / path.length).toBeCloseTo(0.5, 3);
    }
  });

  it("is shorter than panning and zooming in a straight line", () => {
    const random = createRandom(2);
    for (let i = 0; i < 20; i++) {
      const [from, to] = [randomView(random), randomView(random)];
      const straight = (share: number): FlightView => ({
        x: from.x + share * (to.x - from.x),
        y: from.y + share * (to.y - from.y),
        width: from.width + share * (to.width - from.width),
      });
      expect(flightPath(from, to).length).toBeLessThanOrEqual(integrateLength(straight) * 1.001);
    }
  });

  it("zooms out between distant views", () => {
    const { at } = flightPath({ x: 0, y: 0, width: 0.01 }, { x: 1, y: 0, width: 0.01 });
    expect(at(0.5).x).toBeCloseTo(0.5, 8);
    expect(at(0.5).width).toBeGreaterThan(0.3);
  });

  it("zooms exponentially where the center stays", () => {
    const path = flightPath({ x: 1, y: 2, width: 1 }, { x: 1, y: 2, width: 1 / 16 });
    expect(path.at(0.5)).toEqual({ x: 1, y: 2, width: expect.closeTo(1 / 4, 10) as number });
    expect(path.length).toBeCloseTo(Math.log(16) / Math.SQRT2, 10);
  });
});
