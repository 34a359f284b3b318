// One message on the page: what was said, the figures under it, and what can be done to it.

import { composing, h, icon, iconButton, notify } from "./dom.js";
import { Rendered } from "./render.js";
import { MOST_SILENT } from "./chat.js";
import { copyText } from "./clipboard.js";
import { counted, figures } from "./format.js";


function fileChip({ name, text }) {
  return h("details.file", {}, h("summary", {}, icon("file"), h("span.file-name", {}, name), h("span.faint", {}, counted(text.length, "character"))),
    h("pre", { tabIndex: 0 }, text.length > 20_000 ? `${text.slice(0, 20_000)}\n…` : text));
}

/** `< 2/3 >` between a message and what was said in its place. */
function branches(message, siblings, actions) {
  if (siblings.length < 2) return null;
  const at = siblings.findIndex(({ id }) => id === message.id);
  const step = (by, name, label) =>
    iconButton(name, label, () => actions.choose(siblings[at + by].id, by), { disabled: !siblings[at + by], "data-step": by });
  return h("div.branches", { role: "group", "aria-label": "Versions" }, step(-1, "left", "Earlier version"),
    h("span", {}, h("span.sr-only", {}, "Version "), `${at + 1}/${siblings.length}`), step(1, "right", "Later version"));
}

export class UserMessage {
  constructor(message, actions) {
    this.actions = actions;
    this.body = h("div.bubble");
    this.tools = h("div.tools");
    this.element = h("article.message.user", { "data-id": message.id }, h("h2.sr-only", {}, "You said"), this.body, this.tools);
  }

  update(message, { siblings, locked }) {
    this.locked = locked;
    const shape = `${siblings.map(({ id }) => id)} ${locked}`;
    if (this.shape === shape || this.editing) return;
    this.shape = shape;
    this.body.replaceChildren(...(message.files ?? []).map(fileChip), h("div.plain", {}, message.content));
    this.tools.replaceChildren(...[
      branches(message, siblings, this.actions),
      iconButton("copy", "Copy message", ({ currentTarget }) => copyText(message.content, currentTarget)),
      iconButton("edit", "Edit message", () => this.edit(message), { disabled: locked }),
    ].filter(Boolean));
  }

  /** The message as a field. What is sent becomes a branch; what was said stays. */
  edit(message) {
    if (this.editing) return;
    const area = h("textarea", { value: message.content, "aria-label": "Edit message", rows: Math.min(12, message.content.split("\n").length + 1) });
    const close = () => {
      this.editing = false;
      this.shape = null;
      form.remove();
      this.body.hidden = this.tools.hidden = false;
      this.actions.redraw();
      this.element.querySelector('[aria-label="Edit message"]')?.focus();
    };
    const send = () => {
      const content = area.value;
      if (content.trim() === "" && !message.files?.length) return;
      if (this.locked) return notify("Another answer is being made. Stop it or wait for its end, then send.");
      close();
      this.actions.edit(message.id, content, message.files);
    };
    const form = h("form.edit", { onsubmit: (event) => (event.preventDefault(), send()) }, area,
      h("div.edit-buttons", {}, h("button.button", { type: "button", onclick: close }, "Cancel"), h("button.button.primary", { type: "submit" }, "Send")));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !composing(event)) (event.stopPropagation(), close());
      if (event.key === "Enter" && !event.shiftKey && !composing(event)) (event.preventDefault(), send());
    });
    this.editing = true;
    this.body.hidden = this.tools.hidden = true;
    this.element.append(form);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

/** Work of the server while no token comes. */
class ProgressLine {
  constructor() {
    this.what = h("span");
    this.detail = h("p.faint");
    this.bar = h("progress", { max: 1, "aria-label": "Progress of the answer" });
    this.element = h("div.progress", { hidden: true }, h("div.progress-text", {}, h("span.pulse", { "aria-hidden": "true" }), this.what), this.bar, this.detail);
  }

  update(run) {
    const progress = run?.phase === "busy"
      ? { what: `${run.why} Trying again in ${run.left} s`, share: null, detail: "" }
      : (run?.progress ?? (run?.phase === "waiting" ? { what: "Waiting for the server", share: null, detail: "" } : null));
    this.element.hidden = progress === null;
    if (progress === null) return;
    this.what.textContent = progress.what;
    this.detail.textContent = progress.detail;
    this.bar.hidden = progress.share === null;
    if (progress.share !== null) this.bar.value = Math.min(1, progress.share);
  }
}

export class AnswerMessage {
  constructor(message, actions) {
    this.actions = actions;
    this.text = h("div.markdown");
    this.rendered = new Rendered(this.text);
    this.thought = h("div.markdown");
    this.thoughtRendered = new Rendered(this.thought);
    this.thinkingLabel = h("span");
    this.thinking = h("details.thinking", { hidden: true, ontoggle: () => this.showThought() }, h("summary", {}, icon("right"), this.thinkingLabel), this.thought);
    this.progress = new ProgressLine();
    this.problem = h("div.problem", { hidden: true });
    this.tools = h("div.tools");
    this.element = h("article.message.answer", { "data-id": message.id }, h("h2.sr-only", {}, "Answer"),
      this.thinking, this.text, this.progress.element, this.problem, this.tools);
  }

  /** With `later`, a message that was never drawn shows its bare text until `complete` is called: a long conversation opens at once. */
  update(message, { run, siblings, locked, later, elsewhere }) {
    this.message = message;
    if (later && this.bare !== false) {
      this.bare = true;
      this.text.textContent = message.content;
    } else {
      this.complete();
    }
    this.thinking.hidden = !message.reasoning;
    this.thinkingLabel.textContent = run && message.content === "" ? "Thinking…" : "Thoughts";
    this.showThought();
    this.progress.update(run);
    this.element.classList.toggle("live", Boolean(run));
    clearTimeout(this.silence);
    if (elsewhere) this.silence = setTimeout(() => this.actions.redraw(), MOST_SILENT);
    const shape = [siblings.map(({ id }) => id), locked, Boolean(run), elsewhere, message.state, JSON.stringify(message.error), JSON.stringify(message.stats)].join();
    if (this.shape === shape) return;
    this.shape = shape;
    this.#showProblem(message, run || elsewhere);
    this.#showTools(message, siblings, locked, run || elsewhere);
  }

  complete() {
    if (this.bare) this.text.textContent = "";
    this.bare = false;
    this.rendered.set(this.message.content);
  }

  /** Thoughts are long, so they are drawn only while they are seen. */
  showThought() {
    if (this.thinking.open && this.message) this.thoughtRendered.set(this.message.reasoning);
  }

  #showProblem(message, coming) {
    const cut = { length: ["The answer reached the limit of tokens.", "Raise Max tokens in the settings, or ask it to go on."] }[message.finish];
    const said = coming ? null
      : message.state === "failed" ? [message.error?.title ?? "The answer failed.", message.error?.advice ?? ""]
      : message.state === "stopped" || message.state === "answering" ? ["Stopped.", ""]
      : (cut ?? null);
    this.problem.hidden = said === null;
    this.problem.classList.toggle("failed", message.state === "failed");
    if (said === null) return;
    this.problem.replaceChildren(h("p", {}, h("strong", {}, said[0]), " ", said[1]));
    if (message.state === "failed") this.problem.append(h("button.button", { type: "button", onclick: () => this.actions.regenerate(message.id) }, "Try again"));
  }

  #showTools(message, siblings, locked, coming) {
    this.tools.hidden = Boolean(coming);
    this.tools.replaceChildren(...[
      branches(message, siblings, this.actions),
      message.content && iconButton("copy", "Copy answer", ({ currentTarget }) => copyText(message.content, currentTarget)),
      message.state !== "failed" && iconButton("again", "Regenerate answer", () => this.actions.regenerate(message.id), { disabled: locked }),
      h("span.figures", {}, figures(message).join(" · ")),
    ].filter(Boolean));
  }
}
