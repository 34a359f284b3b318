// Text of a model into elements of the page. Three walls stand between them: Markdown takes HTML for text (markdown.js), DOMPurify lets only
// the few tags and attributes through that Markdown makes, and the page's Content-Security-Policy runs no script but the page's own.

import { h, icon } from "./dom.js";
import { markdown } from "./markdown.js";
import { drawMath } from "./math.js";
import { copyText } from "./clipboard.js";

const ALLOWED = {
  ALLOWED_TAGS: ["a", "blockquote", "br", "code", "div", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span", "strong",
    "table", "tbody", "td", "th", "thead", "tr", "ul"],
  ALLOWED_ATTR: ["class", "href", "rel", "start", "target", "title"],
  ALLOWED_URI_REGEXP: /^(https?:\/\/|mailto:)/i,
  // Whose values are no addresses.
  ADD_URI_SAFE_ATTR: ["rel", "start", "target"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
/** Longer texts are shown as they are. */
const MOST = 2_000_000;

const blocks = markdown(markdownit, hljs);

/** A bar above code: its language, and a button that copies it. */
function dressCode(pre) {
  const code = pre.querySelector("code");
  const language = /language-(\S+)/.exec(code?.className ?? "")?.[1] ?? "";
  const text = pre.textContent.replace(/\n$/, "");
  const box = h("div.code", {}, h("div.code-head", {}, h("span", {}, language || "text"),
    h("button.quiet", { type: "button", onclick: ({ currentTarget }) => copyText(text, currentTarget) }, icon("copy"), h("span", {}, "Copy"))));
  pre.replaceWith(box);
  pre.tabIndex = 0;
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  box.append(pre);
}

function dressTable(table) {
  const box = h("div.table", { tabIndex: 0, role: "group", "aria-label": "Table" });
  table.replaceWith(box);
  box.append(table);
}

/** The element of a block. */
function element(html) {
  const fragment = DOMPurify.sanitize(html, ALLOWED);
  drawMath(fragment);
  fragment.querySelectorAll("pre").forEach(dressCode);
  fragment.querySelectorAll("table").forEach(dressTable);
  // A link says where it leads.
  for (const link of fragment.querySelectorAll("a[href]")) link.title ||= link.href;
  return fragment.childElementCount === 1 && fragment.childNodes.length <= 2 ? fragment.firstElementChild : h("div", {}, fragment);
}

/** Shows a text that grows in an element: only blocks that changed are made anew, so that what is selected stays selected. */
export class Rendered {
  #shown = [];
  #text;

  constructor(place) {
    this.place = place;
  }

  set(text) {
    if (text === this.#text) return;
    this.#text = text;
    if (text.length > MOST) {
      this.#shown = [];
      this.place.replaceChildren(h("pre", { tabIndex: 0 }, text));
      return;
    }
    const next = blocks(text);
    next.forEach((html, i) => {
      const old = this.#shown[i];
      if (old?.html === html) return;
      const made = element(html);
      if (old) old.element.replaceWith(made);
      else this.place.append(made);
      this.#shown[i] = { html, element: made };
    });
    for (const { element: gone } of this.#shown.splice(next.length)) gone.remove();
  }
}
