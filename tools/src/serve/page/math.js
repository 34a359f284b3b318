// TeX to MathML elements. Temml's tree becomes elements directly, so that no text of it is ever read as HTML, and its styles are set as
// properties, which the page's policy allows. Commands that name addresses, classes or styles are off (`trust`).

const MATHML = "http://www.w3.org/1998/Math/MathML";
const MOST = 20_000;

const harmless = (element) =>
  (element.namespaceURI === MATHML || element.localName === "span") && element.getAttributeNames().every((name) => !/^(on|href|src|xlink)/i.test(name));

/** Draws each `.math` element below `root` in place of its source. What cannot be read stays as it was written. */
export function drawMath(root) {
  for (const place of root.querySelectorAll(".math")) {
    const source = place.textContent;
    place.title = source;
    const drawn = document.createElement("span");
    try {
      if (source.length > MOST) throw new Error("too long");
      temml.render(source, drawn, { displayMode: place.classList.contains("display"), throwOnError: true, trust: false, maxSize: [20, 200], maxExpand: 500 });
      if (![...drawn.querySelectorAll("*")].every(harmless)) throw new Error("not mathematics");
      place.replaceChildren(...drawn.childNodes);
      // Wide formulas scroll, also by keyboard.
      if (place.classList.contains("display")) Object.assign(place, { tabIndex: 0, role: "group", ariaLabel: "Formula" });
    } catch {
      place.classList.add("unread");
    }
  }
}
