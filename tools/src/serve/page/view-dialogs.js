// Questions above the page: the API key, a new title, the list of keys; and the menu of a conversation.

import { h, icon } from "./dom.js";

const KEYS = [
  ["Enter", "Send the message"], ["Shift Enter", "New line"], ["Esc", "Stop the answer, or close what is open"], ["↑", "Edit your last message (in an empty field)"],
  ["Ctrl K", "Search all chats"], ["Ctrl Shift O", "New chat"], ["Ctrl ,", "Settings"], ["?", "This list"],
];

/** Shows a dialog until it is closed; resolves to what its field holds, or `null`. */
function asked(dialog, field) {
  document.body.append(dialog);
  dialog.showModal();
  field?.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "given" ? field?.value ?? "" : null;
      dialog.remove();
      resolve(given);
    });
  });
}

function question(title, text, field, button) {
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" });
  dialog.append(h("form", { method: "dialog", onsubmit: (event) => (event.preventDefault(), dialog.close("given")) },
    h("h2", { id: "dialog-title" }, title), text && h("p", {}, text), field,
    h("div.dialog-buttons", {}, h("button.button", { type: "button", onclick: () => dialog.close("") }, "Cancel"), h("button.button.primary", { type: "submit" }, button))));
  return asked(dialog, field);
}

export const askKey = (refused) => question(refused ? "The server refused this API key" : "API key", "The server was started with a key. It is kept until this tab is closed.",
  h("input", { type: "password", "aria-label": "API key", autocomplete: "off", required: true, maxLength: 4096, pattern: "[\\x21-\\x7e]+", title: "Letters, digits and signs of ASCII, without spaces" }), "Continue");

export const askTitle = (title) => question("Rename chat", null, h("input", { type: "text", value: title, "aria-label": "Title", maxLength: 200, required: true }), "Rename");

export function showKeys() {
  if (document.querySelector("dialog[open]")) return;
  const mac = /mac/i.test(navigator.platform);
  const rows = KEYS.map(([keys, what]) => h("div", {}, h("dt", {}, ...keys.split(" ").flatMap((key, i) => [i > 0 && " ", h("kbd", {}, mac && key === "Ctrl" ? "⌘" : key)]).filter(Boolean)), h("dd", {}, what)));
  const dialog = h("dialog.keys", { "aria-labelledby": "dialog-title" });
  dialog.append(h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, "Keys"), h("dl", {}, ...rows),
    h("div.dialog-buttons", {}, h("button.button.primary", { type: "submit" }, "Close"))));
  return asked(dialog);
}

/** A menu at a button: `[{name, icon, run, danger}]`. */
export function openMenu(button, entries) {
  const close = () => {
    menu.remove();
    document.removeEventListener("pointerdown", outside, true);
    window.removeEventListener("blur", close);
  };
  const outside = (event) => menu.contains(event.target) || close();
  const items = entries.map((entry) => h(`button.menu-item${entry.danger ? ".danger" : ""}`, { type: "button", role: "menuitem", tabIndex: -1,
    onclick: () => (close(), button.isConnected && button.focus(), entry.run()) }, icon(entry.icon), h("span", {}, entry.name)));
  const menu = h("div.menu", { role: "menu", "aria-label": button.getAttribute("aria-label") }, ...items);
  menu.addEventListener("keydown", (event) => {
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 + items.length, Home: 0, End: items.length - 1 }[event.key];
    if (to !== undefined) (event.preventDefault(), items[to % items.length].focus());
    if (event.key === "Escape" || event.key === "Tab") (event.preventDefault(), event.stopPropagation(), close(), button.focus());
  });
  // Where a key of the page takes the focus away.
  menu.addEventListener("focusout", ({ relatedTarget }) => relatedTarget && !menu.contains(relatedTarget) && close());
  document.body.append(menu);
  const at = button.getBoundingClientRect();
  menu.style.left = `${Math.max(8, Math.min(at.left, window.innerWidth - menu.offsetWidth - 8))}px`;
  menu.style.top = `${at.bottom + menu.offsetHeight + 8 > window.innerHeight ? at.top - menu.offsetHeight - 4 : at.bottom + 4}px`;
  document.addEventListener("pointerdown", outside, true);
  window.addEventListener("blur", close);
  items[0].focus();
}
