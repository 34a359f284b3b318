// Elements without HTML text: what is given as a child is text or an element, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Strokes on a field of 24 by 24. */
const ICONS = {
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6 6 18",
  sliders: "M4 8h9M19 8h1M16 5.5a2.5 2.5 0 1 0 0 5a2.5 2.5 0 0 0 0-5M4 16h1M11 16h9M8 13.5a2.5 2.5 0 1 0 0 5a2.5 2.5 0 0 0 0-5",
  more: "M5.5 12h.01M12 12h.01M18.5 12h.01",
  up: "M12 19V6M6 11.5 12 5.5l6 6",
  down: "M12 5v13M6 12.5l6 6 6-6",
  stop: "M8 8h8v8H8z",
  clip: "M19 11.5l-7 7a4.5 4.5 0 0 1-6.4-6.4l7.4-7.4a3 3 0 0 1 4.3 4.3l-7.3 7.3a1.5 1.5 0 0 1-2.2-2.2l6.6-6.6",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  edit: "M5 19l1-4L16 5l3 3L9 18zM14 7l3 3",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  trash: "M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12M10.5 11v5M13.5 11v5",
  out: "M12 15V5M8 9l4-4 4 4M5 15v4h14v-4",
  in: "M12 5v10M8 11l4 4 4-4M5 15v4h14v-4",
  file: "M7 4h7l4 4v12H7zM14 4v4h4",
  sun: "M12 8.5a3.5 3.5 0 1 0 0 7a3.5 3.5 0 0 0 0-7M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6 7 7M17 17l1.4 1.4M18.4 5.6 17 7M7 17l-1.4 1.4",
  moon: "M19 14.5A7.5 7.5 0 1 1 9.5 5a6 6 0 0 0 9.5 9.5",
  system: "M4 6h16v10H4zM9 20h6M12 16v4",
  keys: "M3.5 7h17v10h-17zM7 10.5h.01M10.5 10.5h.01M14 10.5h.01M17 10.5h.01M8.5 14h7",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon", `icon-${name}`);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** `h("button.quiet", {type: "button", onclick}, "Copy")`: an element with classes, attributes or properties, and children. */
export function h(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length > 0) element.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && !key.startsWith("aria-") && key !== "role") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Whether a key belongs to an input method, which ends words by Enter. Safari says so by the code 229 alone. */
export const composing = (event) => event.isComposing || event.keyCode === 229;

/** A button that shows only an icon; its label is read aloud and shown as a tip. */
export const iconButton = (name, label, onclick, properties = {}) =>
  h("button.icon-button", { type: "button", "aria-label": label, title: label, onclick, ...properties }, icon(name));

/** Reads a sentence aloud in screen readers, after whatever is being read. */
export function announce(text) {
  const place = document.getElementById("announcements");
  place.textContent = "";
  setTimeout(() => (place.textContent = text), 50);
}

/** A note at the edge that goes by itself, with at most one thing to do. */
export function notify(text, action) {
  const note = h("div.note", {}, h("span", {}, text));
  const gone = () => note.remove();
  if (action) note.append(h("button.quiet", { type: "button", onclick: () => (gone(), action.run()) }, action.label));
  note.append(iconButton("close", "Dismiss", gone));
  document.getElementById("notes").append(note);
  setTimeout(gone, action ? 12_000 : 8_000);
}
