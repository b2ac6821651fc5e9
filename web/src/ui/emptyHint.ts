// Says why a view is empty, and offers the way out.

import type { CategoryFilter } from "../map/categoryFilter";
import type { ViewContents } from "../map/viewContents";
import { Emitter } from "../data/emitter";
import { h, textButton } from "./dom";
import type { Notifications } from "./notifications";

/** What to say of an empty view, and what its button does. */
export interface Emptiness {
  message: string;
  remedy: "show the map" | "show categories" | null;
}

/** Returns what to say of a view, or null where there is something to see. */
export function describeEmptiness(contents: ViewContents, filter: CategoryFilter, nPoints: number): Emptiness | null {
  if (nPoints === 0) return { message: "This map has no points.", remedy: null };
  if (contents === "points") return null;
  const nCategories = filter.column?.categories?.length ?? 0;
  if (nCategories > 0 && filter.hidden.size >= nCategories) {
    return { message: "All categories are hidden.", remedy: "show categories" };
  }
  if (contents === "hidden points") return { message: "All points here are hidden.", remedy: "show categories" };
  return { message: "There are no points here.", remedy: "show the map" };
}

export class EmptyHint {
  readonly onShowMap = new Emitter();
  readonly onShowCategories = new Emitter();
  readonly element = h("div", { class: "empty-hint panel" });
  private shown: Emptiness | null = null;

  constructor() {
    this.element.hidden = true;
  }

  /** @param notifications announces the hint to screen readers, once */
  show(emptiness: Emptiness | null, notifications: Notifications): void {
    if (emptiness?.message === this.shown?.message) return;
    this.shown = emptiness;
    this.element.hidden = emptiness === null;
    this.element.replaceChildren();
    if (!emptiness) return;
    notifications.announce(emptiness.message);
    this.element.append(h("p", {}, emptiness.message));
    const { remedy } = emptiness;
    if (remedy === "show the map") this.element.append(this.button("Show the whole map", this.onShowMap));
    if (remedy === "show categories") this.element.append(this.button("Show all categories", this.onShowCategories));
  }

  private button(label: string, pressed: Emitter): HTMLButtonElement {
    return textButton(label, () => pressed.emit(), "link");
  }
}
