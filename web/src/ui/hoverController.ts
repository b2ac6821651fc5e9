// Shows the tooltip of the point under the cursor: the ring at once, the text when the cursor rests.

import type { Point } from "../data/geometry";
import type { RowText } from "../data/rowText";
import type { Site } from "../data/site";
import type { MapView } from "../map/mapView";
import type { PickedPoint } from "../map/picking";
import type { Notifications } from "./notifications";
import type { PinController } from "./pinController";
import { describeRow } from "./rowDescription";
import { Tooltip, type TooltipField } from "./tooltip";

const MAX_PIXELS = 14;
const REST_MS = 50;

/** How the reader points, as the tooltip's hint says it. */
export type PointerAction = "click" | "tap" | "Enter";

export class HoverController {
  readonly tooltip = new Tooltip();
  private picked: PickedPoint | null = null;
  private action: PointerAction = "click";
  private restTimer = 0;

  constructor(
    private readonly site: Site,
    private readonly map: MapView,
    private readonly rowText: RowText,
    private readonly pins: PinController,
    private readonly notifications: Notifications,
  ) {}

  /** The hovered point. */
  get point(): PickedPoint | null {
    return this.picked;
  }

  /** Shows the tooltip of the point nearest to a position; `announces` also reads it to screen readers. */
  show(position: Point, action: PointerAction, announces = false): PickedPoint | null {
    const picked = this.map.pick(position, MAX_PIXELS);
    if (!picked) {
      this.hide();
      return null;
    }
    const isShown = picked.row === this.picked?.row && this.tooltip.isOpen;
    this.picked = picked;
    if (isShown) return picked;
    clearTimeout(this.restTimer);
    this.map.surface.style.cursor = "pointer";
    this.map.redraw();
    this.action = action;
    this.showFields(
      picked,
      this.site.hover.map((name) => ({ name, value: this.valueInTile(picked, name) })),
    );
    this.restTimer = setTimeout(() => void this.loadText(picked, announces), REST_MS);
    return picked;
  }

  hide(): void {
    clearTimeout(this.restTimer);
    this.map.surface.style.cursor = "";
    this.tooltip.hide();
    if (this.picked) this.map.redraw();
    this.picked = null;
  }

  /** Updates the hint of the tooltip after its point was pinned or unpinned. */
  refresh(): void {
    if (this.picked) void this.loadText(this.picked, false);
  }

  private async loadText(picked: PickedPoint, announces: boolean): Promise<void> {
    try {
      const row = await this.rowText.get(picked.row);
      if (this.picked?.row !== picked.row) return;
      this.showFields(
        picked,
        this.site.hover.map((name, i) => ({ name, value: row.values[i] })),
      );
      if (announces) this.notifications.announce(describeRow(row, this.site));
    } catch (error) {
      this.notifications.fail(error as Error);
    }
  }

  private showFields(picked: PickedPoint, fields: TooltipField[]): void {
    const hint = `${this.action} to ${this.pins.has(picked.row) ? "unpin" : "pin"}`;
    this.tooltip.show(picked.row, fields, this.map.camera.toScreen(picked.x, picked.y), hint);
  }

  /** Returns the value of a column as far as the tile has it; undefined means that it has to be loaded. */
  private valueInTile(picked: PickedPoint, name: string): string | undefined {
    const column = this.site.columns.find((c) => c.name === name);
    const value = picked.points.values.get(name)?.[picked.index];
    const category = column?.kind === "category" && value !== undefined ? column.categories?.[value] : undefined;
    return category && !category.other ? category.label : undefined;
  }
}
