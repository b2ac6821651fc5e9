// The annotations above the points: rings around search hits, pins, the hovered point, the lasso.

import type { Point } from "../data/geometry";
import type { Camera } from "./camera";

export interface Annotations {
  hits: Iterable<Point>;
  pins: readonly (Point & { label: string })[];
  hovered: Point | null;
  /** The lasso while it is drawn, in pixels. */
  lassoPath: readonly Point[];
  /** A finished lasso, in map units. */
  polygon: readonly Point[];
  /** Whether to mark the center of the view, where keyboard commands act. */
  showCrosshair: boolean;
  /** Whether the annotations matter more than the points, which are then dimmed. */
  dimPoints: boolean;
}

interface OverlayColors {
  accent: string;
  text: string;
  background: string;
}

const MIN_RING_RADIUS = 4.5;

export class Overlay {
  private colors: OverlayColors = { accent: "", text: "", background: "" };

  constructor(readonly canvas: HTMLCanvasElement) {}

  /** Reads the colors of the theme from the style sheet. */
  updateColors(): void {
    const style = getComputedStyle(document.documentElement);
    const color = (name: string): string => style.getPropertyValue(name).trim();
    this.colors = { accent: color("--accent"), text: color("--text"), background: color("--background") };
  }

  /** Draws a frame. `pointSize` is the diameter of points in pixels. */
  draw(camera: Camera, pixelRatio: number, annotations: Annotations, pointSize: number): void {
    const { canvas, colors } = this;
    const width = Math.max(1, Math.round(camera.width * pixelRatio));
    const height = Math.max(1, Math.round(camera.height * pixelRatio));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d");
    if (!context) return;
    context.setTransform(pixelRatio, 0, 0, pixelRatio, 0, 0);
    context.clearRect(0, 0, camera.width, camera.height);
    const radius = Math.max(MIN_RING_RADIUS, pointSize / 2 + 3);
    const polygon = annotations.polygon.map((p) => camera.toScreen(p.x, p.y));
    drawPolygon(context, polygon, colors.accent);
    drawPolygon(context, annotations.lassoPath, colors.accent);
    this.drawHits(context, camera, annotations.hits, radius);
    if (annotations.hovered) {
      const { x, y } = camera.toScreen(annotations.hovered.x, annotations.hovered.y);
      context.beginPath();
      context.arc(x, y, radius + 1.5, 0, 2 * Math.PI);
      strokeWithHalo(context, colors.background, colors.text, 2);
    }
    for (const pin of annotations.pins) this.drawPin(context, camera, pin);
    if (annotations.showCrosshair) this.drawCrosshair(context, camera.screenCenter);
  }

  private drawHits(context: CanvasRenderingContext2D, camera: Camera, hits: Iterable<Point>, radius: number): void {
    context.beginPath();
    for (const hit of hits) {
      const { x, y } = camera.toScreen(hit.x, hit.y);
      if (x < -radius || y < -radius || x > camera.width + radius || y > camera.height + radius) continue;
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    strokeWithHalo(context, this.colors.background, this.colors.accent, 1.75);
  }

  private drawPin(context: CanvasRenderingContext2D, camera: Camera, pin: Point & { label: string }): void {
    const { x, y } = camera.toScreen(pin.x, pin.y);
    if (x < -20 || y < -4 || x > camera.width + 20 || y > camera.height + 40) return;
    context.beginPath();
    context.arc(x, y - 19, 10, 0.8 * Math.PI, 0.2 * Math.PI);
    context.lineTo(x, y);
    context.closePath();
    context.fillStyle = this.colors.accent;
    context.strokeStyle = this.colors.background;
    context.lineWidth = 1.5;
    context.fill();
    context.stroke();
    context.fillStyle = this.colors.background;
    context.font = "600 11px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(pin.label, x, y - 18.5);
  }

  private drawCrosshair(context: CanvasRenderingContext2D, center: Point): void {
    context.beginPath();
    for (const [dx, dy] of [
      [1, 0],
      [-1, 0],
      [0, 1],
      [0, -1],
    ]) {
      context.moveTo(center.x + 8 * dx, center.y + 8 * dy);
      context.lineTo(center.x + 18 * dx, center.y + 18 * dy);
    }
    strokeWithHalo(context, this.colors.background, this.colors.text, 1.5);
  }
}

/** Strokes a path twice: a halo of the background separates it from points of the same color. */
function strokeWithHalo(context: CanvasRenderingContext2D, halo: string, color: string, width: number): void {
  context.strokeStyle = halo;
  context.lineWidth = width + 2;
  context.stroke();
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
}

function drawPolygon(context: CanvasRenderingContext2D, path: readonly Point[], color: string): void {
  if (path.length < 2) return;
  context.beginPath();
  path.forEach(({ x, y }, i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.closePath();
  context.fillStyle = color;
  context.globalAlpha = 0.12;
  context.fill();
  context.globalAlpha = 1;
  context.strokeStyle = color;
  context.lineWidth = 1.5;
  context.stroke();
}
