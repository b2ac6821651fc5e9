// Shows the tooltip of the point under the cursor, or of a row that the reader went to: the ring at once, the text when
// the cursor rests.

import type { Point } from "../data/geometry";
import type { Row, RowText } from "../data/rowText";
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
  /** The point that the tooltip is about. */
  private shown: (Point & { row: number }) | null = null;
  /** Whether the tooltip stays until the reader points at another row, or moves the map. */
  private isHeld = false;
  private action: PointerAction = "click";
  private restTimer = 0;
  private readonly isTouchScreen = matchMedia("(pointer: coarse)");

  constructor(
    private readonly site: Site,
    private readonly map: MapView,
    private readonly rowText: RowText,
    private readonly pins: PinController,
    private readonly notifications: Notifications,
  ) {}

  /** The point with a tooltip. */
  get point(): Point | null {
    return this.shown;
  }

  /** Shows the tooltip of the point nearest to a position; `announces` also reads it to screen readers. */
  show(position: Point, action: PointerAction, announces = false): PickedPoint | null {
    const picked = this.map.pick(position, MAX_PIXELS);
    if (picked) this.showPicked(picked, action, announces);
    else this.hide();
    return picked;
  }

  /** Shows the tooltip of the point under the cursor; null means that the cursor has left the map. */
  pointAt(position: Point | null): void {
    const picked = position && this.map.pick(position, MAX_PIXELS);
    if (picked) this.showPicked(picked, "click", false);
    else if (!this.isHeld) this.hide();
  }

  private showPicked(picked: PickedPoint, action: PointerAction, announces: boolean): void {
    const isShown = picked.row === this.shown?.row && this.tooltip.isOpen && action === this.action;
    this.shown = picked;
    this.isHeld = false;
    if (isShown) return;
    clearTimeout(this.restTimer);
    this.map.surface.style.cursor = "pointer";
    this.map.redraw();
    this.action = action;
    this.showFields(
      picked,
      this.site.hover.map((name) => ({ name, value: this.valueInTile(picked, name) })),
    );
    this.restTimer = setTimeout(() => void this.loadText(picked.row, announces), REST_MS);
  }

  /** Shows the tooltip of a row that the reader goes to, and keeps it beside its point. */
  hold(row: Row): void {
    clearTimeout(this.restTimer);
    this.shown = row;
    this.isHeld = true;
    this.action = this.isTouchScreen.matches ? "tap" : "click";
    this.showFields(row, this.fieldsOf(row));
    this.follow();
  }

  /** Keeps the tooltip beside its point, out of sight while the map flies there. */
  follow(): void {
    if (!this.shown) return;
    const { camera } = this.map;
    const { x, y } = camera.toScreen(this.shown.x, this.shown.y);
    const isInView = x >= 0 && y >= 0 && x <= camera.width && y <= camera.height;
    if (isInView && !this.map.isFlying) this.tooltip.moveTo({ x, y });
    else this.tooltip.hide();
  }

  hide(): void {
    clearTimeout(this.restTimer);
    this.map.surface.style.cursor = "";
    this.tooltip.hide();
    if (this.shown) this.map.redraw();
    this.shown = null;
    this.isHeld = false;
  }

  /** Updates the hint of the tooltip after its point was pinned or unpinned. */
  refresh(): void {
    if (this.shown) void this.loadText(this.shown.row, false);
  }

  private async loadText(shownRow: number, announces: boolean): Promise<void> {
    try {
      const row = await this.rowText.get(shownRow);
      if (this.shown?.row !== shownRow) return;
      this.showFields(this.shown, this.fieldsOf(row));
      if (announces) this.notifications.announce(describeRow(row, this.site));
    } catch (error) {
      this.notifications.fail(error as Error);
    }
  }

  private fieldsOf(row: Row): TooltipField[] {
    return this.site.hover.map((name, i) => ({ name, value: row.values[i] }));
  }

  private showFields(point: Point & { row: number }, fields: TooltipField[]): void {
    const hint = `${this.action} to ${this.pins.has(point.row) ? "unpin" : "pin"}`;
    this.tooltip.show(point.row, fields, this.map.camera.toScreen(point.x, point.y), hint);
  }

  /** Returns the value of a column as far as the tile has it; undefined means that it has to be loaded. */
  private valueInTile(picked: PickedPoint, name: string): string | undefined {
    const column = this.site.columns.find((c) => c.name === name);
    const value = picked.points.values.get(name)?.[picked.index];
    const category = column?.kind === "category" && value !== undefined ? column.categories?.[value] : undefined;
    return category && !category.other ? category.label : undefined;
  }
}
