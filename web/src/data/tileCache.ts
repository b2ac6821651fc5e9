// The tiles in memory: loaded nearest first, evicted least recently used first.

import { Emitter } from "./emitter";
import type { Tile } from "./quadtree";
import type { Column } from "./site";
import { loadTile, type TilePoints, type VisibleTile } from "./tilePoints";

export interface TileRequest {
  tile: Tile;
  /** How many of its points to draw. */
  count: number;
}

const MAX_CONCURRENT = 6;

export class TileCache {
  readonly onLoad = new Emitter<TilePoints>();
  readonly onEvict = new Emitter<TilePoints>();
  readonly onFail = new Emitter<Error>();
  private readonly loaded = new Map<Tile, TilePoints>();
  private readonly loading = new Set<Tile>();
  private readonly failed = new Set<Tile>();
  private requests: TileRequest[] = [];
  private totalPoints = 0;

  /**
   * @param columns the columns in tiles
   * @param maxPoints points to keep in memory; those of the current view are never evicted
   */
  constructor(
    private readonly columns: readonly Column[],
    private readonly maxPoints: number,
  ) {}

  get isLoading(): boolean {
    return this.loading.size > 0 || this.requests.some(({ tile }) => !this.loaded.has(tile) && !this.failed.has(tile));
  }

  /** Requests the tiles of a view, in order of priority. */
  request(requests: TileRequest[]): void {
    this.requests = requests;
    for (const { tile } of requests) {
      const points = this.loaded.get(tile);
      if (!points) continue;
      // A Map keeps the order of insertion: the tiles used last are at its end.
      this.loaded.delete(tile);
      this.loaded.set(tile, points);
    }
    this.loadNext();
    this.evict();
  }

  /** Returns the loaded tiles of the view. */
  visibleTiles(): VisibleTile[] {
    const visible: VisibleTile[] = [];
    for (const { tile, count } of this.requests) {
      const points = this.loaded.get(tile);
      if (points) visible.push({ points, count: Math.min(count, points.n) });
    }
    return visible;
  }

  get(tile: Tile): TilePoints | undefined {
    return this.loaded.get(tile);
  }

  /** Returns all loaded tiles, in the view or not. */
  all(): Iterable<TilePoints> {
    return this.loaded.values();
  }

  /** Loads failed tiles again. */
  retry(): void {
    this.failed.clear();
    this.loadNext();
  }

  private loadNext(): void {
    for (const { tile } of this.requests) {
      if (this.loading.size >= MAX_CONCURRENT) return;
      if (this.loaded.has(tile) || this.loading.has(tile) || this.failed.has(tile)) continue;
      this.loading.add(tile);
      void this.load(tile).then(() => this.loadNext());
    }
  }

  private async load(tile: Tile): Promise<void> {
    let points: TilePoints;
    try {
      points = await loadTile(tile, this.columns);
    } catch (error) {
      this.failed.add(tile);
      this.loading.delete(tile);
      this.onFail.emit(error as Error);
      return;
    }
    this.loaded.set(tile, points);
    this.totalPoints += points.n;
    this.loading.delete(tile);
    this.onLoad.emit(points);
  }

  private evict(): void {
    if (this.totalPoints <= this.maxPoints) return;
    const visible = new Set(this.requests.map((request) => request.tile));
    for (const [tile, points] of this.loaded) {
      if (this.totalPoints <= this.maxPoints) return;
      if (visible.has(tile)) continue;
      this.loaded.delete(tile);
      this.totalPoints -= points.n;
      this.onEvict.emit(points);
    }
  }
}
