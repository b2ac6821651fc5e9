// Flights of the camera that the reader asks for.

import { Emitter } from "../data/emitter";
import type { Row } from "../data/rowText";
import type { Site } from "../data/site";
import type { ViewTarget } from "../map/camera";
import type { MapView } from "../map/mapView";
import type { Notifications } from "./notifications";
import { describeRow } from "./rowDescription";

export class Navigation {
  /** Emitted at the start of a flight. */
  readonly onFlight = new Emitter<ViewTarget>();
  /** Emitted with the row at which a flight will end. */
  readonly onRow = new Emitter<Row>();

  constructor(
    private readonly site: Site,
    private readonly map: MapView,
    private readonly home: ViewTarget,
    private readonly notifications: Notifications,
  ) {}

  /** Flies to a row, and zooms in as far as points around it can be told apart. */
  goToRow(row: Row): void {
    const zoom = Math.max(this.map.camera.zoom, this.map.detailZoom(row.x, row.y));
    this.flyTo({ x: row.x, y: row.y, zoom });
    this.onRow.emit(row);
    this.notifications.announce(describeRow(row, this.site));
  }

  showAll(): void {
    this.flyTo(this.home);
  }

  zoomBy(steps: number): void {
    const { x, y } = this.map.camera.screenCenter;
    this.map.zoomAt(x, y, steps);
  }

  private flyTo(target: ViewTarget): void {
    this.map.flyTo(target);
    this.onFlight.emit(target);
  }
}
