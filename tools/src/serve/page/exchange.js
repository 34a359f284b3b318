// Conversations as a JSON file: what is written, and what is taken from a file that anybody may have made. An import is checked in full
// before anything of it is stored, and only fields that are named here are copied.

import { cleaned } from "./settings.js";
import { Tree } from "./tree.js";

const FORMAT = "strata-chat";
export const MOST_BYTES = 256_000_000;
const MOST = { conversations: 20_000, messages: 20_000, files: 100, title: 500, system: 1_000_000, content: 16_000_000, name: 500, id: 64 };
const STATES = ["done", "stopped", "failed"];
const STATS = ["prompt_tokens", "cached_tokens", "completion_tokens", "first_ms", "decode_ms"];

export class ImportError extends Error {}

const message = ({ id, parent, role, content, reasoning, files, created, state, finish, model, stats, error }) =>
  ({ id, parent, role, content, reasoning, files, created, state: role === "assistant" && state === "answering" ? "stopped" : state, finish, model, stats, error });

/** The text of a file with these conversations: `[{conversation, messages}]`. */
export function exported(list) {
  const conversations = list.map(({ conversation: { id, title, created, updated, system, settings, model, leaf }, messages }) => (
    { id, title, created, updated, system, settings, model, leaf, messages: new Tree(messages).all().map(message) }));
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);

function fail(place, what) {
  throw new ImportError(`${place}: ${what}`);
}

function object(value, place) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) fail(place, "is not an object");
  return value;
}

function list(value, place, most) {
  if (!Array.isArray(value)) fail(place, "is not a list");
  if (value.length > most) fail(place, `has ${value.length} entries, more than ${most}`);
  return value;
}

function text(value, place, most, otherwise) {
  if (value === undefined && otherwise !== undefined) return otherwise;
  if (typeof value !== "string") fail(place, "is not a text");
  if (value.length > most) fail(place, `has ${value.length} characters, more than ${most}`);
  return value;
}

function time(value, place) {
  if (!Number.isSafeInteger(value) || value < 0 || value > 8.64e15) fail(place, "is not a time in milliseconds");
  return value;
}

function identity(value, place) {
  if (typeof value !== "string" || !/^[0-9A-Za-z_-]{1,64}$/.test(value)) fail(place, "is not an id of up to 64 letters and digits");
  return value;
}

function stats(value) {
  if (typeof value !== "object" || value === null) return undefined;
  return Object.fromEntries(STATS.filter((key) => Number.isFinite(own(value, key)) && value[key] >= 0).map((key) => [key, value[key]]));
}

function readFiles(value, place) {
  return list(value, place, MOST.files).map((file, i) => ({
    name: text(own(object(file, `${place}[${i}]`), "name"), `${place}[${i}].name`, MOST.name),
    text: text(own(file, "text"), `${place}[${i}].text`, MOST.content),
  }));
}

function readMessage(value, place, known) {
  const read = (key, most, otherwise) => text(own(value, key), `${place}.${key}`, most, otherwise);
  object(value, place);
  const id = identity(own(value, "id"), `${place}.id`);
  if (known.has(id)) fail(`${place}.id`, "is the id of another message too");
  const parent = own(value, "parent") ?? null;
  const above = known.get(parent);
  // Parents come first, so that there is no circle.
  if (parent !== null && !above) fail(`${place}.parent`, "is no message before this one");
  const role = own(value, "role");
  if (role !== "user" && role !== "assistant") fail(`${place}.role`, 'is neither "user" nor "assistant"');
  if (role === "assistant" && above?.role !== "user") fail(`${place}.role`, 'is "assistant" without a message of the user before it');
  const clean = { id, parent, role, content: read("content", MOST.content), created: time(own(value, "created"), `${place}.created`) };
  if (role === "user") return { ...clean, files: readFiles(own(value, "files") ?? [], `${place}.files`) };
  const error = own(value, "error");
  return {
    ...clean,
    reasoning: read("reasoning", MOST.content, ""),
    state: STATES.includes(own(value, "state")) ? value.state : "done",
    finish: read("finish", 40, ""),
    model: read("model", MOST.name, ""),
    stats: stats(own(value, "stats")),
    error: error == null ? undefined : { title: text(own(object(error, `${place}.error`), "title"), `${place}.error.title`, 2000),
      advice: text(own(error, "advice"), `${place}.error.advice`, 2000, "") },
  };
}

function readConversation(value, place) {
  object(value, place);
  const read = (key, most, otherwise) => text(own(value, key), `${place}.${key}`, most, otherwise);
  const known = new Map();
  list(own(value, "messages"), `${place}.messages`, MOST.messages).forEach((each, i) => {
    const clean = readMessage(each, `${place}.messages[${i}]`, known);
    known.set(clean.id, clean);
  });
  const leaf = own(value, "leaf") ?? null;
  if (leaf !== null && !known.has(leaf)) fail(`${place}.leaf`, "is none of the messages");
  const conversation = {
    id: identity(own(value, "id"), `${place}.id`),
    title: read("title", MOST.title).trim() || "Untitled",
    created: time(own(value, "created"), `${place}.created`),
    updated: time(own(value, "updated"), `${place}.updated`),
    system: read("system", MOST.system, ""),
    settings: cleaned(own(value, "settings")),
    model: read("model", MOST.name, ""),
    leaf,
  };
  return { conversation, messages: [...known.values()] };
}

/** `[{conversation, messages}]` of a file's text; an `ImportError` names the place that is wrong. */
export function imported(json) {
  if (json.length > MOST_BYTES) throw new ImportError(`The file has more than ${MOST_BYTES / 1e6} MB`);
  let file;
  try {
    file = JSON.parse(json);
  } catch (error) {
    throw new ImportError(`This is not JSON: ${error.message.slice(0, 200)}`);
  }
  object(file, "The file");
  if (own(file, "format") !== FORMAT) fail("format", `is not "${FORMAT}": this is no export of this page`);
  if (own(file, "version") !== 1) fail("version", "is not 1: a newer Strata wrote this file");
  const seen = new Set();
  return list(own(file, "conversations"), "conversations", MOST.conversations).map((value, i) => {
    const read = readConversation(value, `conversations[${i}]`);
    if (seen.has(read.conversation.id)) fail(`conversations[${i}].id`, "is the id of another conversation too");
    seen.add(read.conversation.id);
    return read;
  });
}
