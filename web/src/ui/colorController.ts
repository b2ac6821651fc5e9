// What points are colored by: the chosen column, its hidden categories, the range of its values, and the theme.

import { Emitter } from "../data/emitter";
import type { Site } from "../data/site";
import type { TilePoints } from "../data/tilePoints";
import { CategoryFilter } from "../map/categoryFilter";
import { colorRange, type ColorRange } from "../map/colorMapping";
import type { MapView } from "../map/mapView";
import { Legend } from "./legend";
import type { ThemeSwitch } from "./theme";

export class ColorController {
  readonly legend: Legend;
  filter = new CategoryFilter(null, new Set());
  /** Emitted when the reader chose a column or hid categories. */
  readonly onEdit = new Emitter();
  /** The root tile, from which the range of numeric columns is estimated. */
  private sample: TilePoints | null = null;

  constructor(
    private readonly site: Site,
    private readonly map: MapView,
    private readonly theme: ThemeSwitch,
  ) {
    this.legend = new Legend(site);
    this.legend.onColumn.subscribe((name) => this.edit(name, new Set()));
    this.legend.onHide.subscribe((hidden) => this.edit(this.filter.column?.name ?? null, hidden));
    theme.onChange.subscribe(() => this.update());
    map.onSample.subscribe((points) => {
      this.sample = points;
      if (this.filter.column?.kind === "number") this.update();
    });
  }

  /** Colors by a column, or by none, without a step in the browser's history. */
  set(name: string | null, hidden: Iterable<number>): void {
    const column = this.site.columns.find((c) => c.in_tiles && c.name === name) ?? null;
    this.filter = new CategoryFilter(column, new Set(column?.kind === "category" ? hidden : []));
    this.update();
  }

  /** Shows the hidden categories again. */
  showAll(): void {
    this.edit(this.filter.column?.name ?? null, new Set());
  }

  private edit(name: string | null, hidden: ReadonlySet<number>): void {
    this.set(name, hidden);
    this.onEdit.emit();
  }

  private update(): void {
    const coloring = { filter: this.filter, range: this.range(), theme: this.theme.current };
    this.map.setColoring(coloring);
    this.legend.show(coloring);
  }

  private range(): ColorRange {
    const { column } = this.filter;
    if (column?.kind === "number" && this.sample) return colorRange(column, this.sample);
    return [column?.min ?? 0, column?.max ?? 1];
  }
}
