// Dark and light: as the system says, until the reader chooses.

import type { Theme } from "../map/palettes";

const KEY = "nomad-dask-theme";

export class Themes {
  private readonly system = matchMedia("(prefers-color-scheme: light)");
  private chosen: Theme | null = stored();

  /** Called after every change. */
  changed: () => void = () => undefined;

  constructor() {
    this.system.addEventListener("change", () => this.apply());
    this.apply();
  }

  get now(): Theme {
    return this.chosen ?? (this.system.matches ? "light" : "dark");
  }

  toggle(): void {
    this.chosen = this.now === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, this.chosen);
    } catch {
      // Without storage the choice lasts as long as the page.
    }
    this.apply();
  }

  private apply(): void {
    document.documentElement.dataset.theme = this.now;
    this.changed();
  }
}

function stored(): Theme | null {
  try {
    const found = localStorage.getItem(KEY);
    return found === "dark" || found === "light" ? found : null;
  } catch {
    return null;
  }
}
