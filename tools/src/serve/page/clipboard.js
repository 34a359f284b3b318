// Copying. `navigator.clipboard` is missing where the page is read over plain HTTP from another machine.

import { announce, notify } from "./dom.js";

async function write(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "sr-only";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("the browser refused");
}

/** Copies, and says so on the button for a moment. */
export async function copyText(text, button) {
  try {
    await write(text);
    announce("Copied");
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1500);
  } catch (error) {
    notify(`Nothing was copied: ${error.message}`);
  } finally {
    button.focus();
  }
}
