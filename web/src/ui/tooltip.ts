// The tooltip beside the point under the cursor.

import type { Point } from "../data/geometry";
import { h } from "./dom";
import { formatCount } from "./format";

export interface TooltipField {
  name: string;
  /** Null for a missing value; undefined while it is loading. */
  value: string | null | undefined;
}

const OFFSET = 14;
const MARGIN = 8;

export class Tooltip {
  readonly element = h("div", { class: "tooltip panel", role: "tooltip", id: "tooltip", hidden: true });

  get isOpen(): boolean {
    return !this.element.hidden;
  }

  /** Shows a row near a position on the screen; on narrow screens the style sheet docks it at the bottom. */
  show(row: number, fields: readonly TooltipField[], position: Point, hint: string): void {
    const title = fields.at(0);
    const others = fields.slice(1);
    const list = h("dl");
    for (const { name, value } of others) list.append(h("dt", {}, name), valueElement("dd", value));
    const rowLabel = `Row ${formatCount(row)}`;
    this.element.replaceChildren(
      title ? valueElement("strong", title.value) : h("strong", {}, rowLabel),
      ...(others.length ? [list] : []),
      h("small", {}, `${rowLabel} · ${hint}`),
    );
    this.element.hidden = false;
    this.moveTo(position);
  }

  hide(): void {
    this.element.hidden = true;
  }

  /** Moves the tooltip to the lower right of a position, or to another side where there is no room. */
  private moveTo({ x, y }: Point): void {
    const { offsetWidth: width, offsetHeight: height, style } = this.element;
    const fitsRight = x + OFFSET + width + MARGIN <= innerWidth;
    const fitsBelow = y + OFFSET + height + MARGIN <= innerHeight;
    const left = fitsRight ? x + OFFSET : x - OFFSET - width;
    const top = fitsBelow ? y + OFFSET : y - OFFSET - height;
    style.left = `${Math.max(MARGIN, Math.min(left, innerWidth - width - MARGIN))}px`;
    style.top = `${Math.max(MARGIN, Math.min(top, innerHeight - height - MARGIN))}px`;
  }
}

function valueElement(tag: "dd" | "strong", value: TooltipField["value"]): HTMLElement {
  if (value === undefined) return h(tag, { class: "loading" }, "…");
  if (value === null || value === "") return h(tag, { class: "missing" }, value === null ? "(none)" : "(empty)");
  return h(tag, { dir: "auto" }, value);
}
