// From a path of messages to the body of a request. Reasoning is not fed back; the text of files stands before the message they came with.

import { cleaned } from "./settings.js";

/** A fence longer than every run of backticks in `text`. */
function fence(text) {
  const longest = (text.match(/`+/g) ?? []).reduce((most, run) => Math.max(most, run.length), 2);
  return "`".repeat(longest + 1);
}

/** What the model reads of a user's message. */
export function withFiles({ content, files = [] }) {
  const parts = files.map(({ name, text }) => {
    const mark = fence(text);
    return `File: ${name.replace(/[\r\n]/g, " ")}\n${mark}\n${text}${text.endsWith("\n") ? "" : "\n"}${mark}\n`;
  });
  return [...parts, content].filter((part) => part !== "").join("\n");
}

/**
 * Messages of the API for a path. An answer without text, which failed or was stopped before it began, is left out; the messages around it
 * become one, since many templates want users and answers in turn.
 */
export function apiMessages(system, path) {
  const messages = system?.trim() ? [{ role: "system", content: system }] : [];
  for (const message of path) {
    if (message.role === "user") {
      const before = messages.at(-1);
      if (before?.role === "user") before.content += `\n\n${withFiles(message)}`;
      else messages.push({ role: "user", content: withFiles(message) });
    } else if (message.content !== "") messages.push({ role: "assistant", content: message.content });
  }
  return messages;
}

export function requestBody({ system, settings }, model, path) {
  return { ...(model ? { model } : {}), messages: apiMessages(system, path), ...cleaned(settings), stream: true, stream_options: { include_usage: true }, return_progress: true };
}

/** A title for a conversation that begins with `message`: its first line, cut between words. */
export function titleOf({ content, files = [] }) {
  const line = content.split("\n").map((each) => each.replace(/^[#>*\-\s]+/, "").trim()).find((each) => each !== "") ?? files[0]?.name ?? "New chat";
  const letters = [...line];
  if (letters.length <= 60) return line;
  const cut = letters.slice(0, 60).join("");
  return `${cut.replace(/\s+\S*$/, "") || cut}…`;
}
