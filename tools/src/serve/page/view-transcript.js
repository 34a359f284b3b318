// The messages of the path that is shown, and where the page is scrolled to: an answer that grows is followed unless one scrolled away.

import { announce, h, icon } from "./dom.js";
import { AnswerMessage, UserMessage } from "./view-message.js";

const NEAR = 80;
/** So many of the newest messages are drawn at once, the others in slices of so many milliseconds. */
const AT_ONCE = 8;
const SLICE = 12;
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
    this.jump.addEventListener("click", () => (this.toEnd(true), this.actions.ready()));
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    const resized = new ResizeObserver(() => (this.#follows ? this.toEnd(false) : this.#scrolled()));
    resized.observe(this.scroller);
    resized.observe(this.place);
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
      this.#grow();
    }), Math.min(500, 2 * this.#cost));
  }

  draw() {
    const { path, id } = this.chat;
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
    for (const [i, message] of path.entries()) {
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
      this.#update(view, message, i < path.length - AT_ONCE);
    }
    if (this.#follows) this.toEnd(false);
    this.#scrolled();
    this.#complete();
  }

  #update(view, message, later) {
    const { run } = this.chat;
    view.update(message, { run: run?.message.id === message.id ? run : undefined, siblings: this.chat.siblings(message.id), locked: Boolean(run), later, elsewhere: this.chat.elsewhere(message) });
  }

  /** The answer that comes, and nothing else. */
  #grow() {
    const { run } = this.chat;
    const view = run && this.#shown.get(run.message.id);
    if (!view) return;
    const began = performance.now();
    this.#update(view, run.message, false);
    if (this.#follows) this.toEnd(false);
    this.#cost = performance.now() - began;
  }

  /** Draws what shows its bare text, from the end, a slice at a time. */
  #complete() {
    clearTimeout(this.completing);
    const bare = [...this.#shown.values()].filter((view) => view.bare);
    if (bare.length === 0) return;
    this.completing = setTimeout(() => {
      const until = performance.now() + SLICE;
      while (bare.length > 0 && performance.now() < until) bare.pop().complete();
      this.#complete();
    }, 0);
  }

  /** Puts the field on the last message of the user. */
  editLast() {
    const last = this.chat.path.findLast(({ role }) => role === "user");
    if (last && !this.chat.run) this.#shown.get(last.id)?.edit(last);
  }

  reveal(id) {
    const view = this.#shown.get(id);
    if (!view) return;
    const { element } = view;
    if (view.bare) view.complete();
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
    const text = this.#shown.get(id)?.text.innerText || content;
    announce(`${state === "stopped" ? "Stopped." : "Answer:"} ${text.length > SPOKEN ? `${text.slice(0, SPOKEN)} …` : text}`);
  }
}
