// Elements are made by these few functions only. Text becomes text nodes: nothing here or elsewhere parses HTML.

type Attributes = Record<string, string | boolean>;

/** Makes an element. Attributes that are false are left out, those that are true are empty. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const PATHS = {
  plus: "M8 3v10M3 8h10",
  minus: "M3 8h10",
  whole: "M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10",
  lasso: "M8 2.5c3.3 0 5.7 1.5 5.7 3.7S11.3 10 8 10 2.3 8.4 2.3 6.2 4.7 2.5 8 2.5M4.6 9.3c-1.2.9-1.1 2.4.2 2.4s1.8 1 .6 2",
  theme: "M8 2.5a5.5 5.5 0 0 0 0 11a5.5 5.5 0 0 0 0-11",
  list: "M2.5 4h1M6 4h7.5M2.5 8h1M6 8h7.5M2.5 12h1M6 12h7.5",
  close: "M4 4l8 8M12 4l-8 8",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 0 0 0-9M10.3 10.3l3.5 3.5",
};

/** Makes a picture of 16 pixels that screen readers pass over. */
export function icon(name: keyof typeof PATHS): SVGSVGElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const draw = (line: string, kind: string): void => {
    const path = document.createElementNS(space, "path");
    path.setAttribute("d", line);
    path.setAttribute("class", kind);
    svg.append(path);
  };
  draw(PATHS[name], "line");
  if (name === "theme") draw("M8 2.5a5.5 5.5 0 0 0 0 11z", "filled");
  return svg;
}

/** Makes a button that shows an icon and is called by its label. */
export function iconButton(name: keyof typeof PATHS, label: string, act: () => void): HTMLButtonElement {
  const button = h("button", { type: "button", class: "icon", "aria-label": label, title: label }, icon(name));
  button.addEventListener("click", act);
  return button;
}

/** Makes a button with words on it. */
export function textButton(label: string, act: () => void, kind: "link" | "main"): HTMLButtonElement {
  const button = h("button", { type: "button", class: kind }, label);
  button.addEventListener("click", act);
  return button;
}

/** Writes a count as people read it. */
export function count(n: number): string {
  return n.toLocaleString("en-US");
}

/** Writes "1 point" and "2 points". */
export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** Writes a value in as few digits as tell it from others of a range. */
export function brief(value: number, span: number): string {
  const digits = Math.max(0, 1 - Math.floor(Math.log10(span || Math.abs(value) || 1)));
  if (Math.abs(value) >= 1e6 || digits > 4) return value.toExponential(1);
  return value.toLocaleString("en-US", { maximumFractionDigits: digits, useGrouping: Math.abs(value) >= 1e4 });
}
