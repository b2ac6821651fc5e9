// The overview: images of all points, shown until the first tiles are loaded, and instead of them without WebGL.

import type { Site } from "../data/site";
import type { Camera } from "./camera";

interface OverviewImage {
  pixels: number;
  image: HTMLImageElement;
  isLoaded: boolean;
}

export class Overview {
  private readonly images: OverviewImage[] = [];
  private tinted: { source: OverviewImage; color: string; canvas: HTMLCanvasElement } | null = null;

  constructor(
    readonly canvas: HTMLCanvasElement,
    private readonly site: Site,
    private readonly onLoad: () => void,
  ) {}

  /** Returns how many screen pixels one pixel of the finest image takes. */
  magnification(camera: Camera): number {
    const finest = this.site.overview?.at(-1)?.pixels ?? 1;
    return (camera.extent.side * camera.scale) / finest;
  }

  /** Draws the visible part of the map in one color. */
  draw(camera: Camera, pixelRatio: number, color: string, opacity: number): void {
    const width = Math.max(1, Math.round(camera.width * pixelRatio));
    const height = Math.max(1, Math.round(camera.height * pixelRatio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const { extent } = camera;
    const side = extent.side * camera.scale * pixelRatio;
    const source = opacity > 0 ? this.bestImage(side) : null;
    if (!source) return;
    const corner = camera.toScreen(extent.left, extent.bottom + extent.side);
    context.globalAlpha = opacity;
    context.imageSmoothingQuality = "high";
    // Only the visible part, as an image of the whole map may be larger than a canvas can be.
    const { pixels } = source;
    const scale = side / pixels;
    const left = Math.max(0, Math.floor((-corner.x * pixelRatio) / scale));
    const top = Math.max(0, Math.floor((-corner.y * pixelRatio) / scale));
    const right = Math.min(pixels, Math.ceil((width - corner.x * pixelRatio) / scale));
    const bottom = Math.min(pixels, Math.ceil((height - corner.y * pixelRatio) / scale));
    if (right <= left || bottom <= top) return;
    context.drawImage(
      this.tint(source, color),
      left,
      top,
      right - left,
      bottom - top,
      corner.x * pixelRatio + left * scale,
      corner.y * pixelRatio + top * scale,
      (right - left) * scale,
      (bottom - top) * scale,
    );
  }

  /** Returns the loaded image that suits a size best, and requests the best one of all. */
  private bestImage(side: number): OverviewImage | null {
    const levels = this.site.overview ?? [];
    const sufficient = levels.findIndex((level) => level.pixels >= side * 0.75);
    const best = sufficient < 0 ? levels.length - 1 : sufficient;
    // The smallest image is requested first, as it loads fastest.
    this.request(0);
    if (this.images[0]?.isLoaded) this.request(best);
    const nearest = [best, ...levels.keys()].sort((a, b) => Math.abs(a - best) - Math.abs(b - best));
    for (const k of nearest) if (this.images[k]?.isLoaded) return this.images[k];
    return null;
  }

  private request(k: number): void {
    const level = this.site.overview?.[k];
    if (!level || this.images[k]) return;
    const entry = { pixels: level.pixels, image: new Image(), isLoaded: false };
    this.images[k] = entry;
    entry.image.addEventListener("load", () => {
      entry.isLoaded = true;
      this.onLoad();
    });
    entry.image.src = level.name;
  }

  /** Colors an image, whose opacity encodes the number of points. */
  private tint(source: OverviewImage, color: string): HTMLCanvasElement {
    if (this.tinted?.source !== source || this.tinted.color !== color) {
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = source.pixels;
      const context = canvas.getContext("2d");
      if (context) {
        context.drawImage(source.image, 0, 0, source.pixels, source.pixels);
        context.globalCompositeOperation = "source-in";
        context.fillStyle = color;
        context.fillRect(0, 0, source.pixels, source.pixels);
      }
      this.tinted = { source, color, canvas };
    }
    return this.tinted.canvas;
  }
}
