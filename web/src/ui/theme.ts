// The dark or the light theme: as the system says, until the reader chooses.

import { Emitter } from "../data/emitter";
import type { Theme } from "../map/palettes";

const STORAGE_KEY = "nomad-dask-theme";

export class ThemeSwitch {
  readonly onChange = new Emitter();
  private readonly system = matchMedia("(prefers-color-scheme: light)");
  private chosen: Theme | null = storedTheme();

  constructor() {
    this.system.addEventListener("change", () => this.apply());
    this.apply();
  }

  get current(): Theme {
    return this.chosen ?? (this.system.matches ? "light" : "dark");
  }

  toggle(): void {
    this.chosen = this.current === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(STORAGE_KEY, this.chosen);
    } catch {
      // Without storage the choice lasts as long as the page.
    }
    this.apply();
  }

  private apply(): void {
    document.documentElement.dataset.theme = this.current;
    this.onChange.emit();
  }
}

function storedTheme(): Theme | null {
  try {
    const stored = localStorage.getItem(STORAGE_KEY);
    return stored === "dark" || stored === "light" ? stored : null;
  } catch {
    return null;
  }
}
