// Draws points on a plain canvas, for browsers without WebGL 2: fewer points, in the same colors.

import { mapX, mapY, type TilePoints, type VisibleTile } from "../data/tilePoints";
import type { Camera } from "./camera";
import type { PointRenderer, PointStyle } from "./renderer";

/** Points of fewer pixels are drawn as squares, which takes a fraction of the time and looks the same. */
const MIN_DISC_SIZE = 4;

export class CanvasRenderer implements PointRenderer {
  private readonly indices = new Map<TilePoints, Uint8Array>();
  /** The colors of the palette for the style sheet; null for hidden points. */
  private palette: (string | null)[] = [];

  /** @param canvas the canvas of the overview, above which the points are drawn */
  constructor(private readonly canvas: HTMLCanvasElement) {}

  resize(): void {
    // The overview, which is drawn first, has set the size of their canvas.
  }

  setPalette(colors: Uint8Array): void {
    this.palette = Array.from({ length: colors.length / 4 }, (_, i) => {
      const [red, green, blue, alpha] = colors.subarray(4 * i, 4 * i + 4);
      return alpha ? `rgb(${red},${green},${blue})` : null;
    });
  }

  upload(points: TilePoints, colorIndices: Uint8Array): void {
    this.indices.set(points, colorIndices);
  }

  remove(points: TilePoints): void {
    this.indices.delete(points);
  }

  draw(tiles: readonly VisibleTile[], camera: Camera, style: PointStyle, now: number): boolean {
    const context = this.canvas.getContext("2d");
    if (!context) return false;
    const pixelRatio = this.canvas.width / camera.width;
    context.setTransform(pixelRatio, 0, 0, pixelRatio, 0, 0);
    let isFading = false;
    for (const { points, count } of tiles) {
      const fade = style.fadeMs ? Math.min(1, (now - points.loadedAt) / style.fadeMs) : 1;
      isFading ||= fade < 1;
      context.globalAlpha = style.opacity * fade;
      this.drawTile(context, points, count, camera, style.size);
    }
    context.globalAlpha = 1;
    return isFading;
  }

  private drawTile(
    context: CanvasRenderingContext2D,
    points: TilePoints,
    count: number,
    camera: Camera,
    size: number,
  ): void {
    const indices = this.indices.get(points);
    if (!indices) return;
    for (let i = 0; i < count; i++) {
      const color = this.palette[indices[i]];
      const { x, y } = camera.toScreen(mapX(points, i), mapY(points, i));
      const isOutside = x < -size || y < -size || x > camera.width + size || y > camera.height + size;
      if (!color || isOutside) continue;
      context.fillStyle = color;
      if (size < MIN_DISC_SIZE) {
        context.fillRect(x - size / 2, y - size / 2, size, size);
      } else {
        context.beginPath();
        context.arc(x, y, size / 2, 0, 2 * Math.PI);
        context.fill();
      }
    }
  }
}
