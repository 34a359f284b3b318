// Answers that are being made: one run for each, which streams, waits when the server is busy, and writes to the history as it goes. Runs go
// on when another conversation is shown.

import { chat, getJson, ApiError } from "./api.js";
import { describe } from "./progress.js";
import { GoneError } from "./store.js";

const SAVE_EVERY = 1000;
const POLL_EVERY = 500;
/** Silence after which progress is asked for. */
const SILENT = 700;
const MOST_TRIES = 20;

export class Answers extends EventTarget {
  #runs = new Map();

  constructor(store) {
    super();
    this.store = store;
  }

  /** The run of a conversation, if one is going: `{message, phase, progress, tokens, stop()}`. */
  of(conversation) {
    return this.#runs.get(conversation);
  }

  get any() {
    return this.#runs.size > 0;
  }

  /** Stops the answer of a conversation, if one is going, and resolves when it is in the history. */
  async end(conversation) {
    const run = this.of(conversation);
    run?.stop();
    await run?.ended;
  }

  /** Makes `message` the answer to `body`. Resolves when it has ended, however it ended. */
  start(conversation, message, body) {
    const control = new AbortController();
    const run = { conversation, message, model: body.model, prompt: null, phase: "waiting", progress: null, tokens: 0, began: performance.now(), first: null, last: performance.now(), stop: () => control.abort() };
    this.#runs.set(conversation, run);
    Object.assign(message, { state: "answering", error: undefined });
    run.ended = this.#make(run, body, control.signal);
    this.#tell(run);
    return run.ended;
  }

  async #make(run, body, signal) {
    const { conversation, message } = run;
    const polling = setInterval(() => this.#poll(run, signal), POLL_EVERY);
    const saving = setInterval(() => this.#save(run), SAVE_EVERY);
    try {
      await this.#stream(run, body, signal);
      message.state = "done";
    } catch (error) {
      message.state = signal.aborted ? "stopped" : "failed";
      if (message.state === "failed") {
        const { title, advice } = error instanceof ApiError ? error : { title: error.message, advice: "Try again." };
        message.error = { title, advice: advice ?? "" };
      }
    } finally {
      clearInterval(polling);
      clearInterval(saving);
      this.#count(run);
      await this.#save(run);
      // Not before: what was stored until now is older than the message.
      this.#runs.delete(conversation);
      run.phase = "ended";
      this.#tell(run);
    }
  }

  async #stream(run, body, signal) {
    for (let tries = 1; ; tries++) {
      try {
        for await (const part of chat(body, signal)) this.#take(run, part);
        return;
      } catch (error) {
        if (!error.retryAfter || tries === MOST_TRIES) throw error;
        run.why = error.title;
        await this.#wait(run, error.retryAfter, signal);
      }
    }
  }

  #take(run, { content, reasoning, finish, usage, timings, model, prompt }) {
    const { message } = run;
    message.content += content;
    message.reasoning += reasoning;
    if (finish) message.finish = finish;
    if (model) message.model = model;
    if (usage) run.usage = usage;
    if (timings) run.timings = timings;
    if (prompt) run.prompt = prompt;
    if (content || reasoning) {
      run.last = performance.now();
      run.first ??= run.last;
      run.tokens += 1;
      run.phase = content ? "answering" : "reasoning";
      run.progress = null;
    }
    this.#tell(run);
  }

  /** A second at a time, so that the page can count down. */
  async #wait(run, seconds, signal) {
    run.phase = "busy";
    for (run.left = seconds; run.left > 0; run.left--) {
      this.#tell(run);
      await new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, 1000);
        signal.addEventListener("abort", () => (clearTimeout(timer), reject(new DOMException("stopped", "AbortError"))), { once: true });
      });
    }
    run.phase = "waiting";
    run.last = performance.now();
    this.#tell(run);
  }

  async #poll(run, signal) {
    if (run.polling || run.phase === "busy" || performance.now() - run.last < SILENT) return;
    run.polling = true;
    try {
      const progress = describe(await getJson("/slots", { signal }), { model: run.model, received: run.tokens, prompt: run.prompt });
      if (performance.now() - run.last >= SILENT) {
        run.progress = progress;
        this.#tell(run);
      }
    } catch {
      // Progress is a comfort; the answer itself says what is wrong.
    } finally {
      run.polling = false;
    }
  }

  #count({ message, began, first, last, tokens, usage, timings }) {
    if (first === null) return;
    const own = (value, otherwise) => (Number.isFinite(value) && value >= 0 ? value : otherwise);
    message.stats = {
      prompt_tokens: own(usage?.prompt_tokens, 0),
      cached_tokens: own(usage?.prompt_tokens_details?.cached_tokens, 0),
      completion_tokens: own(usage?.completion_tokens, tokens),
      first_ms: Math.round(own(timings?.prompt_ms, first - began)),
      decode_ms: Math.round(own(timings?.predicted_ms, last - first)),
    };
  }

  async #save(run) {
    try {
      await this.store.putMessages(run.conversation, [run.message]);
    } catch (error) {
      // Who deleted the conversation knows it, and who could not create it has said so. Once: an answer that grows would say it every second.
      if (error instanceof GoneError || run.unsaved) return;
      run.unsaved = true;
      this.dispatchEvent(new CustomEvent("unsaved", { detail: error }));
    }
  }

  #tell(run) {
    this.dispatchEvent(new CustomEvent("change", { detail: run }));
  }
}
