// The list of conversations, and the search through them.

import { h, iconButton } from "./dom.js";
import { era } from "./format.js";
import { searched, wordsOf } from "./search.js";

const MOST_FOUND = 50;
const AT_ONCE = 32;
/** So many conversations are listed before one asks for all. */
const MOST_LISTED = 200;

export class ListView {
  #list = [];
  #query = 0;
  #shape = "";
  #most = MOST_LISTED;

  constructor(chat, actions) {
    Object.assign(this, { chat, actions });
    this.place = document.getElementById("conversations");
    this.field = document.getElementById("search");
    this.field.addEventListener("input", () => this.#search());
    this.field.addEventListener("keydown", (event) => this.#key(event));
    chat.addEventListener("change", () => this.#mark());
    chat.answers.addEventListener("change", ({ detail }) => ["waiting", "ended"].includes(detail.phase) && this.#mark());
  }

  async refresh() {
    this.#list = await this.chat.store.list();
    const shape = JSON.stringify(this.#list.map(({ id, title, updated }) => [id, title, era(updated)]));
    if (shape === this.#shape) return;
    this.#shape = shape;
    const refocus = this.#focused();
    await this.#search();
    refocus();
  }

  /** Where the focus is, as a function that puts it there again when the rows are drawn anew: the row itself or the one in its place. */
  #focused() {
    const rows = () => [...this.place.querySelectorAll("button.conversation")];
    const row = this.place.contains(document.activeElement) && document.activeElement.closest("li")?.firstElementChild;
    if (!row) return () => {};
    const at = rows().indexOf(row);
    return () => {
      if (this.place.contains(document.activeElement)) return;
      const now = rows();
      (now.find(({ dataset }) => dataset.id === row.dataset.id) ?? now[Math.min(at, now.length - 1)] ?? this.field).focus();
    };
  }

  focusSearch() {
    this.field.focus();
    this.field.select();
  }

  #row({ id, title }, pieces, message) {
    const button = h("button.conversation", { type: "button", "data-id": id, onclick: () => this.actions.open(id, message) }, h("span.title", {}, title));
    if (pieces?.length) button.append(h("span.snippet", {}, ...pieces.map(([text, hit]) => (hit ? h("mark", {}, text) : text))));
    const more = iconButton("more", `More for ${title}`, ({ currentTarget }) => this.actions.menu(id, currentTarget), { "aria-haspopup": "menu" });
    return h("li", {}, button, more);
  }

  #draw() {
    const listed = this.#list.slice(0, this.#most);
    const groups = Map.groupBy?.(listed, ({ updated }) => era(updated)) ?? new Map([["Chats", listed]]);
    this.place.replaceChildren(...[...groups].map(([name, list], i) =>
      h("section", { "aria-labelledby": `era-${i}` }, h("h2", { id: `era-${i}` }, name), h("ul", {}, ...list.map((each) => this.#row(each))))));
    if (listed.length < this.#list.length) this.place.append(h("button.button.all", { type: "button", onclick: () => this.#drawAll() }, `Show all ${this.#list.length.toLocaleString("en")}`));
    if (this.#list.length === 0) this.place.replaceChildren(h("p.faint", {}, "Your chats will be listed here. They stay in this browser."));
    this.#mark();
  }

  #drawAll() {
    const at = this.#most;
    this.#most = Infinity;
    this.#draw();
    this.place.querySelectorAll("button.conversation")[at]?.focus();
  }

  #mark() {
    for (const button of this.place.querySelectorAll("button.conversation")) {
      const { id } = button.dataset;
      if (id === this.chat.id) button.setAttribute("aria-current", "page");
      else button.removeAttribute("aria-current");
      button.classList.toggle("running", Boolean(this.chat.answers.of(id)));
    }
  }

  /** Some conversations at a time, so that a long history does not stop the page; a newer search ends this one. */
  async #search() {
    const query = ++this.#query;
    const words = wordsOf(this.field.value);
    if (words.length === 0) return this.#draw();
    const rows = h("ul");
    const said = h("p.faint", { role: "status" }, "Searching…");
    this.place.replaceChildren(h("section", { "aria-label": "Found" }, said, rows));
    for (let from = 0; from < this.#list.length && rows.childElementCount < MOST_FOUND; from += AT_ONCE) {
      const some = await Promise.all(this.#list.slice(from, from + AT_ONCE).map(({ id }) => this.chat.store.load(id)));
      if (query !== this.#query) return;
      for (const whole of some) {
        const hit = whole && rows.childElementCount < MOST_FOUND && searched(whole, words);
        if (hit) rows.append(this.#row(whole.conversation, hit.pieces, hit.message));
      }
    }
    const count = rows.childElementCount;
    said.textContent = count === 0 ? "Nothing found." : count === MOST_FOUND ? `The newest ${MOST_FOUND} are shown.` : count === 1 ? "1 chat" : `${count} chats`;
    this.#mark();
  }

  #key(event) {
    const first = this.place.querySelector("button.conversation");
    if (event.key === "ArrowDown" && first) (event.preventDefault(), first.focus());
    if (event.key === "Enter" && first && this.field.value.trim() !== "") (event.preventDefault(), first.click());
    if (event.key === "Escape" && this.field.value !== "") {
      event.stopPropagation();
      this.field.value = "";
      this.#search();
    }
  }
}

