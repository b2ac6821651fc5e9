// A search from the words typed to the rings on the map.

import type { Point } from "../map/camera";
import { SearchBox } from "./searchView";
import { find, read, type Hits } from "./searchIndex";
import type { Site } from "../data/site";
import { mapX, mapY, type Drawn, type Points } from "../data/tileCache";
import type { Row, Texts } from "../data/rowText";

const PAGE = 20;

export class Searching {
  readonly box: SearchBox;
  query = "";
  private hits: Hits | null = null;
  private rows: Row[] = [];
  private next = 0;
  private wanted: ReadonlySet<number> = new Set();
  private asked = 0;
  /** Places of hits by tile, as tiles are looked through once for each search. */
  private seen = new WeakMap<Points, { at: Point; index: number; row: number }[]>();

  constructor(
    private readonly site: Site,
    private readonly texts: Texts,
    private readonly on: {
      changed: () => void;
      /** The query changed; `fresh` when that is a step of its own. */
      stepped: (fresh: boolean) => void;
      fly: (row: Row) => void;
      tell: (words: string) => void;
      failed: (error: Error) => void;
    },
  ) {
    this.box = new SearchBox(site, {
      search: (text, fly) => void this.search(text, fly, true),
      fly: on.fly,
      more: () => void this.more(),
    });
  }

  /** Whether there are hits. */
  get found(): boolean {
    return this.rows.length > 0;
  }

  /** Searches for a text; `fly` goes to the first hit, `step` remembers the search in the address. */
  async search(text: string, fly: boolean, step: boolean): Promise<void> {
    const query = text.trim();
    if (query === this.query && this.hits) {
      if (fly && this.rows[0]) this.on.fly(this.rows[0]);
      return;
    }
    const mine = ++this.asked;
    // The letters of one search are one step, not many.
    const fresh = fly || this.query === "" || query === "";
    this.query = query;
    this.box.ask(step && query ? text : query);
    this.hits = null;
    this.rows = [];
    this.ring();
    if (step) this.on.stepped(fresh);
    if (!query) return;
    try {
      const hits = await find(this.site, query);
      const { rows, next } = await read(hits, 0, PAGE, this.texts, this.site);
      if (mine !== this.asked) return;
      this.hits = hits;
      this.rows = rows;
      this.next = next;
      this.ring();
      this.on.tell(this.show());
      if (fly && rows[0]) this.on.fly(rows[0]);
    } catch (error) {
      this.on.failed(error as Error);
    }
  }

  /** Where the hits are that can be seen: those listed, and those among the drawn points. */
  *places(drawn: readonly Drawn[]): Generator<Point> {
    yield* this.rows;
    if (!this.wanted.size) return;
    const listed = new Set(this.rows.map((row) => row.row));
    for (const { points, count } of drawn) {
      for (const { at, index, row } of this.inTile(points)) if (index < count && !listed.has(row)) yield at;
    }
  }

  private async more(): Promise<void> {
    const { hits } = this;
    if (!hits) return;
    try {
      const { rows, next } = await read(hits, this.next, PAGE, this.texts, this.site);
      if (hits !== this.hits) return;
      this.rows = [...this.rows, ...rows];
      this.next = next;
      this.show();
      this.on.changed();
    } catch (error) {
      this.on.failed(error as Error);
    }
  }

  private show(): string {
    return this.hits ? this.box.show(this.hits, this.rows, this.next >= this.hits.rows.length) : "";
  }

  private ring(): void {
    // Rows that may lack a word are ringed only once they were read.
    this.wanted = new Set(this.hits && !this.hits.unsure.length ? this.hits.rows : []);
    this.seen = new WeakMap();
    this.on.changed();
  }

  private inTile(points: Points): { at: Point; index: number; row: number }[] {
    let found = this.seen.get(points);
    if (!found) {
      found = [];
      for (let i = 0; i < points.n; i++) {
        const row = points.row[i];
        if (this.wanted.has(row)) found.push({ at: { x: mapX(points, i), y: mapY(points, i) }, index: i, row });
      }
      this.seen.set(points, found);
    }
    return found;
  }
}
