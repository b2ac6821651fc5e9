// The traits of the widget, as nomad_dask.callbacks.live sends them.

/** See `ProgressState.as_dict`. */
export interface ProgressState {
  state: "running" | "finished" | "stopped" | "failed";
  /** Why the fit ended; empty unless it failed. */
  said: string;
  seconds: number;
  stages: StageStatus[];
  /** The number of the last epoch, and the number of all epochs. */
  epoch: [number, number] | null;
  /** Pairs of epoch and loss. */
  losses: [number, number][];
  workers: WorkerStatus[];
  /** Addresses of workers that were lost. */
  lost: string[];
  dashboard: string | null;
}

export interface StageStatus {
  name: string;
  unit: string;
  total: number;
  done: number;
  /** Units per second. */
  rate: number | null;
  /** Estimated remaining seconds. */
  left: number | null;
  seconds: number | null;
  /** "earlier" for a stage that a resumed fit did not have to repeat. */
  state: "earlier" | "done" | "running";
}

export interface WorkerStatus {
  address: string;
  device: string;
  shards: number[];
  rows: number;
  rate: number | null;
}

/** What the trait `data` contains, see `frame_of`. */
export interface Frame {
  /** Positions as pairs of 16-bit integers, or an image of them. */
  kind: "points" | "png";
  epoch: number;
  n_epochs: number;
  n_points: number;
  n_rows: number;
}

export interface LiveMapState {
  /** Empty until the fit starts. */
  figures: ProgressState | Record<string, never>;
  /** Empty until the first snapshot. */
  frame: Frame | Record<string, never>;
  data: DataView | null;
  /** Width and height of the map in pixels. */
  size: [number, number];
}
