// Draws fewer points while the view moves on slow graphics hardware.

/** Frames that take longer are drawn with fewer points. */
const SLOW_MS = 45;
/** Longer gaps between frames say nothing about the speed of drawing. */
const IDLE_MS = 1000;
const MIN_FACTOR = 0.1;

export class LevelOfDetail {
  /** Share of the points to draw while the view moves. */
  factor = 1;
  private lastFrame = 0;

  /** Adapts the factor to the time since the last frame. */
  update(now: number, isMoving: boolean): void {
    const elapsed = now - this.lastFrame;
    this.lastFrame = now;
    if (!isMoving || elapsed > IDLE_MS) return;
    if (elapsed > SLOW_MS) this.factor = Math.max(MIN_FACTOR, this.factor * 0.85);
    else if (elapsed < SLOW_MS / 2) this.factor = Math.min(1, this.factor * 1.05);
  }
}
