// The card beside the point under the cursor.

import type { Point } from "../map/camera";
import { count, h } from "./dom";

export interface Line {
  name: string;
  /** Null for a missing value; undefined while it is on its way. */
  value: string | null | undefined;
}

const GAP = 14;
const EDGE = 8;

export class Card {
  readonly element = h("div", { class: "card panel", role: "tooltip", id: "card", hidden: true });

  /** Shows a row near a point of the map; on narrow pages the style sheet docks it below. */
  show(row: number, lines: readonly Line[], at: Point, hint: string): void {
    const [head, ...others] = lines;
    const list = h("dl");
    for (const { name, value } of others) list.append(h("dt", {}, name), valueOf("dd", value));
    this.element.replaceChildren(
      head ? valueOf("strong", head.value) : h("strong", {}, `Row ${count(row)}`),
      ...(others.length ? [list] : []),
      h("small", {}, `Row ${count(row)} · ${hint}`),
    );
    this.element.hidden = false;
    this.place(at);
  }

  hide(): void {
    this.element.hidden = true;
  }

  private place(at: Point): void {
    const { offsetWidth: width, offsetHeight: height, style } = this.element;
    const right = at.x + GAP + width + EDGE <= innerWidth;
    const left = right ? at.x + GAP : at.x - GAP - width;
    const top = at.y + GAP + height + EDGE <= innerHeight ? at.y + GAP : at.y - GAP - height;
    style.left = `${Math.max(EDGE, Math.min(left, innerWidth - width - EDGE))}px`;
    style.top = `${Math.max(EDGE, Math.min(top, innerHeight - height - EDGE))}px`;
  }
}

function valueOf(tag: "dd" | "strong", value: Line["value"]): HTMLElement {
  if (value === undefined) return h(tag, { class: "waiting" }, "…");
  if (value === null || value === "") return h(tag, { class: "missing" }, value === null ? "(none)" : "(empty)");
  return h(tag, { dir: "auto" }, value);
}
