// The panel beside the chat: system prompt and sampling of the conversation, which new conversations take over.

import { h, icon } from "./dom.js";
import { FIELDS, fault } from "./settings.js";

export class SettingsView {
  #id = null;

  constructor(chat, server, actions) {
    Object.assign(this, { chat, actions });
    this.panel = document.getElementById("settings");
    this.opener = document.getElementById("open-settings");
    this.opener.append(icon("sliders"));
    this.opener.addEventListener("click", () => this.toggle());
    document.getElementById("close-settings").append(icon("close"));
    document.getElementById("close-settings").addEventListener("click", () => this.toggle(false));
    this.system = document.getElementById("system");
    this.system.addEventListener("input", () => this.actions.set({ system: this.system.value }));
    this.fields = FIELDS.map((field) => this.#field(field));
    document.getElementById("sampling").append(...this.fields.map(({ element }) => element));
    document.getElementById("reset-settings").addEventListener("click", () => {
      this.actions.set({ settings: {} });
      this.#fill();
    });
    chat.addEventListener("change", () => chat.id !== this.#id && this.#fill());
    server.addEventListener("change", () => this.#showDefaults(server.defaults));
    this.#fill();
  }

  /** What an empty field stands for, where the server says it. Its numbers are of single precision: 0.949999988 is 0.95. */
  #showDefaults(defaults) {
    for (const { field, input } of this.fields) {
      const value = defaults[field.key];
      input.placeholder = Number.isFinite(value) ? String(Number(value.toPrecision(6))) : "Default";
    }
  }

  #field(field) {
    const id = `setting-${field.key}`;
    const problem = h("p.field-problem", { id: `${id}-problem`, hidden: true });
    const input = h("input", { id, type: "number", min: field.min, max: field.max, step: field.whole ? 1 : "any", placeholder: "Default", inputMode: field.whole ? "numeric" : "decimal",
      autocomplete: "off", "aria-describedby": `${id}-hint ${id}-problem` });
    input.addEventListener("input", () => {
      const wrong = input.validity.badInput ? `${field.label} is not a number` : input.value === "" ? null : fault(field, input.valueAsNumber);
      problem.hidden = wrong === null;
      problem.textContent = wrong ?? "";
      input.setAttribute("aria-invalid", wrong !== null);
      if (wrong !== null) return;
      const { [field.key]: _, ...others } = this.chat.conversation.settings;
      this.actions.set({ settings: input.value === "" ? others : { ...others, [field.key]: input.valueAsNumber } });
    });
    const element = h("div.field", {}, h("label", { htmlFor: id }, field.label), input, h("p.hint", { id: `${id}-hint` }, field.hint), problem);
    return { field, input, problem, element };
  }

  #fill() {
    const { id, system, settings } = this.chat.conversation;
    this.#id = id;
    this.system.value = system;
    for (const { field, input, problem } of this.fields) {
      input.value = settings[field.key] ?? "";
      problem.hidden = true;
      input.setAttribute("aria-invalid", false);
    }
  }

  get open() {
    return !this.panel.hidden;
  }

  toggle(open = !this.open) {
    if (open === this.open) return;
    this.panel.hidden = !open;
    this.opener.setAttribute("aria-expanded", open);
    this.actions.covered();
    if (open) this.panel.focus();
    else this.opener.focus();
  }
}
