// The overview: pictures of all points, drawn before the first tile comes, and instead of tiles without WebGL.

import type { Camera } from "./camera";
import type { Site } from "../data/site";

interface Picture {
  pixels: number;
  image: HTMLImageElement;
  ready: boolean;
}

export class Backdrop {
  private readonly pictures: Picture[] = [];
  private tinted: { picture: Picture; color: string; canvas: HTMLCanvasElement } | null = null;

  constructor(
    readonly canvas: HTMLCanvasElement,
    private readonly site: Site,
    private readonly came: () => void,
  ) {}

  /** Pixels of the page that one of the finest picture takes. */
  stretch(camera: Camera): number {
    const finest = this.site.overview?.at(-1)?.pixels ?? 1;
    return (camera.whole.side * camera.scale) / finest;
  }

  /** Draws the part of the map in view, in one colour. */
  draw(camera: Camera, ratio: number, color: string, opacity: number): void {
    const width = Math.max(1, Math.round(camera.width * ratio));
    const height = Math.max(1, Math.round(camera.height * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const pen = this.canvas.getContext("2d");
    if (!pen) return;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    const { whole } = camera;
    const side = whole.side * camera.scale * ratio;
    const source = opacity > 0 ? this.picture(side) : null;
    if (!source) return;
    const corner = camera.toScreen(whole.left, whole.bottom + whole.side);
    pen.globalAlpha = opacity;
    pen.imageSmoothingQuality = "high";
    // Only what is in view, as a picture of the whole map may be larger than a canvas can hold.
    const { pixels } = source;
    const per = side / pixels;
    const left = Math.max(0, Math.floor((-corner.x * ratio) / per));
    const top = Math.max(0, Math.floor((-corner.y * ratio) / per));
    const right = Math.min(pixels, Math.ceil((width - corner.x * ratio) / per));
    const bottom = Math.min(pixels, Math.ceil((height - corner.y * ratio) / per));
    if (right <= left || bottom <= top) return;
    pen.drawImage(
      this.inColor(source, color),
      left,
      top,
      right - left,
      bottom - top,
      corner.x * ratio + left * per,
      corner.y * ratio + top * per,
      (right - left) * per,
      (bottom - top) * per,
    );
  }

  /** Returns the best picture that is here for a size, and asks for the right one. */
  private picture(side: number): Picture | null {
    const levels = this.site.overview ?? [];
    const right = levels.findIndex((level) => level.pixels >= side * 0.75);
    const wanted = right < 0 ? levels.length - 1 : right;
    // The smallest comes first: it is there soonest.
    this.ask(0);
    if (this.pictures[0]?.ready) this.ask(wanted);
    const near = [wanted, ...levels.keys()].sort((a, b) => Math.abs(a - wanted) - Math.abs(b - wanted));
    for (const k of near) if (this.pictures[k]?.ready) return this.pictures[k];
    return null;
  }

  private ask(k: number): void {
    const level = this.site.overview?.[k];
    if (!level || this.pictures[k]) return;
    const picture = { pixels: level.pixels, image: new Image(), ready: false };
    this.pictures[k] = picture;
    picture.image.addEventListener("load", () => {
      picture.ready = true;
      this.came();
    });
    picture.image.src = level.name;
  }

  /** Colours a picture: its opacity says how many points there are. */
  private inColor(picture: Picture, color: string): HTMLCanvasElement {
    if (this.tinted?.picture !== picture || this.tinted.color !== color) {
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = picture.pixels;
      const pen = canvas.getContext("2d");
      if (pen) {
        pen.drawImage(picture.image, 0, 0, picture.pixels, picture.pixels);
        pen.globalCompositeOperation = "source-in";
        pen.fillStyle = color;
        pen.fillRect(0, 0, picture.pixels, picture.pixels);
      }
      this.tinted = { picture, color, canvas };
    }
    return this.tinted.canvas;
  }
}
