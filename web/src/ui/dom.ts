// All elements are created by these functions. Text becomes text nodes: nothing on the page parses HTML.

type Attributes = Record<string, string | boolean>;

/** Creates an element. Attributes that are false are omitted, those that are true are empty. */
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

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

const ICON_PATHS = {
  plus: "M8 3v10M3 8h10",
  minus: "M3 8h10",
  fit: "M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10",
  lasso:
    "M8 2.5c3.3 0 5.7 1.5 5.7 3.7S11.3 10 8 10 2.3 8.4 2.3 6.2 4.7 2.5 8 2.5M4.6 9.3c-1.2.9-1.1 2.4.2 2.4s1.8 1 .6 2",
  theme: "M8 2.5a5.5 5.5 0 0 0 0 11a5.5 5.5 0 0 0 0-11",
  list: "M2.5 4h1M6 4h7.5M2.5 8h1M6 8h7.5M2.5 12h1M6 12h7.5",
  close: "M4 4l8 8M12 4l-8 8",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 0 0 0-9M10.3 10.3l3.5 3.5",
};

export type IconName = keyof typeof ICON_PATHS;

/** Creates an icon of 16 pixels that screen readers skip. */
export function icon(name: IconName): SVGSVGElement {
  const svg = document.createElementNS(SVG_NAMESPACE, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const addPath = (data: string, className: string): void => {
    const path = document.createElementNS(SVG_NAMESPACE, "path");
    path.setAttribute("d", data);
    path.setAttribute("class", className);
    svg.append(path);
  };
  addPath(ICON_PATHS[name], "line");
  if (name === "theme") addPath("M8 2.5a5.5 5.5 0 0 0 0 11z", "filled");
  return svg;
}

/** Creates a button that shows an icon and is named by its label. */
export function iconButton(name: IconName, label: string, onClick: () => void): HTMLButtonElement {
  const button = h("button", { type: "button", class: "icon", "aria-label": label, title: label }, icon(name));
  button.addEventListener("click", onClick);
  return button;
}

/** Creates a button with text. */
export function textButton(label: string, onClick: () => void, style: "link" | "primary"): HTMLButtonElement {
  const button = h("button", { type: "button", class: style }, label);
  button.addEventListener("click", onClick);
  return button;
}
