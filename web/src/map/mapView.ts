// The map: three layers (overview, points, annotations), the camera, and the frames that draw them.

import { Emitter } from "../data/emitter";
import { clamp, type Point } from "../data/geometry";
import { depthAt, type Tile } from "../data/quadtree";
import { colorColumns, extentOf, type Site } from "../data/site";
import { TileCache, type TileRequest } from "../data/tileCache";
import type { TilePoints, VisibleTile } from "../data/tilePoints";
import { h } from "../ui/dom";
import { Camera, type ViewTarget } from "./camera";
import { CanvasRenderer } from "./canvasRenderer";
import { CategoryFilter } from "./categoryFilter";
import { paletteIndices, paletteTexture, type ColorRange } from "./colorMapping";
import { FlightAnimation } from "./flightAnimation";
import { LevelOfDetail } from "./levelOfDetail";
import { Overlay, type Annotations } from "./overlay";
import { Overview } from "./overview";
import { backgroundColor, overviewColor, plainColor, type Theme } from "./palettes";
import { pickNearest, type PickedPoint } from "./picking";
import { Renderer, type PointRenderer } from "./renderer";
import { selectTiles, type DetailLimits } from "./tileSelection";
import { viewContents, type ViewContents } from "./viewContents";

const LIMITS: DetailLimits = { basePoints: 250_000, maxPoints: 3_000_000, minTilePixels: 192 };
/** Without WebGL a frame takes about as long as thirty times as many points with it. */
const CANVAS_LIMITS: DetailLimits = { ...LIMITS, basePoints: 20_000, maxPoints: 60_000 };
const MAX_CACHED_POINTS = 8_000_000;
const FADE_MS = 220;
/** The view counts as moving until this long after the last movement. */
const MOVING_MS = 160;
/** `onRest` is emitted this long after the last frame of a movement. */
const REST_MS = 200;
const MAX_PIXEL_RATIO = 2;
/** Opacity of points when annotations matter more. */
const DIMMED = 0.45;
/** Share of the screen that points cover together. */
const POINT_COVERAGE = 0.1;
const MIN_POINT_SIZE = 1.7;
const MAX_POINT_SIZE = 9;
/** Opacity of the overview behind a sample of the points. */
const OVERVIEW_OPACITY = 0.3;

/** How points are colored, and which of them are hidden. */
export interface Coloring {
  filter: CategoryFilter;
  range: ColorRange;
  theme: Theme;
}

export class MapView {
  readonly camera: Camera;
  readonly element: HTMLElement;
  /** The top layer, which receives gestures. */
  readonly surface: HTMLCanvasElement;
  /** Whether the browser has WebGL 2; fewer points are drawn without it. */
  readonly hasWebGl: boolean;
  /** Emitted after each frame, with whether the view or its tiles changed. */
  readonly onFrame = new Emitter<boolean>();
  readonly onRest = new Emitter();
  /** Emitted with the root tile, which is a fair sample of the map. */
  readonly onSample = new Emitter<TilePoints>();
  readonly onFail = new Emitter<Error>();
  /** Returns the annotations of a frame. */
  annotate: () => Annotations = () => NO_ANNOTATIONS;

  private readonly renderer: PointRenderer;
  private readonly overview: Overview;
  private readonly overlay: Overlay;
  private readonly tiles: TileCache;
  private readonly levelOfDetail = new LevelOfDetail();
  private readonly prefersReducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
  private requests: TileRequest[] = [];
  private visible: VisibleTile[] = [];
  private coloring: Coloring = { filter: new CategoryFilter(null, new Set()), range: [0, 1], theme: "dark" };
  private flight: FlightAnimation | null = null;
  private overviewOpacity = 1;
  private frameRequest = 0;
  private restTimer = 0;
  private lastMove = 0;
  /** Whether tiles have to be selected again. */
  private isStale = true;

  constructor(
    site: Site,
    private readonly root: Tile | null,
  ) {
    this.camera = new Camera(extentOf(site));
    const pointCanvas = h("canvas", { class: "points", "aria-hidden": "true" });
    this.surface = h("canvas", { class: "surface", tabindex: "0", role: "application" });
    this.overview = new Overview(h("canvas", { "aria-hidden": "true" }), site, () => this.redraw());
    this.overlay = new Overlay(this.surface);
    const webGl = Renderer.create(pointCanvas);
    this.hasWebGl = webGl !== null;
    this.renderer = webGl ?? new CanvasRenderer(this.overview.canvas);
    this.element = h("main", { class: "map" }, this.overview.canvas, ...(webGl ? [pointCanvas] : []), this.surface);
    this.tiles = new TileCache(colorColumns(site), MAX_CACHED_POINTS);
    this.tiles.onLoad.subscribe((points) => this.showTile(points));
    this.tiles.onEvict.subscribe((points) => this.renderer.remove(points));
    this.tiles.onFail.subscribe((error) => {
      this.onFail.emit(error);
      this.invalidate();
    });
    pointCanvas.addEventListener("webglcontextlost", () =>
      this.onFail.emit(new Error("The browser lost its WebGL context: reload the page.")),
    );
    new ResizeObserver(() => this.resize()).observe(this.element);
  }

  /** Whether everything that the view needs is drawn. */
  get isSettled(): boolean {
    return !this.flight && !this.isStale && !this.tiles.isLoading;
  }

  /** Whether the view moves by itself. */
  get isFlying(): boolean {
    return this.flight !== null;
  }

  /** Whether all points in view are drawn, not only a sample of them. */
  get isComplete(): boolean {
    if (this.tiles.isLoading || !this.requests.every(({ tile, count }) => count >= tile.n)) return false;
    const requested = new Set(this.requests.map(({ tile }) => tile));
    return this.requests.every(({ tile }) =>
      tile.children.every((child) => requested.has(child) || !this.camera.isVisible(child)),
    );
  }

  /** Number of points drawn. */
  get pointCount(): number {
    return this.visible.reduce((sum, tile) => sum + tile.count, 0);
  }

  /** What there is to see in the view, or null as long as not all of its points are drawn. */
  get contents(): ViewContents | null {
    if (!this.isSettled) return null;
    const contents = viewContents(this.visible, this.camera, this.coloring.filter);
    return contents === "points" || this.isComplete ? contents : null;
  }

  /** The drawn points, tile by tile. */
  get visibleTiles(): readonly VisibleTile[] {
    return this.visible;
  }

  setColoring(coloring: Coloring): void {
    const { filter, range, theme } = coloring;
    const previous = this.coloring;
    this.coloring = coloring;
    this.overlay.updateColors();
    this.renderer.setPalette(paletteTexture(filter.column, theme, filter.hidden));
    if (filter.column !== previous.filter.column || range.some((v, i) => v !== previous.range[i])) {
      for (const points of this.tiles.all()) this.upload(points);
    }
    this.redraw();
  }

  panBy(px: number, py: number): void {
    this.flight = null;
    this.camera.panBy(px, py);
    this.onMove();
  }

  zoomAt(px: number, py: number, steps: number): void {
    this.flight = null;
    this.camera.zoomAt(px, py, steps);
    this.onMove();
  }

  moveTo({ x, y, zoom }: ViewTarget): void {
    this.flight = null;
    this.camera.moveTo(x, y, zoom);
    this.onMove();
  }

  /** Moves to a view with an animation, unless the reader prefers reduced motion. */
  flyTo(target: ViewTarget): void {
    if (this.prefersReducedMotion.matches) {
      this.moveTo(target);
      return;
    }
    this.flight = new FlightAnimation(this.camera, target);
    this.onMove();
  }

  /** Returns the zoom from which single points around a position can be told apart. */
  detailZoom(x: number, y: number): number {
    return this.root ? clamp(depthAt(this.root, x, y) + 1, 3, 10) : 0;
  }

  /** Returns the points of a tile, if they are in memory. */
  cachedTile(tile: Tile): TilePoints | undefined {
    return this.tiles.get(tile);
  }

  redraw(): void {
    if (!this.frameRequest) this.frameRequest = requestAnimationFrame((now) => this.draw(now));
  }

  /** Loads tiles again that could not be loaded. */
  retry(): void {
    this.tiles.retry();
  }

  /** Returns the drawn point nearest to a pixel, or null. */
  pick(pixel: Point, maxPixels: number): PickedPoint | null {
    return pickNearest(this.visible, this.camera, pixel, maxPixels, this.coloring.filter);
  }

  private get pixelRatio(): number {
    return Math.min(MAX_PIXEL_RATIO, devicePixelRatio || 1);
  }

  private onMove(): void {
    this.lastMove = performance.now();
    this.invalidate();
  }

  private invalidate(): void {
    this.isStale = true;
    this.redraw();
  }

  private resize(): void {
    const { clientWidth: width, clientHeight: height } = this.element;
    this.camera.width = Math.max(1, width);
    this.camera.height = Math.max(1, height);
    this.renderer.resize(width, height, this.pixelRatio);
    this.invalidate();
  }

  private showTile(points: TilePoints): void {
    if (points.tile === this.root) this.onSample.emit(points);
    this.upload(points);
    this.invalidate();
  }

  private upload(points: TilePoints): void {
    this.renderer.upload(points, paletteIndices(points, this.coloring.filter.column, this.coloring.range));
  }

  private draw(now: number): void {
    this.frameRequest = 0;
    if (this.flight) {
      if (this.flight.advance(now)) this.flight = null;
      this.isStale = true;
      this.lastMove = now;
    }
    const changed = this.isStale;
    if (changed) this.updateTiles();
    const isMoving = now - this.lastMove < MOVING_MS;
    this.levelOfDetail.update(now, isMoving);
    const annotations = this.annotate();
    const pointSize = this.pointSize();
    const isOverviewFading = this.drawOverview();
    const isFading = this.drawPoints(now, isMoving, pointSize, annotations.dimPoints);
    this.overlay.draw(this.camera, this.pixelRatio, annotations, pointSize);
    if (this.flight || isMoving || isFading || isOverviewFading) this.redraw();
    this.onFrame.emit(changed);
    if (!changed) return;
    clearTimeout(this.restTimer);
    this.restTimer = setTimeout(() => this.onRest.emit(), REST_MS);
  }

  private updateTiles(): void {
    this.isStale = false;
    this.requests = this.root ? selectTiles(this.root, this.camera, this.hasWebGl ? LIMITS : CANVAS_LIMITS) : [];
    this.tiles.request(this.requests);
    this.visible = this.tiles.visibleTiles();
  }

  /** Returns whether some tile is still fading in. */
  private drawPoints(now: number, isMoving: boolean, pointSize: number, isDimmed: boolean): boolean {
    const share = isMoving ? this.levelOfDetail.factor : 1;
    const tiles =
      share < 1 ? this.visible.map((tile) => ({ ...tile, count: Math.ceil(tile.count * share) })) : this.visible;
    const style = {
      size: pointSize,
      opacity: clamp(0.62 + pointSize * 0.06, 0.7, 0.95) * (isDimmed ? DIMMED : 1),
      background: backgroundColor(this.coloring.theme),
      fadeMs: this.prefersReducedMotion.matches ? 0 : FADE_MS,
    };
    return this.renderer.draw(tiles, this.camera, style, now);
  }

  /** Returns the diameter of points in pixels: smaller the more there are in view. */
  private pointSize(): number {
    const { camera } = this;
    const inView = this.visible.reduce((sum, tile) => sum + tile.count * camera.visibleShare(tile.points.tile), 0);
    const area = (camera.width * camera.height * POINT_COVERAGE) / Math.max(inView, 1);
    return clamp(2 * Math.sqrt(area / Math.PI), MIN_POINT_SIZE, MAX_POINT_SIZE);
  }

  /** Draws the overview, whose opacity approaches its target frame by frame. Returns whether it has yet to do so. */
  private drawOverview(): boolean {
    const hasPoints = this.visible.length > 0;
    const target = hasPoints ? this.backgroundOpacity() : 1;
    const difference = target - this.overviewOpacity;
    const jumps = Math.abs(difference) < 0.02 || this.prefersReducedMotion.matches;
    this.overviewOpacity = jumps ? target : this.overviewOpacity + difference * 0.15;
    const { theme } = this.coloring;
    const color = hasPoints ? overviewColor(theme) : plainColor(theme);
    this.overview.draw(this.camera, this.pixelRatio, color, this.overviewOpacity);
    return this.overviewOpacity !== target;
  }

  /** Opacity of the overview behind points: none where all points are drawn, or where its pixels would show. */
  private backgroundOpacity(): number {
    if (this.isComplete || this.coloring.filter.hidden.size) return 0;
    return OVERVIEW_OPACITY * clamp(2 - Math.log2(this.overview.magnification(this.camera)), 0, 1);
  }
}

const NO_ANNOTATIONS: Annotations = {
  hits: [],
  pins: [],
  hovered: null,
  lassoPath: [],
  polygon: [],
  showCrosshair: false,
  dimPoints: false,
};
