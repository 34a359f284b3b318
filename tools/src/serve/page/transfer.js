// Export to and import from files.

import { exported, imported, ImportError, MOST_BYTES } from "./exchange.js";
import { notify } from "./dom.js";
import { counted } from "./format.js";

const nameOf = (title) => title.normalize("NFKD").replace(/[^\w]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40).toLowerCase() || "chat";

function download(list, name) {
  const url = URL.createObjectURL(new Blob([exported(list)], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `${name}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export async function exportOne(store, id) {
  const whole = await store.load(id);
  if (whole) download([whole], `strata-${nameOf(whole.conversation.title)}`);
}

export async function exportAll(store) {
  const all = (await store.everything()).filter(Boolean);
  if (all.length === 0) return notify("There is nothing to export yet.");
  download(all, `strata-chats-${new Date().toISOString().slice(0, 10)}`);
}

/** Checks a file in full, then stores what is new in it. */
export async function importFile(store, file) {
  try {
    if (file.size > MOST_BYTES) throw new ImportError(`it has more than ${MOST_BYTES / 1e6} MB`);
    const list = imported(await file.text());
    const added = await store.restore(list);
    notify(`Imported ${counted(list.length, "chat")} with ${counted(added, "new message")}.`);
  } catch (error) {
    notify(`${file.name} was not imported: ${error.message}. Nothing was changed.`);
  }
}
