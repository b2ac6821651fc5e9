// From a point under the cursor to its card: the ring at once, the text when the cursor rests.

import type { Point } from "../map/camera";
import { Card, type Line } from "./tooltip";
import type { Found } from "../map/picking";
import type { Scene } from "../map/mapView";
import type { Site } from "../data/site";
import type { Row, Texts } from "../data/rowText";

const REACH = 14;
const REST_MS = 50;

export class Hovering {
  readonly card = new Card();
  found: Found | null = null;
  private timer = 0;
  private act = "click";

  constructor(
    private readonly site: Site,
    private readonly scene: Scene,
    private readonly texts: Texts,
    private readonly on: { pinned: (row: number) => boolean; told: (row: Row) => void; failed: (error: Error) => void },
  ) {}

  /** Looks for a point at a place, or lets go. `act` is what pins it; `aloud` tells it to screen readers, too. */
  at(place: Point | null, act = "click", aloud = false): Found | null {
    const found = place ? this.scene.pick(place, REACH) : null;
    const before = this.found;
    this.found = found;
    if (found?.row === before?.row && found !== null && !this.card.element.hidden) return found;
    clearTimeout(this.timer);
    this.scene.surface.style.cursor = found ? "pointer" : "";
    if (!found) {
      this.card.hide();
      if (before) this.scene.redraw();
      return null;
    }
    this.scene.redraw();
    this.act = act;
    this.show(found, this.site.hover.map((name) => ({ name, value: this.known(found, name) })));
    this.timer = setTimeout(() => void this.read(found, aloud), REST_MS);
    return found;
  }

  /** Shows the card again, as its point may have been pinned. */
  refresh(): void {
    if (this.found) void this.read(this.found, false);
  }

  private async read(found: Found, aloud: boolean): Promise<void> {
    try {
      const row = await this.texts.row(found.row);
      if (this.found?.row !== found.row) return;
      this.show(found, this.site.hover.map((name, i) => ({ name, value: row.values[i] })));
      if (aloud) this.on.told(row);
    } catch (error) {
      this.on.failed(error as Error);
    }
  }

  private show(found: Found, lines: Line[]): void {
    const hint = `${this.act} to ${this.on.pinned(found.row) ? "unpin" : "pin"}`;
    this.card.show(found.row, lines, this.scene.camera.toScreen(found.x, found.y), hint);
  }

  /** What the tile itself knows of a column. */
  private known(found: Found, name: string): string | undefined {
    const column = this.site.columns.find((c) => c.name === name);
    const value = found.points.values.get(name)?.[found.index];
    const category = column?.kind === "category" && value !== undefined ? column.categories?.[value] : undefined;
    return category && !category.other ? category.label : undefined;
  }
}
