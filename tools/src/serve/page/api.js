// The server's HTTP interface: lists, states, and answers that are streamed. What goes wrong becomes an `ApiError` that says what to do.

import { EventParser } from "./sse.js";
import { keep, kept } from "./kept.js";

const KEY = "strata-api-key";

export class ApiError extends Error {
  /** `title` says what happened, `advice` what to do; `retryAfter` in seconds, for a server that is busy. */
  constructor(title, advice, { status, retryAfter } = {}) {
    super(title);
    Object.assign(this, { title, advice, status, retryAfter });
  }
}

let askKey = async () => null;

/** How a key is asked for: `ask(refused)` gives it, or `null`. */
export function onKeyNeeded(ask) {
  let asking = null;
  // One question at a time, however many requests were refused.
  askKey = (refused) => (asking ??= ask(refused).finally(() => (asking = null)));
}

const key = () => kept("sessionStorage", KEY);

async function send(path, options, ask = true) {
  for (;;) {
    const used = key();
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...(used ? { Authorization: `Bearer ${used}` } : {}) }, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server does not answer.", "See whether strata serve still runs, then try again.");
    }
    if (response.status !== 401 || !ask) return response;
    // Another request may have got a key meanwhile.
    if (key() !== used) continue;
    const given = await askKey(used !== null);
    if (given === null) return response;
    keep("sessionStorage", KEY, given);
  }
}

function seconds(header) {
  const number = Number(header);
  return Number.isFinite(number) && number > 0 ? Math.min(Math.ceil(number), 600) : 2;
}

/** What the server said, as a sentence. */
const sentence = (text) => text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

async function refusal(response) {
  let said = "";
  try {
    const body = await response.text();
    const { error } = JSON.parse(body);
    said = typeof error === "string" ? error : (error?.message ?? "");
  } catch {
    // The status says enough.
  }
  said = sentence(String(said).slice(0, 1000));
  const { status } = response;
  const advice = {
    401: "Reload the page and give the server's API key.",
    403: "Open the page by the address that the server printed when it started.",
    404: "Choose another model above.",
    413: "Send less text, or start a new chat.",
    429: "The server works on other requests.",
    503: "The model is being loaded, or there is no memory for it. Try again in a while.",
  }[status];
  if (status === 429) return new ApiError("The server is busy.", advice, { status, retryAfter: seconds(response.headers.get("Retry-After")) });
  // A model that is being loaded, or memory that others use.
  if (status === 503 && response.headers.has("Retry-After")) return new ApiError(said, advice, { status, retryAfter: seconds(response.headers.get("Retry-After")) });
  if (status === 401) return new ApiError("The server wants an API key.", advice, { status });
  if (status === 400 && /context/i.test(said)) return new ApiError(said, "Start a new chat, shorten your message, or restart the server with a longer context.", { status });
  return new ApiError(said || `The server answered with status ${status}.`, advice ?? (status < 500 ? "Change the message or the settings, then try again." : "Try again; the server's log says more."), { status });
}

/** A JSON document of the server. `ask` whether a person may be asked for a key. */
export async function getJson(path, { signal, ask = false } = {}) {
  const response = await send(path, { signal }, ask);
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** Parts of an answer as they come: `{content, reasoning, finish, usage, timings, model, prompt}`, empty where nothing is said. */
export async function* chat(body, signal) {
  const response = await send("/v1/chat/completions", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusal(response);
  const parser = new EventParser();
  const reader = response.body.getReader();
  let ended = false;
  try {
    while (!ended) {
      const { value, done } = await read(reader);
      for (const data of done ? parser.finish() : parser.push(value)) {
        if (data === "[DONE]") ended = true;
        else yield part(data);
      }
      if (done) break;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!ended) throw new ApiError("The answer broke off.", "The server may have been stopped. Try again.");
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection broke.", "See whether strata serve still runs, then try again.");
  }
}

function part(data) {
  let json;
  try {
    json = JSON.parse(data);
  } catch {
    throw new ApiError("The server sent something that is no JSON.", "Try again; the server's log may say more.");
  }
  if (json.error) throw new ApiError(sentence(String(json.error.message ?? json.error).slice(0, 1000)), "Try again; the server's log may say more.");
  const choice = json.choices?.[0];
  const text = (value) => (typeof value === "string" ? value : "");
  return {
    content: text(choice?.delta?.content),
    reasoning: text(choice?.delta?.reasoning_content),
    finish: text(choice?.finish_reason),
    usage: json.usage ?? undefined,
    timings: json.timings ?? undefined,
    model: text(json.model),
    prompt: Number.isFinite(json.prompt_progress?.total) && Number.isFinite(json.prompt_progress.processed) ? json.prompt_progress : undefined,
  };
}
