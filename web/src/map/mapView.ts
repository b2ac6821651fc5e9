// The three layers of the map (overview, points, marks) and what a frame of them shows.

import { Backdrop } from "./overview";
import { Camera, clamp, flight, type Point } from "./camera";
import { groundColor, indicesOf, paletteOf, plainColor, type Theme } from "./palettes";
import { h } from "../ui/dom";
import { Overlay, type Marks } from "./overlay";
import { nearest, type Found } from "./picking";
import { Renderer } from "./renderer";
import { colorColumns, type Column, type Site } from "../data/site";
import { Store, type Drawn, type Points } from "../data/tileCache";
import { choose, depthAt, type Limits, type Tile, type Wanted } from "../data/quadtree";

const LIMITS: Limits = { base: 250_000, most: 3_000_000, finest: 192 };
const KEPT_POINTS = 8_000_000;
const FADE_MS = 220;
/** Frames slower than this while the view moves are drawn with fewer points. */
const SLOW_MS = 45;
const RESTED_MS = 160;
/** Opacity of points behind the rings of a search. */
const DIMMED = 0.45;

/** What the points are coloured by. */
export interface Coloring {
  column: Column | null;
  hidden: ReadonlySet<number>;
  range: [number, number];
}

export class Scene {
  readonly camera: Camera;
  readonly element: HTMLElement;
  readonly surface: HTMLCanvasElement;
  readonly renderer: Renderer | null;
  private readonly backdrop: Backdrop;
  private readonly overlay: Overlay;
  private readonly store: Store;
  private drawn: Drawn[] = [];
  private wanted: Wanted[] = [];
  private coloring: Coloring = { column: null, hidden: new Set(), range: [0, 1] };
  private theme: Theme = "dark";
  private frame = 0;
  private moved = true;
  private lastFrame = 0;
  private lastMove = 0;
  private effort = 1;
  private veil = 1;
  private fly: { from: number; ms: number; at: (share: number) => void } | null = null;
  private readonly calm = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(
    site: Site,
    private readonly root: Tile | null,
    private readonly on: {
      marks: () => Omit<Marks, "pointSize">;
      /** Whether marks matter more than points. */
      dimmed: () => boolean;
      /** The view moved, or other tiles are drawn. */
      changed: (moved: boolean) => void;
      sample: (points: Points) => void;
      failed: (error: Error) => void;
    },
  ) {
    const [left, bottom, right] = site.extent;
    this.camera = new Camera({ left, bottom, side: right - left || 1 });
    const pointCanvas = h("canvas", { class: "points", "aria-hidden": "true" });
    this.surface = h("canvas", { class: "surface", tabindex: "0", role: "application" });
    this.backdrop = new Backdrop(h("canvas", { "aria-hidden": "true" }), site, () => this.redraw());
    this.overlay = new Overlay(this.surface);
    this.element = h("main", { class: "map" }, this.backdrop.canvas, pointCanvas, this.surface);
    this.renderer = Renderer.on(pointCanvas);
    this.store = new Store(colorColumns(site), KEPT_POINTS, {
      came: (points) => this.came(points),
      dropped: (points) => this.renderer?.drop(points),
      failed: (error) => {
        on.failed(error);
        this.moved = true;
        this.redraw();
      },
    });
    pointCanvas.addEventListener("webglcontextlost", () => on.failed(new Error("The graphics card was lost: reload the page.")));
    new ResizeObserver(() => this.resize()).observe(this.element);
  }

  /** Whether all that the view wants is drawn. */
  get settled(): boolean {
    return !this.fly && !this.moved && (!this.renderer || !this.store.busy);
  }

  /** Whether all points in view are drawn, not only a sample of them. */
  get whole(): boolean {
    return this.wanted.every(({ tile, count }) => count >= tile.n) && this.complete();
  }

  /** Points drawn. */
  get count(): number {
    return this.drawn.reduce((n, d) => n + d.count, 0);
  }

  color(coloring: Coloring, theme: Theme): void {
    const recolor = coloring.column !== this.coloring.column || coloring.range.some((v, i) => v !== this.coloring.range[i]);
    this.coloring = coloring;
    this.theme = theme;
    this.overlay.restyle();
    this.renderer?.setPalette(paletteOf(coloring.column, theme, coloring.hidden));
    if (recolor) for (const points of this.store.all()) this.put(points);
    this.redraw();
  }

  moveBy(px: number, py: number): void {
    this.fly = null;
    this.camera.moveBy(px, py);
    this.touch();
  }

  zoomAt(px: number, py: number, steps: number): void {
    this.fly = null;
    this.camera.zoomAt(px, py, steps);
    this.touch();
  }

  place(x: number, y: number, zoom: number): void {
    this.fly = null;
    this.camera.place(x, y, zoom);
    this.touch();
  }

  /** Moves to a view, on a path that keeps the way in sight. */
  flyTo(x: number, y: number, zoom: number): void {
    if (this.calm.matches) return this.place(x, y, zoom);
    const { camera } = this;
    const width = (z: number): number => camera.whole.side * 2 ** -z;
    const path = flight({ x: camera.x, y: camera.y, width: width(camera.zoom) }, { x, y, width: width(zoom) });
    const ms = clamp(path.length * 350, 120, 1500);
    this.fly = {
      from: performance.now(),
      ms,
      at: (share) => {
        if (share >= 1) return camera.place(x, y, zoom);
        const at = path.at(share * share * (3 - 2 * share));
        camera.place(at.x, at.y, Math.log2(camera.whole.side / at.width));
      },
    };
    this.touch();
  }

  /** The zoom from which single points around a place can be told apart. */
  nearZoom(x: number, y: number): number {
    return this.root ? clamp(depthAt(this.root, x, y) + 1, 3, 10) : 0;
  }

  /** The points of a tile, if they are in memory. */
  held(tile: Tile): Points | undefined {
    return this.store.held(tile);
  }

  redraw(): void {
    if (!this.frame) this.frame = requestAnimationFrame((now) => this.draw(now));
  }

  retry(): void {
    this.store.retry();
  }

  /** The drawn point nearest to a pixel. */
  pick(at: Point, reach: number): Found | null {
    const { column, hidden } = this.coloring;
    return nearest(this.drawn, this.camera, at, reach, column, hidden);
  }

  /** The points that are drawn, tile by tile. */
  points(): readonly Drawn[] {
    return this.drawn;
  }

  private touch(): void {
    this.moved = true;
    this.lastMove = performance.now();
    this.redraw();
  }

  private resize(): void {
    const { clientWidth: width, clientHeight: height } = this.element;
    this.camera.width = Math.max(1, width);
    this.camera.height = Math.max(1, height);
    this.renderer?.resize(width, height, this.ratio);
    this.moved = true;
    this.redraw();
  }

  private get ratio(): number {
    return Math.min(2, devicePixelRatio || 1);
  }

  private came(points: Points): void {
    if (points.tile === this.root) this.on.sample(points);
    this.put(points);
    this.moved = true;
    this.redraw();
  }

  private put(points: Points): void {
    this.renderer?.put(points, indicesOf(points, this.coloring.column, this.coloring.range));
  }

  private draw(now: number): void {
    this.frame = 0;
    if (this.fly) {
      const share = Math.min(1, Math.max(0, (now - this.fly.from) / this.fly.ms));
      this.fly.at(share);
      if (share === 1) this.fly = null;
      this.moved = true;
      this.lastMove = now;
    }
    const { camera } = this;
    const moved = this.moved;
    if (moved) {
      this.moved = false;
      this.wanted = this.root && this.renderer ? choose(this.root, camera, LIMITS) : [];
      this.store.want(this.wanted);
      this.drawn = this.store.drawn();
    }
    const moving = now - this.lastMove < RESTED_MS;
    this.measure(now, moving);
    const size = this.pointSize();
    let again = this.fly !== null || moving;
    if (this.renderer) {
      const share = moving ? this.effort : 1;
      const drawn = share < 1 ? this.drawn.map((d) => ({ ...d, count: Math.ceil(d.count * share) })) : this.drawn;
      const opacity = clamp(0.62 + size * 0.06, 0.7, 0.95) * (this.on.dimmed() ? DIMMED : 1);
      const look = { size, opacity, ground: groundColor(this.theme), fade: this.calm.matches ? 0 : FADE_MS };
      again = this.renderer.draw(drawn, camera, look, now) || again;
    }
    again = this.drawBackdrop() || again;
    this.overlay.draw(camera, this.ratio, { ...this.on.marks(), pointSize: size });
    if (again) this.redraw();
    this.on.changed(moved);
  }

  /** Draws fewer points while moving where the graphics card is slow; tiles are sorted so that the first are a sample. */
  private measure(now: number, moving: boolean): void {
    const took = now - this.lastFrame;
    this.lastFrame = now;
    if (!moving || took > 1000) return;
    if (took > SLOW_MS) this.effort = Math.max(0.1, this.effort * 0.85);
    else if (took < SLOW_MS / 2) this.effort = Math.min(1, this.effort * 1.05);
  }

  /** Diameter of the points: smaller the more there are in view. */
  private pointSize(): number {
    const { camera } = this;
    const inView = this.drawn.reduce((n, d) => n + d.count * camera.shareSeen(d.points.tile), 0);
    const room = (camera.width * camera.height * 0.1) / Math.max(inView, 1);
    return clamp(2 * Math.sqrt(room / Math.PI), 1.7, 9);
  }

  /** The overview goes back as points come, and away when all points in view are drawn or its pixels would be seen. */
  private drawBackdrop(): boolean {
    let goal = 1;
    if (this.renderer && this.drawn.length) {
      goal = this.whole || this.coloring.hidden.size ? 0 : 0.3 * clamp(2 - Math.log2(this.backdrop.stretch(this.camera)), 0, 1);
    }
    const far = goal - this.veil;
    this.veil = Math.abs(far) < 0.02 || this.calm.matches ? goal : this.veil + far * 0.15;
    // Without points the overview is the map; behind them it is shade.
    const color = this.renderer && this.drawn.length ? shade(this.theme) : plainColor(this.theme);
    this.backdrop.draw(this.camera, this.ratio, color, this.veil);
    return this.veil !== goal;
  }

  private complete(): boolean {
    if (this.store.busy) return false;
    const chosen = new Set(this.wanted.map((w) => w.tile));
    return this.wanted.every(({ tile }) => tile.children.every((child) => chosen.has(child) || !this.camera.sees(child)));
  }
}

function shade(theme: Theme): string {
  return theme === "dark" ? "#8a94a3" : "#8d96a3";
}
