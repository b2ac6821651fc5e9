// What is drawn above the points: rings of hits, marks of pins, the point in hand, the lasso.

import type { Camera, Point } from "./camera";

export interface Marks {
  hits: Iterable<Point>;
  pins: readonly (Point & { label: string })[];
  hover: Point | null;
  /** The lasso in hand, in pixels. */
  path: readonly Point[];
  /** A finished one, in the units of the map. */
  polygon: readonly Point[];
  /** Whether to mark the middle of the view, where keys point to. */
  cross: boolean;
  pointSize: number;
}

interface Inks {
  accent: string;
  text: string;
  ground: string;
}

export class Overlay {
  private inks: Inks = { accent: "", text: "", ground: "" };

  constructor(readonly canvas: HTMLCanvasElement) {}

  /** Takes the colours of the theme from the style sheet. */
  restyle(): void {
    const style = getComputedStyle(document.documentElement);
    const ink = (name: string): string => style.getPropertyValue(name).trim();
    this.inks = { accent: ink("--accent"), text: ink("--text"), ground: ink("--ground") };
  }

  draw(camera: Camera, ratio: number, marks: Marks): void {
    const { canvas, inks } = this;
    const width = Math.max(1, Math.round(camera.width * ratio));
    const height = Math.max(1, Math.round(camera.height * ratio));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const pen = canvas.getContext("2d");
    if (!pen) return;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, camera.width, camera.height);
    const radius = Math.max(4.5, marks.pointSize / 2 + 3);

    outline(pen, marks.polygon.map((p) => camera.toScreen(p.x, p.y)), inks.accent);
    outline(pen, marks.path, inks.accent);

    pen.beginPath();
    for (const hit of marks.hits) {
      const { x, y } = camera.toScreen(hit.x, hit.y);
      if (x < -radius || y < -radius || x > camera.width + radius || y > camera.height + radius) continue;
      pen.moveTo(x + radius, y);
      pen.arc(x, y, radius, 0, 2 * Math.PI);
    }
    // A line of the ground below keeps rings apart from points of the same colour.
    strokeTwice(pen, inks.ground, inks.accent, 1.75);

    if (marks.hover) {
      const { x, y } = camera.toScreen(marks.hover.x, marks.hover.y);
      pen.beginPath();
      pen.arc(x, y, radius + 1.5, 0, 2 * Math.PI);
      strokeTwice(pen, inks.ground, inks.text, 2);
    }
    for (const pin of marks.pins) this.mark(pen, camera, pin);
    if (marks.cross) {
      const [x, y] = [camera.width / 2, camera.height / 2];
      pen.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        pen.moveTo(x + 8 * dx, y + 8 * dy);
        pen.lineTo(x + 18 * dx, y + 18 * dy);
      }
      strokeTwice(pen, inks.ground, inks.text, 1.5);
    }
  }

  private mark(pen: CanvasRenderingContext2D, camera: Camera, pin: Point & { label: string }): void {
    const { x, y } = camera.toScreen(pin.x, pin.y);
    if (x < -20 || y < -4 || x > camera.width + 20 || y > camera.height + 40) return;
    pen.beginPath();
    pen.arc(x, y - 19, 10, 0.8 * Math.PI, 0.2 * Math.PI);
    pen.lineTo(x, y);
    pen.closePath();
    pen.fillStyle = this.inks.accent;
    pen.strokeStyle = this.inks.ground;
    pen.lineWidth = 1.5;
    pen.fill();
    pen.stroke();
    pen.fillStyle = this.inks.ground;
    pen.font = "600 11px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(pin.label, x, y - 18.5);
  }
}

function strokeTwice(pen: CanvasRenderingContext2D, below: string, above: string, width: number): void {
  pen.strokeStyle = below;
  pen.lineWidth = width + 2;
  pen.stroke();
  pen.strokeStyle = above;
  pen.lineWidth = width;
  pen.stroke();
}

function outline(pen: CanvasRenderingContext2D, path: readonly Point[], color: string): void {
  if (path.length < 2) return;
  pen.beginPath();
  path.forEach(({ x, y }, i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.closePath();
  pen.fillStyle = color;
  pen.globalAlpha = 0.12;
  pen.fill();
  pen.globalAlpha = 1;
  pen.strokeStyle = color;
  pen.lineWidth = 1.5;
  pen.stroke();
}
