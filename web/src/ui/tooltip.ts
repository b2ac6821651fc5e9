// The tooltip beside a point.

import type { Point } from "../data/geometry";
import { h } from "./dom";
import { formatCount } from "./format";
import { placeCard } from "./placement";

export interface TooltipField {
  name: string;
  /** Null for a missing value; undefined while it is loading. */
  value: string | null | undefined;
}

export class Tooltip {
  readonly element = h("div", { class: "tooltip panel", role: "tooltip", id: "tooltip", hidden: true });

  get isOpen(): boolean {
    return !this.element.hidden;
  }

  /** Shows a row near a position on the screen. */
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
    this.moveTo(position);
  }

  hide(): void {
    this.element.hidden = true;
  }

  /** Shows the tooltip near a position on the screen; on narrow screens the style sheet docks it at the bottom. */
  moveTo(position: Point): void {
    const { element } = this;
    element.hidden = false;
    const card = { width: element.offsetWidth, height: element.offsetHeight };
    const panels = [...document.querySelectorAll(".panel")].filter((panel) => panel !== element);
    const taken = panels.map((panel) => panel.getBoundingClientRect()).filter((area) => area.width > 0);
    const { x, y } = placeCard(card, position, { width: innerWidth, height: innerHeight }, taken);
    element.style.left = `${x}px`;
    element.style.top = `${y}px`;
  }
}

function valueElement(tag: "dd" | "strong", value: TooltipField["value"]): HTMLElement {
  if (value === undefined) return h(tag, { class: "loading" }, "…");
  if (value === null || value === "") return h(tag, { class: "missing" }, value === null ? "(none)" : "(empty)");
  return h(tag, { dir: "auto" }, value);
}
