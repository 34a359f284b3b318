// The conversation that is shown: its tree, the path through it, and what a person can do to it. Tells its views by `change`.

import { Tree, newId } from "./tree.js";
import { requestBody, titleOf } from "./prompt.js";
import { cleaned } from "./settings.js";
import { keep, kept } from "./kept.js";

const LAST = "strata-last";
/** Who makes an answer writes it every second: one that was not written for so long (milliseconds) is made by nobody. */
export const MOST_SILENT = 10_000;

/** Settings of the last conversation, with which a new one begins. */
function remembered() {
  try {
    const { system, settings, model } = JSON.parse(kept("localStorage", LAST)) ?? {};
    return { system: typeof system === "string" ? system : "", settings: cleaned(settings), model: typeof model === "string" ? model : "" };
  } catch {
    return { system: "", settings: {}, model: "" };
  }
}

export class Chat extends EventTarget {
  #tree = new Tree();
  #opening = 0;

  /** `server.model(name)` gives the name of a model that is there. */
  constructor(store, answers, server) {
    super();
    Object.assign(this, { store, answers, server });
    this.#reset();
  }

  #reset() {
    const now = Date.now();
    this.stored = false;
    this.conversation = { id: newId(), title: "", created: now, updated: now, leaf: null, ...remembered() };
    this.#tree = new Tree();
  }

  get id() {
    return this.conversation.id;
  }

  get path() {
    return this.#tree.path(this.conversation.leaf);
  }

  get run() {
    return this.answers.of(this.id);
  }

  /** Whether another tab makes an answer. */
  elsewhere(message) {
    return message.state === "answering" && message.id !== this.run?.message.id && Date.now() - this.conversation.updated < MOST_SILENT;
  }

  siblings(id) {
    return this.#tree.siblings(id);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  startNew() {
    this.#opening += 1;
    this.#reset();
    this.#changed();
  }

  /** Shows a conversation, at the branch of a message if one is named, unless another is asked for meanwhile. False when it is not there. */
  async open(id, message) {
    const opening = (this.#opening += 1);
    const found = await this.store.load(id);
    if (opening !== this.#opening) return true;
    if (!found) return false;
    this.stored = true;
    this.conversation = found.conversation;
    this.#tree = new Tree();
    this.#take(found.messages);
    if (message) this.conversation.leaf = this.#tree.newestLeaf(message);
    this.#changed();
    return true;
  }

  /**
   * Adds messages from the history. What is here and not there yet is being written, and stays; an answer that is being made here is newer
   * than what was stored of it.
   */
  #take(messages) {
    const live = this.run?.message;
    for (const message of messages) if (message.id !== live?.id) this.#tree.add(message);
    if (live) this.#tree.add(live);
    if (!this.#tree.get(this.conversation.leaf)) this.conversation.leaf = this.#tree.newestLeaf(null);
  }

  /** After another tab wrote to this conversation. The branch that is shown stays, and follows what was added to its end. */
  async refresh() {
    const { id } = this;
    const found = await this.store.load(id);
    if (!found || id !== this.id) return;
    // As it is now: something may have been said meanwhile.
    this.conversation = { ...found.conversation, leaf: this.conversation.leaf };
    this.#take(found.messages);
    this.conversation.leaf = this.#tree.newestLeaf(this.conversation.leaf);
    this.#changed();
  }

  #add(fields) {
    const parent = this.#tree.get(fields.parent);
    // Later than its parent by the clock of any tab: exports and lists stand in the order of time.
    const message = { id: newId(), created: Math.max(Date.now(), (parent?.created ?? 0) + 1), ...fields };
    this.#tree.add(message);
    this.conversation.leaf = message.id;
    return message;
  }

  #say(parent, content, files) {
    const message = this.#add({ parent, role: "user", content, files });
    return this.#answer(message.id, [message]);
  }

  #answer(parent, before = []) {
    return this.#run(this.#add({ parent, role: "assistant", content: "", reasoning: "", state: "answering", finish: "", model: "" }), before);
  }

  /** Begins an answer, and writes it with the messages `before` it. All begins at once: while the disk writes, another conversation may be opened. */
  async #run(message, before = []) {
    const { conversation } = this;
    const body = requestBody(conversation, this.server.model(conversation.model), this.#tree.path(message.parent));
    if (!this.stored) {
      conversation.title = titleOf(before[0]);
      this.stored = true;
      this.#write(this.store.create(conversation));
    }
    const written = this.#write(this.store.putMessages(conversation.id, [...before, message], message.id));
    const ended = this.answers.start(conversation.id, message, body);
    this.#changed();
    await written;
    return ended;
  }

  /** A message of the user and its answer; nothing while another answer comes. */
  async send(content, files = []) {
    if (this.run) return;
    await this.#say(this.path.at(-1)?.id ?? null, content, files);
  }

  /** Says something else in a message's place: a branch. */
  async edit(id, content, files) {
    if (this.run) return;
    await this.#say(this.#tree.get(id).parent, content, files);
  }

  /** Another answer to the same message: a branch. An answer that failed before it said anything is made again. */
  async regenerate(id) {
    if (this.run) return;
    const message = this.#tree.get(id);
    if (message.content === "" && message.reasoning === "") return this.#run(Object.assign(message, { finish: "" }));
    return this.#answer(message.parent);
  }

  /** Shows the branch of a message. */
  async choose(id) {
    this.conversation.leaf = this.#tree.newestLeaf(id);
    this.#changed();
    await this.#keep({ leaf: this.conversation.leaf });
  }

  /** Changes the system prompt, sampling settings or model, also for new conversations. */
  async set(fields) {
    Object.assign(this.conversation, fields);
    const { system, settings, model } = this.conversation;
    keep("localStorage", LAST, JSON.stringify({ system, settings, model }));
    this.#changed();
    await this.#keep(fields);
  }

  async #keep(fields) {
    if (this.stored) await this.#write(this.store.change(this.id, fields));
  }

  /** A history that cannot be written is said, and does not end the conversation. */
  async #write(writing) {
    try {
      await writing;
    } catch (error) {
      this.dispatchEvent(new CustomEvent("unsaved", { detail: error }));
    }
  }

  stop() {
    this.run?.stop();
  }
}
