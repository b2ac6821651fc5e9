// Messages to the reader: announcements for screen readers, and alerts that everybody sees.

import { Emitter } from "../data/emitter";
import { h, iconButton, textButton } from "./dom";

export class Notifications {
  /** Emitted when the reader asks to retry what failed. */
  readonly onRetry = new Emitter();
  readonly status = h("div", { class: "visually-hidden", role: "status", "aria-live": "polite" });
  readonly alert = h("div", { class: "alert panel", role: "alert", hidden: true });

  /** Announces a message to screen readers. */
  announce(message: string): void {
    this.status.textContent = message;
  }

  /** Shows a message until the reader closes it. */
  warn(message: string, ...buttons: HTMLElement[]): void {
    const closeButton = iconButton("close", "Close", () => this.close());
    this.alert.replaceChildren(h("p", {}, message), ...buttons, closeButton);
    this.alert.hidden = false;
  }

  /** Shows an error with a button to try again. */
  fail(error: Error): void {
    const retry = (): void => {
      this.close();
      this.onRetry.emit();
    };
    this.warn(error.message, textButton("Try again", retry, "link"));
  }

  private close(): void {
    this.alert.hidden = true;
  }
}
