// The messages of the path that is shown, and where the page is scrolled to: an answer that grows is followed unless one scrolled away.

import { announce, h, icon } from "./dom.js";
import { AnswerMessage, UserMessage } from "./view-message.js";

const NEAR = 80;
const SPOKEN = 3000;

export class TranscriptView {
  #shown = new Map();
  #id = null;
  #follows = true;
  #asked = false;
  #cost = 0;

  constructor(chat, actions) {
    Object.assign(this, { chat, actions });
    this.scroller = document.getElementById("scroller");
    this.place = document.getElementById("transcript");
    this.welcome = document.getElementById("welcome");
    this.jump = document.getElementById("jump");
    this.jump.append(icon("down"));
    this.jump.addEventListener("click", () => this.toEnd(true));
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    chat.addEventListener("change", () => this.draw());
    chat.answers.addEventListener("change", ({ detail }) => detail.conversation === chat.id && this.#later(detail));
  }

  /** At most once a frame, and less often when drawing is slow, so that the page stays quick under a long answer. */
  #later(run) {
    if (run.phase === "ended") {
      this.draw();
      this.#speak(run.message);
      return;
    }
    if (this.#asked) return;
    this.#asked = true;
    setTimeout(() => requestAnimationFrame(() => {
      this.#asked = false;
      this.draw();
    }), Math.min(500, 2 * this.#cost));
  }

  draw() {
    const began = performance.now();
    const { path, run, id } = this.chat;
    if (id !== this.#id) {
      this.#id = id;
      this.#shown.clear();
      this.place.replaceChildren();
      this.#follows = true;
    }
    this.welcome.hidden = path.length > 0;
    const ids = new Set(path.map((message) => message.id));
    for (const [shown, view] of this.#shown) {
      if (ids.has(shown)) continue;
      view.element.remove();
      this.#shown.delete(shown);
    }
    let before = null;
    for (const message of path) {
      let view = this.#shown.get(message.id);
      if (!view) {
        view = new (message.role === "user" ? UserMessage : AnswerMessage)(message, this.actions);
        this.#shown.set(message.id, view);
      }
      if (view.element.previousElementSibling !== before || !view.element.isConnected) {
        if (before) before.after(view.element);
        else this.place.prepend(view.element);
      }
      before = view.element;
      view.update(message, { run: run?.message.id === message.id ? run : undefined, siblings: this.chat.siblings(message.id), locked: Boolean(run) });
    }
    if (this.#follows) this.toEnd(false);
    this.#scrolled();
    this.#cost = performance.now() - began;
  }

  /** Puts the field on the last message of the user. */
  editLast() {
    const last = this.chat.path.findLast(({ role }) => role === "user");
    if (last && !this.chat.run) this.#shown.get(last.id)?.edit(last);
  }

  reveal(id) {
    const element = this.#shown.get(id)?.element;
    if (!element) return;
    this.#follows = false;
    element.scrollIntoView({ block: "center" });
    element.classList.add("found");
    setTimeout(() => element.classList.remove("found"), 2500);
  }

  toEnd(asked) {
    if (asked) this.#follows = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #scrolled() {
    const apart = this.scroller.scrollHeight - this.scroller.clientHeight - this.scroller.scrollTop;
    this.#follows = apart < NEAR;
    this.jump.hidden = apart < 2 * NEAR;
  }

  /** A finished answer is read aloud once, as its text stands on the page. */
  #speak({ id, state, content, error }) {
    if (state === "failed") return announce(`The answer failed. ${error.title} ${error.advice}`);
    const text = this.#shown.get(id)?.text.innerText ?? content;
    announce(`${state === "stopped" ? "Stopped." : "Answer:"} ${text.length > SPOKEN ? `${text.slice(0, SPOKEN)} …` : text}`);
  }
}
