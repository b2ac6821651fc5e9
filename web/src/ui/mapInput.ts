// Connects gestures and keys with what they do on the map.

import type { Point } from "../data/geometry";
import { addGestureListeners, type GestureHandlers, type KeyCommand } from "../map/gestures";
import { addKeyListeners } from "../map/keys";
import type { MapView } from "../map/mapView";
import type { HoverController, PointerAction } from "./hoverController";
import type { LassoController } from "./lassoController";
import type { Navigation } from "./navigation";
import type { PinController } from "./pinController";

/** The parts of the page that gestures act on. */
export interface MapInputTargets {
  hover: HoverController;
  pins: PinController;
  lasso: LassoController;
  navigation: Navigation;
  searchField: HTMLElement;
}

export class MapInput {
  /** Whether the last gesture came from the keyboard, which acts on the center of the view. */
  private usesKeyboard = false;

  constructor(
    private readonly map: MapView,
    private readonly targets: MapInputTargets,
  ) {
    const { hover, lasso } = targets;
    const handlers: GestureHandlers = {
      panBy: (px, py) => {
        hover.hide();
        map.panBy(px, py);
      },
      zoomAt: (px, py, steps) => {
        hover.hide();
        map.zoomAt(px, py, steps);
      },
      hover: (position) => {
        this.usesKeyboard = false;
        hover.pointAt(position);
      },
      click: (position, isTouch) => this.pinAt(position, isTouch ? "tap" : "click", false),
      isLassoActive: () => lasso.isActive,
      lasso: (path, isDone) => lasso.draw(path, isDone),
      key: (command) => this.runCommand(command),
    };
    addGestureListeners(map.surface, handlers);
    addKeyListeners(map.surface, handlers);
    map.surface.addEventListener("focus", () => map.redraw());
    map.surface.addEventListener("blur", () => {
      this.usesKeyboard = false;
      map.redraw();
    });
  }

  /** Whether to mark the center of the view. */
  get showsCrosshair(): boolean {
    const { activeElement, body } = document;
    return this.usesKeyboard && (activeElement === this.map.surface || activeElement === body);
  }

  /** Shows and announces the point at the center, if the reader moves by keys. */
  describeCenter(): void {
    if (this.showsCrosshair) this.targets.hover.show(this.map.camera.screenCenter, "Enter", true);
  }

  private runCommand(command: KeyCommand): void {
    const { hover, lasso, navigation, searchField } = this.targets;
    this.usesKeyboard = true;
    if (command === "pin" && lasso.isActive) {
      lasso.selectView();
      return;
    }
    if (command === "showAll") navigation.showAll();
    else if (command === "search") searchField.focus();
    else if (command === "pin") this.pinAt(this.map.camera.screenCenter, "Enter", true);
    else if (command === "escape") {
      lasso.clear();
      hover.hide();
    }
    this.map.redraw();
  }

  private pinAt(position: Point, action: PointerAction, announces: boolean): void {
    const point = this.targets.hover.show(position, action, announces);
    if (point) this.targets.pins.toggle(point.row);
  }
}
