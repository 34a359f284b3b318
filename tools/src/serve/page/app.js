// Puts the page together: what it knows, its views, and what buttons and keys do.

import { Answers } from "./answers.js";
import { Chat } from "./chat.js";
import { ComposerView } from "./view-composer.js";
import { Gauges } from "./gauges.js";
import { ListView } from "./view-list.js";
import { Server } from "./server.js";
import { SettingsView } from "./view-settings.js";
import { Store } from "./store.js";
import { TranscriptView } from "./view-transcript.js";
import { askKey, askTitle, openMenu, showKeys } from "./view-dialogs.js";
import { announce, composing, h, icon, notify } from "./dom.js";
import { exportAll, exportOne, importFile } from "./transfer.js";
import { keep } from "./kept.js";
import { onKeyNeeded } from "./api.js";

const by = (id) => document.getElementById(id);
const NARROW = matchMedia("(max-width: 820px)");
/** Where a finger points, the focus in a field opens a keyboard over half of the page. */
const TOUCH = matchMedia("(pointer: coarse)");

onKeyNeeded(askKey);
const store = await Store.open();
const server = new Server();
const answers = new Answers(store);
const chat = new Chat(store, answers, server);

const failed = (error) => notify(error.message || "Something went wrong.");
const unsaved = ({ detail }) => notify(`The history was not written: ${detail.message}`);
answers.addEventListener("unsaved", unsaved);
chat.addEventListener("unsaved", unsaved);

/** What the views can ask for. */
const actions = {
  send(content, files) {
    chat.send(content, files).catch(failed);
    transcript.toEnd(true);
  },
  edit: (id, content, files) => (ready(), chat.edit(id, content, files).catch(failed)),
  regenerate: (id) => (ready(), chat.regenerate(id).catch(failed)),
  stop: () => chat.stop(),
  set: (fields) => chat.set(fields).catch(failed),
  redraw: () => transcript.draw(),
  editLast: () => transcript.editLast(),
  covered: () => cover(),
  ready: () => ready(),
  /** The arrow that was used is drawn anew, so the focus is put on it again: at once, since the history may take its time. */
  choose(id, step) {
    chat.choose(id).catch(failed);
    const arrows = document.querySelector(`[data-id="${id}"] .branches`);
    (arrows?.querySelector(`[data-step="${step}"]:not(:disabled)`) ?? arrows?.querySelector("button:not(:disabled)"))?.focus();
  },
  async open(id, message) {
    if (!(await chat.open(id, message).catch(failed))) return list.refresh();
    drawer(false);
    if (message) transcript.reveal(message);
    ready();
  },
  menu(id, button) {
    openMenu(button, [
      { name: "Rename", icon: "edit", run: () => rename(id) },
      { name: "Export as JSON", icon: "out", run: () => exportOne(store, id).catch(failed) },
      { name: "Delete", icon: "trash", danger: true, run: () => remove(id).catch(failed) },
    ]);
  },
};

const transcript = new TranscriptView(chat, actions);
const composer = new ComposerView(chat, server, actions);
const list = new ListView(chat, actions);
const settings = new SettingsView(chat, server, actions);
new Gauges(server);

/** Puts the focus where one writes, or where one reads. */
const ready = () => (TOUCH.matches ? by("scroller") : composer).focus();

function startNew() {
  chat.startNew();
  drawer(false);
  ready();
}

async function rename(id) {
  const whole = await store.load(id);
  const title = (await askTitle(whole?.conversation.title ?? ""))?.trim();
  if (!title) return;
  await store.change(id, { title });
  if (id === chat.id) await chat.refresh();
  await list.refresh();
}

/** At once, with a way back: a question before would be asked a hundred times for the one that was needed. */
async function remove(id) {
  await answers.end(id);
  const whole = await store.remove(id);
  if (id === chat.id) startNew();
  await list.refresh();
  if (!whole) return;
  const undo = async () => {
    await store.restore([whole]);
    await list.refresh();
    await actions.open(id);
  };
  notify(`“${whole.conversation.title}” was deleted.`, { label: "Undo", run: () => undo().catch(failed) });
}

// The list as a drawer on narrow windows; what lies below it cannot be reached meanwhile.
function drawer(open) {
  document.body.classList.toggle("drawer", open);
  by("open-list").setAttribute("aria-expanded", open);
  cover();
  if (open) by("new-chat").focus();
}

function cover() {
  const [narrow, listed] = [NARROW.matches, document.body.classList.contains("drawer")];
  by("list").inert = narrow && !listed;
  by("main").inert = narrow && (listed || settings.open);
  by("curtain").hidden = !(narrow && (listed || settings.open));
}

// Title and models.
function head() {
  const { title, model } = chat.conversation;
  by("title").textContent = chat.stored ? title : "New chat";
  document.title = chat.stored ? `${title} · Strata` : "Strata";
  by("more").hidden = !chat.stored;
  const select = by("model");
  const names = server.models.length > 0 ? server.models : [server.error ? "No server" : server.asked ? "No model" : "…"];
  if (select.dataset.names !== names.join("\n")) {
    select.dataset.names = names.join("\n");
    select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  }
  select.disabled = server.models.length < 2;
  select.value = server.model(model) || names[0];
  select.title = select.value;
}

const THEMES = [["system", "Theme: as the system"], ["light", "Theme: light"], ["dark", "Theme: dark"]];

function theme(next) {
  const at = Math.max(0, THEMES.findIndex(([name]) => name === (document.documentElement.dataset.theme ?? "system")));
  const [name, label] = THEMES[(at + next) % THEMES.length];
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  if (next) (keep("localStorage", "strata-theme", name), announce(label));
  by("theme").replaceChildren(icon({ system: "system", light: "sun", dark: "moon" }[name]));
  by("theme").setAttribute("aria-label", label);
  by("theme").title = label;
}

for (const [id, name, act] of [
  ["new-chat", "plus", startNew],
  ["new-chat-top", "plus", startNew],
  ["open-list", "menu", () => drawer(true)],
  ["close-list", "close", () => (drawer(false), by("open-list").focus())],
  ["more", "more", ({ currentTarget }) => actions.menu(chat.id, currentTarget)],
  ["theme", "system", () => theme(1)],
  ["keys", "keys", showKeys],
  ["export-all", "out", () => exportAll(store).catch(failed)],
  ["import", "in", () => by("import-picker").click()],
]) {
  by(id).prepend(icon(name));
  by(id).addEventListener("click", act);
}
by("import-picker").addEventListener("change", async ({ currentTarget }) => {
  for (const file of [...currentTarget.files]) await importFile(store, file);
  by("import-picker").value = "";
  await list.refresh();
  await chat.refresh();
});
by("model").addEventListener("change", ({ currentTarget }) => actions.set({ model: currentTarget.value }).then(() => server.refresh(false)));
by("curtain").addEventListener("click", () => (drawer(false), settings.toggle(false)));
NARROW.addEventListener("change", cover);

window.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, select, dialog");
  const command = event.ctrlKey || event.metaKey;
  const does = command && !event.shiftKey && event.key.toLowerCase() === "k" ? () => (NARROW.matches && drawer(true), list.focusSearch())
    : command && event.shiftKey && event.key.toLowerCase() === "o" ? startNew
    : command && event.key === "," ? () => settings.toggle()
    : event.key === "?" && !typing && !command ? showKeys
    : event.key === "Escape" && !document.querySelector("dialog[open]") ? escape
    : null;
  if (!does || composing(event) || document.querySelector("dialog[open]")) return;
  if (event.key !== "Escape") event.preventDefault();
  does();
});

/** What is open where the focus is, then the answer: one who leaves a panel does not want to lose an answer of many minutes. */
function escape() {
  const within = (id) => by(id).contains(document.activeElement);
  if (document.body.classList.contains("drawer")) return (drawer(false), by("open-list").focus());
  if (settings.open && (within("settings") || NARROW.matches || !chat.run)) return settings.toggle(false);
  if (chat.run && !within("list")) return chat.stop();
  composer.focus();
}

chat.addEventListener("change", head);
server.addEventListener("change", head);
let listed = null;
/** Soon, and once for many changes. */
function listSoon() {
  clearTimeout(listed);
  listed = setTimeout(() => list.refresh().catch(failed), 100);
}
// Titles and the order change when an answer begins and ends.
answers.addEventListener("change", ({ detail: { phase } }) => (phase === "waiting" || phase === "ended") && listSoon());
window.addEventListener("beforeunload", (event) => (answers.any || composer.holds) && event.preventDefault());

store.onchange(async ({ id, gone }) => {
  listSoon();
  if (gone) answers.of(id)?.stop();
  if (id !== chat.id || !chat.stored) return;
  if (!gone) return chat.refresh().catch(failed);
  startNew();
  notify("The chat was deleted in another tab.");
});

theme(0);
cover();
head();
await list.refresh().catch(failed);
if (!store.kept) notify("This browser keeps no history here (a private window?). Export what you want to keep.");
ready();
document.body.classList.add("ready");
await server.start(() => chat.conversation.model);
