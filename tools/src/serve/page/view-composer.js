// The field at the bottom: text, files, send and stop.

import { composing, h, icon, iconButton, notify } from "./dom.js";
import { readFiles } from "./files.js";
import { counted } from "./format.js";

export class ComposerView {
  #files = [];

  constructor(chat, server, actions) {
    Object.assign(this, { chat, server, actions });
    const by = (id) => document.getElementById(id);
    [this.form, this.area, this.chips, this.picker, this.send, this.used] = ["composer", "message", "files", "picker", "send", "used"].map(by);
    const attach = by("attach");
    attach.append(icon("clip"));
    attach.addEventListener("click", () => this.picker.click());
    this.picker.addEventListener("change", () => this.add([...this.picker.files]).then(() => (this.picker.value = "")));
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.submit()));
    this.area.addEventListener("input", () => this.#changed());
    this.area.addEventListener("keydown", (event) => this.#key(event));
    this.area.addEventListener("paste", (event) => this.#paste(event));
    this.#drops(by("drop"));
    chat.addEventListener("change", () => this.draw());
    chat.answers.addEventListener("change", ({ detail }) => ["waiting", "ended"].includes(detail.phase) && this.draw());
    server.addEventListener("change", () => this.draw());
    this.draw();
  }

  focus() {
    this.area.focus();
  }

  /** Whether anything is written that was not sent. */
  get holds() {
    return this.area.value.trim() !== "" || this.#files.length > 0;
  }

  async add(chosen) {
    const { files, refused } = await readFiles(chosen, this.#files.length);
    this.#files.push(...files);
    refused.forEach((why) => notify(why));
    this.draw();
    this.focus();
  }

  submit() {
    if (this.chat.run) return this.actions.stop();
    if (!this.holds) return;
    const content = this.area.value;
    const files = this.#files;
    this.#files = [];
    this.area.value = "";
    this.draw();
    this.actions.send(content, files);
  }

  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !composing(event)) {
      event.preventDefault();
      if (!this.chat.run) this.submit();
    } else if (event.key === "ArrowUp" && this.area.value === "" && this.#files.length === 0) {
      event.preventDefault();
      this.actions.editLast();
    }
  }

  #paste(event) {
    const files = [...event.clipboardData.files];
    if (files.length === 0) return;
    event.preventDefault();
    this.add(files);
  }

  #drops(curtain) {
    const holds = (event) => event.dataTransfer?.types.includes("Files");
    let depth = 0;
    const over = (by) => (curtain.hidden = (depth = Math.max(0, depth + by)) === 0);
    window.addEventListener("dragenter", (event) => holds(event) && over(1));
    window.addEventListener("dragleave", (event) => holds(event) && over(-1));
    window.addEventListener("dragover", (event) => holds(event) && event.preventDefault());
    window.addEventListener("drop", (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      over(-depth);
      this.add([...event.dataTransfer.files]);
    });
  }

  #changed() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, window.innerHeight * 0.4)}px`;
    this.send.disabled = !this.chat.run && !this.holds;
  }

  draw() {
    const running = Boolean(this.chat.run);
    const label = running ? "Stop answering" : "Send message";
    if (this.send.getAttribute("aria-label") !== label) {
      this.send.setAttribute("aria-label", label);
      this.send.title = label;
      this.send.replaceChildren(icon(running ? "stop" : "up"));
      this.send.classList.toggle("stop", running);
    }
    this.chips.replaceChildren(...this.#files.map((file) => h("li", {}, icon("file"), h("span.file-name", {}, file.name),
      h("span.faint", {}, counted(file.text.length, "character")),
      iconButton("close", `Remove ${file.name}`, () => {
        this.#files = this.#files.filter((other) => other !== file);
        this.draw();
        this.focus();
      }))));
    this.chips.hidden = this.#files.length === 0;
    this.#showUsed();
    this.#changed();
  }

  /** How much of the context the conversation took at its last answer. */
  #showUsed() {
    const { prompt_tokens: prompt = 0, completion_tokens: answer = 0 } = this.chat.path.findLast(({ stats }) => stats)?.stats ?? {};
    const context = this.server.context(this.server.model(this.chat.conversation.model));
    const used = prompt + answer;
    this.used.textContent = used === 0 ? "" : context ? `${used.toLocaleString("en")} of ${counted(context, "token")}` : counted(used, "token");
    this.used.classList.toggle("full", Boolean(context) && used > 0.9 * context);
  }
}
