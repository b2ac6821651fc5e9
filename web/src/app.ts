// The page: creates its parts and connects what they report with what follows from it.

import type { Tile } from "./data/quadtree";
import { RowText } from "./data/rowText";
import type { Site } from "./data/site";
import { MapView } from "./map/mapView";
import { SearchController } from "./search/searchController";
import { ColorController } from "./ui/colorController";
import { h } from "./ui/dom";
import { describeEmptiness, EmptyHint } from "./ui/emptyHint";
import { plural } from "./ui/format";
import { Header } from "./ui/header";
import { HoverController } from "./ui/hoverController";
import { LassoController } from "./ui/lassoController";
import { MapInput } from "./ui/mapInput";
import { Navigation } from "./ui/navigation";
import { Notifications } from "./ui/notifications";
import { PinController } from "./ui/pinController";
import type { ThemeSwitch } from "./ui/theme";
import { createToolbar } from "./ui/toolbar";
import { ViewHistory } from "./ui/viewHistory";

const NO_WEBGL =
  "This browser does not support WebGL 2, so fewer points are drawn at once, and more slowly. " +
  "Turn on hardware acceleration, or use another browser.";

export class App {
  private readonly notifications = new Notifications();
  private readonly map: MapView;
  private readonly colors: ColorController;
  private readonly pins: PinController;
  private readonly hover: HoverController;
  private readonly search: SearchController;
  private readonly lasso: LassoController;
  private readonly history: ViewHistory;
  private readonly navigation: Navigation;
  private readonly input: MapInput;
  private readonly header: Header;
  private readonly emptyHint = new EmptyHint();

  constructor(
    private readonly site: Site,
    root: Tile | null,
    private readonly theme: ThemeSwitch,
  ) {
    const { notifications } = this;
    const rowText = new RowText(site);
    this.map = new MapView(site, root);
    this.colors = new ColorController(site, this.map, theme);
    this.pins = new PinController(site, rowText, notifications);
    this.hover = new HoverController(site, this.map, rowText, this.pins, notifications);
    this.search = new SearchController(site, rowText, notifications);
    this.lasso = new LassoController(site, root, this.map, rowText, () => this.colors.filter, notifications);
    this.history = new ViewHistory(site, this.map.camera, () => ({
      column: this.colors.filter.column?.name ?? null,
      hidden: [...this.colors.filter.hidden],
      query: this.search.query,
      pins: this.pins.rows,
    }));
    this.navigation = new Navigation(site, this.map, this.history.initial, notifications);
    this.input = new MapInput(this.map, {
      hover: this.hover,
      pins: this.pins,
      lasso: this.lasso,
      navigation: this.navigation,
      searchField: this.search.view.field,
    });
    this.header = new Header(site, this.search.view.element);
    this.connect();
    this.attach();
    this.restore();
    if (!this.map.hasWebGl) notifications.warn(NO_WEBGL);
  }

  /** Connects the events of the parts. */
  private connect(): void {
    const { map, colors, pins, hover, search, history, navigation, input, header, notifications } = this;
    map.annotate = () => ({
      hits: search.hitPositions(map.visibleTiles),
      pins: pins.loaded.map((row, i) => ({ x: row.x, y: row.y, label: String(i + 1) })),
      hovered: hover.point,
      lassoPath: this.lasso.path,
      polygon: this.lasso.polygon,
      showCrosshair: input.showsCrosshair,
      dimPoints: search.hasHits,
    });
    map.onFrame.subscribe((changed) => {
      if (changed) hover.follow();
      map.surface.setAttribute("aria-busy", String(!map.isSettled));
      header.update(map);
    });
    map.onRest.subscribe(() => {
      if (map.isSettled) history.replace();
      input.describeCenter();
      this.describeView();
    });
    map.onFail.subscribe((error) => notifications.fail(error));
    notifications.onRetry.subscribe(() => map.retry());

    colors.onEdit.subscribe(() => {
      history.push();
      this.describeView();
    });
    this.emptyHint.onShowMap.subscribe(() => navigation.showAll());
    this.emptyHint.onShowCategories.subscribe(() => colors.showAll());
    search.onHits.subscribe(() => map.redraw());
    search.onQuery.subscribe((isStep) => (isStep ? history.push() : history.replace()));
    search.onGoTo.subscribe((row) => navigation.goToRow(row));
    pins.onLoad.subscribe(() => map.redraw());
    pins.onEdit.subscribe(() => {
      history.push();
      hover.refresh();
    });
    pins.table.onSelect.subscribe((row) => navigation.goToRow(row));
    navigation.onFlight.subscribe((target) => history.pushTarget(target));
    navigation.onRow.subscribe((row) => hover.hold(row));
    addEventListener("popstate", () => this.restore());
  }

  /** Adds the elements to the document. */
  private attach(): void {
    const { map, notifications } = this;
    map.surface.setAttribute(
      "aria-label",
      `Map of ${plural(this.site.n, "point")}. Arrow keys move, plus and minus zoom, 0 shows the whole map, ` +
        "Enter pins the point in the center, slash searches.",
    );
    const { legend } = this.colors;
    const bottom = h(
      "div",
      { class: "bottom" },
      notifications.alert,
      this.emptyHint.element,
      this.lasso.panel.element,
      this.pins.table.element,
    );
    // On phones the legend opens above the panels at the bottom, and the tooltip is docked above both.
    const setHeight = (): void => {
      const { style } = document.documentElement;
      style.setProperty("--bottom-height", `${bottom.offsetHeight}px`);
      style.setProperty("--legend-height", `${legend.element.offsetHeight}px`);
    };
    const observer = new ResizeObserver(setHeight);
    observer.observe(bottom);
    observer.observe(legend.element);
    // In the order in which the Tab key reaches them.
    document.body.replaceChildren(
      this.header.element,
      map.element,
      legend.element,
      createToolbar(legend, this.lasso.button, this.theme, this.navigation),
      bottom,
      this.hover.tooltip.element,
      notifications.status,
    );
  }

  /** Says so where there is nothing to see. */
  private describeView(): void {
    const { contents } = this.map;
    const emptiness = contents && describeEmptiness(contents, this.colors.filter, this.site.n);
    this.emptyHint.show(emptiness, this.notifications);
  }

  /** Shows the view that the address describes. */
  private restore(): void {
    const view = this.history.read();
    this.map.moveTo(view);
    this.colors.set(view.column, view.hidden);
    this.search.restore(view.query);
    this.pins.set(view.pins);
  }
}
