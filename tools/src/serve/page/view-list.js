// The list of conversations, and the search through them.

import { h, iconButton } from "./dom.js";
import { era } from "./format.js";
import { searched, wordsOf } from "./search.js";

const MOST_FOUND = 50;

export class ListView {
  #list = [];
  #query = 0;

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
    if (this.field.value.trim() === "") this.#draw();
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
    const groups = Map.groupBy?.(this.#list, ({ updated }) => era(updated)) ?? new Map([["Chats", this.#list]]);
    this.place.replaceChildren(...[...groups].map(([name, list], i) =>
      h("section", { "aria-labelledby": `era-${i}` }, h("h2", { id: `era-${i}` }, name), h("ul", {}, ...list.map((each) => this.#row(each))))));
    if (this.#list.length === 0) this.place.replaceChildren(h("p.faint", {}, "Your chats will be listed here. They stay in this browser."));
    this.#mark();
  }

  #mark() {
    for (const button of this.place.querySelectorAll("button.conversation")) {
      const { id } = button.dataset;
      if (id === this.chat.id) button.setAttribute("aria-current", "page");
      else button.removeAttribute("aria-current");
      button.classList.toggle("running", Boolean(this.chat.answers.of(id)));
    }
  }

  /** Conversation by conversation, so that a long history does not stop the page; a newer search ends this one. */
  async #search() {
    const query = ++this.#query;
    const words = wordsOf(this.field.value);
    if (words.length === 0) return this.#draw();
    const rows = h("ul");
    const said = h("p.faint", { role: "status" }, "Searching…");
    this.place.replaceChildren(h("section", { "aria-label": "Found" }, said, rows));
    for (const { id } of this.#list) {
      const whole = await this.chat.store.load(id);
      if (query !== this.#query) return;
      const hit = whole && searched(whole, words);
      if (hit) rows.append(this.#row(whole.conversation, hit.pieces, hit.message));
      if (rows.childElementCount === MOST_FOUND) break;
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

