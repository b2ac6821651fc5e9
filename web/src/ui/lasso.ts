// The lasso: a line drawn around points, the search for all rows inside, and their CSV.

import type { Point } from "../map/camera";
import { iconButton } from "./dom";
import type { Scene } from "../map/mapView";
import { csv, select, type Hidden, type Selected } from "./selection";
import { SelectionPanel } from "./selectionPanel";
import { colorColumns, type Site } from "../data/site";
import { readPoints } from "../data/tileCache";
import type { Texts } from "../data/rowText";
import type { Tile } from "../data/quadtree";

const LEAST_PIXELS = 3;

export class Lasso {
  readonly button = iconButton("lasso", "Select with a lasso", () => this.arm(!this.armed));
  readonly panel = new SelectionPanel({ save: (texts) => void this.save(texts), close: () => this.close() });
  armed = false;
  path: readonly Point[] = [];
  polygon: readonly Point[] = [];
  private selected: Selected | null = null;
  private running: AbortController | null = null;

  constructor(
    private readonly site: Site,
    private readonly root: Tile | null,
    private readonly scene: Scene,
    private readonly texts: Texts,
    private readonly on: { hidden: () => Hidden; tell: (words: string) => void; failed: (error: Error) => void },
  ) {
    this.button.setAttribute("aria-pressed", "false");
  }

  draw(path: readonly Point[], done: boolean): void {
    this.path = done ? [] : thinned(path);
    this.scene.redraw();
    if (!done) return;
    this.arm(false);
    if (path.length > 2) void this.select(thinned(path).map((p) => this.scene.camera.toMap(p.x, p.y)));
  }

  /** Selects all that is in view, for those who cannot draw. */
  selectView(): void {
    const { camera } = this.scene;
    this.arm(false);
    const corners = [[0, 0], [camera.width, 0], [camera.width, camera.height], [0, camera.height]];
    void this.select(corners.map(([x, y]) => camera.toMap(x, y)));
  }

  close(): void {
    this.running?.abort();
    this.running = null;
    this.arm(false);
    this.path = this.polygon = [];
    this.selected = null;
    this.panel.hide();
    this.scene.redraw();
  }

  private arm(armed: boolean): void {
    this.armed = armed;
    this.button.setAttribute("aria-pressed", String(armed));
    this.scene.surface.classList.toggle("drawing", armed);
    if (armed) {
      this.scene.surface.focus();
      this.on.tell("Draw around points, or press Enter to select all that is in view.");
    }
  }

  private async select(polygon: Point[]): Promise<void> {
    this.close();
    if (!this.root) return;
    this.polygon = polygon;
    const running = (this.running = new AbortController());
    const hidden = this.on.hidden();
    try {
      const selected = await select(
        this.root,
        (tile) => this.scene.held(tile) ?? readPoints(tile, colorColumns(this.site)),
        this.texts,
        polygon,
        hidden,
        (done, all) => running.signal.aborted || this.panel.progress("Reading tiles", done, all),
        running.signal,
      );
      if (!selected) return;
      this.selected = selected;
      this.on.tell(this.panel.done(selected.n, hidden.entries.size > 0));
    } catch (error) {
      this.close();
      this.on.failed(error as Error);
    }
  }

  private async save(texts: boolean): Promise<void> {
    const { selected } = this;
    if (!selected) return;
    try {
      const tell = (done: number, all: number): void => {
        // Whoever dropped the selection does not want to see it again.
        if (selected === this.selected) this.panel.progress("Writing rows", done, all);
      };
      const blob = await csv(selected, this.site, texts ? this.texts : null, tell);
      if (selected !== this.selected) return;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = "selection.csv";
      link.click();
      // The browser needs the address until it has begun to write.
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch (error) {
      this.on.failed(error as Error);
    }
    if (selected === this.selected) this.panel.done(selected.n, this.on.hidden().entries.size > 0);
  }
}

/** Leaves out points that are hardly apart. */
function thinned(path: readonly Point[]): Point[] {
  const kept: Point[] = [];
  for (const point of path) {
    const last = kept.at(-1);
    if (!last || Math.hypot(point.x - last.x, point.y - last.y) >= LEAST_PIXELS) kept.push(point);
  }
  return kept;
}
