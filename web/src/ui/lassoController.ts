// The lasso: a line drawn around points, the search for all rows inside, and their CSV.

import type { Point } from "../data/geometry";
import type { Tile } from "../data/quadtree";
import type { RowText } from "../data/rowText";
import { colorColumns, type Site } from "../data/site";
import { loadTile } from "../data/tilePoints";
import type { CategoryFilter } from "../map/categoryFilter";
import type { MapView } from "../map/mapView";
import { SelectionSearch, type Selection } from "../map/selection";
import { writeCsv } from "../map/selectionCsv";
import { iconButton } from "./dom";
import { download } from "./download";
import { simplifyPath } from "./lassoPath";
import type { Notifications } from "./notifications";
import { SelectionPanel, type CsvOptions } from "./selectionPanel";

export class LassoController {
  readonly button = iconButton("lasso", "Select with a lasso", () => this.setActive(!this.isActive));
  readonly panel = new SelectionPanel();
  /** Whether a plain drag draws a lasso. */
  isActive = false;
  /** The lasso while it is drawn, in pixels. */
  path: readonly Point[] = [];
  /** The finished lasso, in map units. */
  polygon: readonly Point[] = [];
  private readonly search: SelectionSearch | null;
  private selection: Selection | null = null;
  private running: AbortController | null = null;

  /** @param currentFilter returns the filter that selections respect */
  constructor(
    private readonly site: Site,
    root: Tile | null,
    private readonly map: MapView,
    private readonly rowText: RowText,
    private readonly currentFilter: () => CategoryFilter,
    private readonly notifications: Notifications,
  ) {
    const columns = colorColumns(site);
    this.search = root && new SelectionSearch(root, (tile) => map.cachedTile(tile) ?? loadTile(tile, columns), rowText);
    this.button.setAttribute("aria-pressed", "false");
    this.panel.onSave.subscribe((options) => void this.save(options));
    this.panel.onClear.subscribe(() => this.clear());
  }

  /** Shows the path of a lasso, and selects the rows inside once it is done. */
  draw(path: readonly Point[], isDone: boolean): void {
    const simplified = simplifyPath(path);
    this.path = isDone ? [] : simplified;
    this.map.redraw();
    if (!isDone) return;
    this.setActive(false);
    if (path.length > 2) void this.select(simplified.map((p) => this.map.camera.toMap(p.x, p.y)));
  }

  /** Selects everything in view, for readers who cannot draw. */
  selectView(): void {
    const { camera } = this.map;
    this.setActive(false);
    const corners = [
      [0, 0],
      [camera.width, 0],
      [camera.width, camera.height],
      [0, camera.height],
    ];
    void this.select(corners.map(([x, y]) => camera.toMap(x, y)));
  }

  /** Clears the selection, and aborts a search for it. */
  clear(): void {
    this.running?.abort();
    this.running = null;
    this.setActive(false);
    this.path = this.polygon = [];
    this.selection = null;
    this.panel.hide();
    this.map.redraw();
  }

  private setActive(isActive: boolean): void {
    this.isActive = isActive;
    this.button.setAttribute("aria-pressed", String(isActive));
    this.map.surface.classList.toggle("drawing", isActive);
    if (isActive) {
      this.map.surface.focus();
      this.notifications.announce("Draw around points, or press Enter to select everything in view.");
    }
  }

  private async select(polygon: Point[]): Promise<void> {
    this.clear();
    if (!this.search) return;
    this.polygon = polygon;
    const running = (this.running = new AbortController());
    const filter = this.currentFilter();
    const reportProgress = (done: number, total: number): void => {
      if (!running.signal.aborted) this.panel.showProgress("Reading tiles", done, total);
    };
    try {
      const selection = await this.search.run(polygon, filter, reportProgress, running.signal);
      if (!selection) return;
      this.selection = selection;
      this.notifications.announce(this.panel.showResult(selection.n, filter.hidden.size > 0));
    } catch (error) {
      this.clear();
      this.notifications.fail(error as Error);
    }
  }

  private async save({ includesText, keepsFormulas }: CsvOptions): Promise<void> {
    const { selection } = this;
    if (!selection) return;
    // A selection that was cleared while its CSV is written must not show up again.
    const isCurrent = (): boolean => selection === this.selection;
    try {
      const reportProgress = (done: number, total: number): void => {
        if (isCurrent()) this.panel.showProgress("Writing rows", done, total);
      };
      const rowText = includesText ? this.rowText : null;
      const csv = await writeCsv(selection, this.site, rowText, reportProgress, keepsFormulas);
      if (!isCurrent()) return;
      download(csv, "selection.csv");
    } catch (error) {
      this.notifications.fail(error as Error);
    }
    if (isCurrent()) this.panel.showResult(selection.n, this.currentFilter().hidden.size > 0);
  }
}
