// The canvas of the live map: points as a density image, or an image of them. The wheel zooms, dragging pans, and a
// double click shows everything.

import { colorCounts, countPoints, RAMPS } from "./density";
import type { Frame } from "./state";

const MAX_ZOOM = 200;
/** Share of the shorter side of the canvas that the whole map takes at zoom 1. */
const FIT_SHARE = 0.96;
const WHEEL_PIXELS = 400;

export class MapCanvas {
  private readonly pixelRatio = Math.min(window.devicePixelRatio || 1, 2);
  /** Size of the canvas in its own pixels. */
  private readonly width: number;
  private readonly height: number;
  private points = new Uint16Array(0);
  private image: ImageBitmap | null = null;
  private zoom = 1;
  /** Position at the center of the canvas, from 0 to 1 on each axis. */
  private center: [number, number] = [0.5, 0.5];

  constructor(
    private readonly canvas: HTMLCanvasElement,
    size: readonly [number, number],
  ) {
    this.width = Math.round(size[0] * this.pixelRatio);
    this.height = Math.round(size[1] * this.pixelRatio);
    canvas.width = this.width;
    canvas.height = this.height;
    canvas.style.aspectRatio = `${size[0]} / ${size[1]}`;
    canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => this.onDrag(event));
    canvas.addEventListener("dblclick", () => {
      this.resetView();
      this.draw();
    });
  }

  /** Shows a frame. */
  async show(frame: Frame, data: DataView | null): Promise<void> {
    const bytes = data ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice() : new Uint8Array(0);
    if (frame.kind === "png") {
      this.image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
      this.points = new Uint16Array(0);
    } else {
      this.image = null;
      this.points = new Uint16Array(bytes.buffer);
    }
    this.draw();
  }

  /** Pixels for the side of the square that contains all points. */
  private get scale(): number {
    return this.zoom * (this.image ? this.width : FIT_SHARE * Math.min(this.width, this.height));
  }

  private resetView(): void {
    this.zoom = 1;
    this.center = [0.5, 0.5];
  }

  private onWheel(event: WheelEvent): void {
    event.preventDefault();
    const previousScale = this.scale;
    this.zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * Math.exp(-event.deltaY / WHEEL_PIXELS)));
    // The position under the cursor stays there.
    const right = (event.offsetX / this.canvas.clientWidth - 0.5) * this.width;
    const up = (0.5 - event.offsetY / this.canvas.clientHeight) * this.height;
    const [x, y] = this.center;
    this.center = [x + right / previousScale - right / this.scale, y + up / previousScale - up / this.scale];
    if (this.zoom === 1) this.resetView();
    this.draw();
  }

  private onDrag(event: PointerEvent): void {
    if (!event.buttons) return;
    const unitsPerPixel = this.width / this.canvas.clientWidth / this.scale;
    const [x, y] = this.center;
    this.center = [x - event.movementX * unitsPerPixel, y + event.movementY * unitsPerPixel];
    this.draw();
  }

  private draw(): void {
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    if (!context) return;
    context.clearRect(0, 0, this.width, this.height);
    if (this.image) this.drawImage(context, this.image);
    else if (this.points.length) this.drawPoints(context);
  }

  private drawImage(context: CanvasRenderingContext2D, image: ImageBitmap): void {
    const { width, height, scale, center } = this;
    const imageHeight = (scale * image.height) / image.width;
    const left = width / 2 - center[0] * scale;
    const top = height / 2 - (1 - center[1]) * imageHeight;
    context.drawImage(image, left, top, scale, imageHeight);
  }

  private drawPoints(context: CanvasRenderingContext2D): void {
    const { width, height, scale, center, pixelRatio } = this;
    const counts = countPoints(this.points, { width, height, scale, center, pixelRatio });
    const image = context.createImageData(width, height);
    colorCounts(counts, RAMPS[hasDarkBackground(this.canvas) ? "dark" : "light"], image.data);
    context.putImageData(image, 0, 0);
  }
}

/** Returns whether an element has light text, and so a dark background. */
function hasDarkBackground(element: Element): boolean {
  const [red, green, blue] = (getComputedStyle(element).color.match(/[\d.]+/g) ?? ["0", "0", "0"]).map(Number);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 128;
}
