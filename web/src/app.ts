// The page: its state, and who is told when it changes.

import { rangeOf } from "./map/palettes";
import { count, h, iconButton, plural, textButton } from "./ui/dom";
import { listen, type Key } from "./map/gestures";
import { Hovering } from "./ui/hover";
import { Legend } from "./ui/legend";
import { read as readView, write, type View } from "./ui/urlState";
import { Lasso } from "./ui/lasso";
import { Pins } from "./ui/pinTable";
import { Scene } from "./map/mapView";
import { Searching } from "./search/searchController";
import { colorColumns, type Column, type Site } from "./data/site";
import type { Points } from "./data/tileCache";
import { Texts, type Row } from "./data/rowText";
import { Themes } from "./ui/theme";
import type { Tile } from "./data/quadtree";

const SETTLE_MS = 200;

export class App {
  private readonly scene: Scene;
  private readonly texts: Texts;
  private readonly legend: Legend;
  private readonly hovering: Hovering;
  private readonly searching: Searching;
  private readonly lasso: Lasso;
  private readonly pins: Pins;
  private readonly status = h("div", { class: "unseen", role: "status", "aria-live": "polite" });
  private readonly alert = h("div", { class: "alert panel", role: "alert", hidden: true });
  private readonly subtitle = h("p", { class: "subtitle" });
  private readonly first: View;

  private column: Column | null = null;
  private hidden: ReadonlySet<number> = new Set();
  private pinned: Row[] = [];
  private pinRows: number[] = [];
  private sample: Points | null = null;
  private byKeys = false;
  private timer = 0;

  constructor(
    private readonly site: Site,
    root: Tile | null,
    private readonly themes: Themes,
  ) {
    const failed = (error: Error): void => this.fail(error);
    this.texts = new Texts(site);
    this.scene = new Scene(site, root, {
      marks: () => ({
        hits: this.searching.places(this.scene.points()),
        pins: this.pinned.map((row, i) => ({ x: row.x, y: row.y, label: String(i + 1) })),
        hover: this.hovering.found,
        path: this.lasso.path,
        polygon: this.lasso.polygon,
        cross: this.byKeys && document.activeElement === this.scene.surface,
      }),
      dimmed: () => this.searching.found,
      changed: (moved) => this.changed(moved),
      sample: (points) => this.sampled(points),
      failed,
    });
    this.hovering = new Hovering(site, this.scene, this.texts, {
      pinned: (row) => this.pinRows.includes(row),
      told: (row) => this.tell(this.inWords(row)),
      failed,
    });
    this.searching = new Searching(site, this.texts, {
      changed: () => this.scene.redraw(),
      stepped: (fresh) => this.remember(fresh),
      fly: (row) => this.fly(row),
      tell: (words) => this.tell(words),
      failed,
    });
    this.lasso = new Lasso(site, root, this.scene, this.texts, {
      hidden: () => ({ column: this.column, entries: this.hidden }),
      tell: (words) => this.tell(words),
      failed,
    });
    this.pins = new Pins(site, {
      fly: (row) => this.fly(row),
      remove: (row) => this.setPins(this.pinRows.filter((r) => r !== row)),
      clear: () => this.setPins([]),
    });
    this.legend = new Legend(site, {
      choose: (name) => this.setColor(name, new Set()),
      hide: (hidden) => this.setColor(this.column?.name ?? null, hidden),
    });

    const { camera } = this.scene;
    this.first = {
      x: camera.x,
      y: camera.y,
      zoom: 0,
      column: colorColumns(site)[0]?.name ?? null,
      hidden: [],
      query: "",
      pins: [],
    };
    themes.changed = () => this.recolor();
    this.build();
    listen(this.scene.surface, {
      moveBy: (px, py) => {
        this.hovering.at(null);
        this.scene.moveBy(px, py);
      },
      zoomAt: (px, py, steps) => {
        this.hovering.at(null);
        this.scene.zoomAt(px, py, steps);
      },
      hover: (at) => {
        this.byKeys = false;
        this.hovering.at(at, "click");
      },
      click: (at, touch) => this.click(at, touch),
      drawing: () => this.lasso.armed,
      lasso: (path, done) => this.lasso.draw(path, done),
      key: (name) => this.key(name),
    });
    addEventListener("popstate", () => this.restore());
    this.restore();
    if (!this.scene.renderer) this.warn(NO_WEBGL);
  }

  private build(): void {
    const { site, scene } = this;
    document.title = site.title || "Map";
    this.subtitle.textContent = plural(site.n, "point");
    const middle = (): [number, number] => [scene.camera.width / 2, scene.camera.height / 2];
    const legendButton = iconButton("list", "Colours", () => {
      const open = document.body.classList.toggle("legend-open");
      legendButton.setAttribute("aria-expanded", String(open));
    });
    legendButton.classList.add("narrow");
    legendButton.setAttribute("aria-controls", "legend");
    legendButton.setAttribute("aria-expanded", "false");
    legendButton.hidden = this.legend.element.hidden;
    const tools = h(
      "nav",
      { class: "tools", "aria-label": "Tools" },
      h("div", { class: "panel" }, legendButton, this.lasso.button, iconButton("theme", "Dark or light", () => this.themes.toggle())),
      h(
        "div",
        { class: "panel" },
        iconButton("plus", "Zoom in", () => scene.zoomAt(...middle(), 1)),
        iconButton("minus", "Zoom out", () => scene.zoomAt(...middle(), -1)),
        iconButton("whole", "Show the whole map", () => this.whole()),
      ),
    );
    const head = h(
      "header",
      { class: "head panel" },
      h("div", { class: "titles" }, h("h1", { dir: "auto" }, site.title || "Map"), this.subtitle),
      this.searching.box.element,
    );
    scene.surface.setAttribute(
      "aria-label",
      `Map of ${plural(site.n, "point")}. Arrow keys move, plus and minus zoom, 0 shows the whole map, Enter pins the point in the middle, slash searches.`,
    );
    scene.surface.addEventListener("focus", () => scene.redraw());
    scene.surface.addEventListener("blur", () => {
      this.byKeys = false;
      scene.redraw();
    });
    const bottom = h("div", { class: "bottom" }, this.alert, this.lasso.panel.element, this.pins.element);
    // On phones the card lies above what is open below.
    const measure = (): void => document.documentElement.style.setProperty("--below", `${bottom.offsetHeight}px`);
    new ResizeObserver(measure).observe(bottom);
    // In the order in which keys reach them.
    document.body.replaceChildren(
      head,
      scene.element,
      this.legend.element,
      tools,
      bottom,
      this.hovering.card.element,
      this.status,
    );
  }

  /** Takes the view from the address. */
  private restore(): void {
    const view = readView(location.hash, this.first, this.site);
    this.scene.place(view.x, view.y, view.zoom);
    this.column = this.site.columns.find((c) => c.in_tiles && c.name === view.column) ?? null;
    this.hidden = new Set(this.column?.kind === "category" ? view.hidden : []);
    this.recolor();
    void this.searching.search(view.query, false, false);
    this.showPins(view.pins);
  }

  /** Writes the view into the address: as a step that the back button undoes, or over the last one. */
  private remember(step: boolean, target?: { x: number; y: number; zoom: number }): void {
    const { camera } = this.scene;
    const { x, y, zoom } = target ?? camera;
    const view: View = {
      x,
      y,
      zoom,
      column: this.column?.name ?? null,
      hidden: [...this.hidden],
      query: this.searching.query,
      pins: this.pinRows,
    };
    const hash = write(view, this.first, (camera.scale / 2 ** camera.zoom) * 2 ** zoom);
    if (hash === location.hash.slice(1)) return;
    const address = hash ? `#${hash}` : location.pathname + location.search;
    if (step) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  }

  private changed(moved: boolean): void {
    const busy = !this.scene.settled;
    this.scene.surface.setAttribute("aria-busy", String(busy));
    const all = plural(this.site.n, "point");
    this.subtitle.textContent =
      !this.scene.renderer || busy || this.scene.whole ? all : `${count(this.scene.count)} of ${all} drawn`;
    if (!moved) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (this.scene.settled || !this.scene.renderer) this.remember(false);
      if (this.byKeys) this.hovering.at(this.middle(), "Enter", true);
    }, SETTLE_MS);
  }

  private middle(): { x: number; y: number } {
    return { x: this.scene.camera.width / 2, y: this.scene.camera.height / 2 };
  }

  private sampled(points: Points): void {
    this.sample = points;
    if (this.column?.kind === "number") this.recolor();
  }

  private setColor(name: string | null, hidden: ReadonlySet<number>): void {
    this.column = this.site.columns.find((c) => c.in_tiles && c.name === name) ?? null;
    this.hidden = hidden;
    this.recolor();
    this.remember(true);
  }

  private recolor(): void {
    const { column, hidden } = this;
    let range: [number, number] = [column?.min ?? 0, column?.max ?? 1];
    if (column?.kind === "number" && this.sample) range = rangeOf(column, this.sample);
    this.scene.color({ column, hidden, range }, this.themes.now);
    this.legend.show({ column, hidden, range, theme: this.themes.now });
  }

  private click(at: { x: number; y: number }, touch: boolean): void {
    const found = this.hovering.at(at, touch ? "tap" : "click");
    if (found) this.togglePin(found.row);
  }

  private togglePin(row: number): void {
    const there = this.pinRows.includes(row);
    this.setPins(there ? this.pinRows.filter((r) => r !== row) : [...this.pinRows, row]);
    this.hovering.refresh();
    this.tell(there ? "Pin removed" : "Pinned");
  }

  private setPins(rows: number[]): void {
    this.showPins(rows);
    this.remember(true);
  }

  private showPins(rows: number[]): void {
    this.pinRows = rows;
    Promise.all(rows.map((row) => this.texts.row(row))).then(
      (found) => {
        if (this.pinRows !== rows) return;
        this.pinned = found;
        this.pins.show(found);
        this.scene.redraw();
      },
      (error: Error) => this.fail(error),
    );
  }

  private fly(row: Row): void {
    const zoom = Math.max(this.scene.camera.zoom, this.scene.nearZoom(row.x, row.y));
    this.scene.flyTo(row.x, row.y, zoom);
    this.remember(true, { x: row.x, y: row.y, zoom });
    this.tell(this.inWords(row));
  }

  private whole(): void {
    this.scene.flyTo(this.first.x, this.first.y, 0);
    this.remember(true, { x: this.first.x, y: this.first.y, zoom: 0 });
  }

  private key(name: Key): void {
    this.byKeys = true;
    if (name === "whole") this.whole();
    else if (name === "search") this.searching.box.field.focus();
    else if (name === "escape") {
      this.lasso.close();
      this.hovering.at(null);
    } else if (name === "pin") {
      if (this.lasso.armed) return this.lasso.selectView();
      const found = this.hovering.at(this.middle(), "Enter", true);
      if (found) this.togglePin(found.row);
    }
    this.scene.redraw();
  }

  private inWords(row: Row): string {
    const told = this.site.hover.map((name, i) => (row.values[i] ? `${name}: ${row.values[i]?.slice(0, 200)}` : ""));
    return told.filter((text) => text).join(", ") || `Row ${count(row.row)}`;
  }

  private tell(words: string): void {
    this.status.textContent = words;
  }

  private warn(words: string, ...buttons: HTMLElement[]): void {
    const close = iconButton("close", "Close", () => (this.alert.hidden = true));
    this.alert.replaceChildren(h("p", {}, words), ...buttons, close);
    this.alert.hidden = false;
  }

  private fail(error: Error): void {
    const again = textButton("Try again", () => {
      this.alert.hidden = true;
      this.scene.retry();
    }, "link");
    this.warn(error.message, again);
  }
}

const NO_WEBGL =
  "This browser gives the page no WebGL 2, so only the overview is drawn: it can be moved, zoomed and searched. " +
  "Turn on hardware acceleration, or take another browser, to see single points.";
