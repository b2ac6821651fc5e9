// The title of the map, and how many of its points are drawn.

import type { Site } from "../data/site";
import type { MapView } from "../map/mapView";
import { h } from "./dom";
import { formatCount, plural } from "./format";

export class Header {
  readonly element: HTMLElement;
  private readonly subtitle = h("p", { class: "subtitle" });
  private readonly nPoints: string;

  constructor(site: Site, searchPanel: HTMLElement) {
    const title = site.title || "Map";
    document.title = title;
    this.nPoints = plural(site.n, "point");
    this.subtitle.textContent = this.nPoints;
    this.element = h(
      "header",
      { class: "head panel" },
      h("div", { class: "titles" }, h("h1", { dir: "auto" }, title), this.subtitle),
      searchPanel,
    );
  }

  /** Shows how many points are drawn, once they are. */
  update(map: MapView): void {
    const showsTotal = !map.isSettled || map.isComplete;
    this.subtitle.textContent = showsTotal ? this.nPoints : `${formatCount(map.pointCount)} of ${this.nPoints} drawn`;
  }
}
