// Runs searches: from a typed query to the list of hits and their rings on the map.

import { Emitter } from "../data/emitter";
import type { Point } from "../data/geometry";
import type { Row, RowText } from "../data/rowText";
import type { Site } from "../data/site";
import type { VisibleTile } from "../data/tilePoints";
import type { Notifications } from "../ui/notifications";
import { HitPositions } from "./hitPositions";
import type { SearchHits } from "./postings";
import { findRows, readHits } from "./searchIndex";
import { SearchView } from "./searchView";

const PAGE_SIZE = 20;

export class SearchController {
  readonly view: SearchView;
  query = "";
  /** Emitted when the rings on the map changed. */
  readonly onHits = new Emitter();
  /** Emitted when the reader changed the query, with whether this is a step for the browser's history. */
  readonly onQuery = new Emitter<boolean>();
  readonly onGoTo = new Emitter<Row>();
  private hits: SearchHits | null = null;
  /** The listed rows, and the position in the hits after them. */
  private rows: Row[] = [];
  private next = 0;
  private positions = new HitPositions([]);
  private nSearches = 0;

  constructor(
    private readonly site: Site,
    private readonly rowText: RowText,
    private readonly notifications: Notifications,
  ) {
    this.view = new SearchView(site);
    this.view.onQuery.subscribe(({ text, isSubmitted }) => void this.searchTyped(text, isSubmitted));
    this.view.onSelect.subscribe((row) => this.onGoTo.emit(row));
    this.view.onMore.subscribe(() => void this.showMore());
  }

  get hasHits(): boolean {
    return this.rows.length > 0;
  }

  /** Searches for the query of a restored view. */
  restore(query: string): void {
    if (query.trim() === this.query && this.hits) return;
    this.startQuery(query.trim(), query.trim());
    void this.run(false);
  }

  /** Yields the positions of the listed hits, and of those among the drawn points. */
  *hitPositions(tiles: readonly VisibleTile[]): Generator<Point> {
    yield* this.rows;
    const listed = new Set(this.rows.map((row) => row.row));
    for (const { points, count } of tiles) {
      for (const hit of this.positions.inTile(points)) if (hit.index < count && !listed.has(hit.row)) yield hit;
    }
  }

  private async searchTyped(text: string, isSubmitted: boolean): Promise<void> {
    const query = text.trim();
    if (query === this.query && this.hits) {
      if (isSubmitted && this.rows[0]) this.onGoTo.emit(this.rows[0]);
      return;
    }
    // The letters of one query are one step, not many.
    const isStep = isSubmitted || this.query === "" || query === "";
    this.startQuery(query, query ? text : query);
    this.onQuery.emit(isStep);
    await this.run(isSubmitted);
  }

  private startQuery(query: string, shownText: string): void {
    this.nSearches++;
    this.query = query;
    this.view.showQuery(shownText);
    this.setHits(null, [], 0);
  }

  private async run(goesToFirst: boolean): Promise<void> {
    if (!this.query) return;
    const search = this.nSearches;
    try {
      const hits = await findRows(this.site, this.query);
      const { rows, next } = await readHits(hits, 0, PAGE_SIZE, this.rowText, this.site);
      if (search !== this.nSearches) return;
      this.setHits(hits, rows, next);
      this.notifications.announce(this.view.showHits(hits, rows, next >= hits.rows.length));
      if (goesToFirst && rows[0]) this.onGoTo.emit(rows[0]);
    } catch (error) {
      this.notifications.fail(error as Error);
    }
  }

  private async showMore(): Promise<void> {
    const { hits } = this;
    if (!hits) return;
    try {
      const { rows, next } = await readHits(hits, this.next, PAGE_SIZE, this.rowText, this.site);
      if (hits !== this.hits) return;
      this.rows = [...this.rows, ...rows];
      this.next = next;
      this.view.showHits(hits, this.rows, next >= hits.rows.length);
      this.onHits.emit();
    } catch (error) {
      this.notifications.fail(error as Error);
    }
  }

  private setHits(hits: SearchHits | null, rows: Row[], next: number): void {
    this.hits = hits;
    this.rows = rows;
    this.next = next;
    // Rows that may lack a word are ringed only once their text was read.
    this.positions = new HitPositions(hits && !hits.uncertainWords.length ? hits.rows : []);
    this.onHits.emit();
  }
}
