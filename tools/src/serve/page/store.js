// The history, in IndexedDB. A conversation and each of its messages are records of their own, so two tabs that write to one conversation
// both keep what they wrote. A write reads the record that it changes in the same transaction; other tabs hear of it by BroadcastChannel
// and read anew. Where the browser keeps nothing (some private windows), the history lasts as long as the page.

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** A conversation that another tab deleted. */
export class GoneError extends Error {}

function openDatabase(name) {
  const request = indexedDB.open(name, 1);
  request.onupgradeneeded = () => {
    const database = request.result;
    database.createObjectStore("conversations", { keyPath: "id" });
    database.createObjectStore("messages", { keyPath: ["conversation", "id"] }).createIndex("conversation", "conversation");
  };
  return done(request);
}

/** The two tables as IndexedDB has them, inside one transaction. */
function tables(transaction) {
  const [conversations, messages] = ["conversations", "messages"].map((name) => transaction.objectStore(name));
  return {
    conversation: (id) => done(conversations.get(id)),
    conversations: () => done(conversations.getAll()),
    putConversation: (record) => done(conversations.put(record)),
    message: (conversation, id) => done(messages.get([conversation, id])),
    messages: (conversation) => done(messages.index("conversation").getAll(conversation)),
    putMessage: (record) => done(messages.put(record)),
    async remove(id) {
      const keys = await done(messages.index("conversation").getAllKeys(id));
      await Promise.all([done(conversations.delete(id)), ...keys.map((key) => done(messages.delete(key)))]);
    },
  };
}

/** The same tables in memory. */
function memoryTables() {
  const conversations = new Map();
  const messages = new Map();
  const of = (id) => messages.get(id) ?? messages.set(id, new Map()).get(id);
  const copy = (record) => record && structuredClone(record);
  return {
    conversation: async (id) => copy(conversations.get(id)),
    conversations: async () => [...conversations.values()].map(copy),
    putConversation: async (record) => void conversations.set(record.id, copy(record)),
    message: async (conversation, id) => copy(of(conversation).get(id)),
    messages: async (conversation) => [...of(conversation).values()].map(copy),
    putMessage: async (record) => void of(record.conversation).set(record.id, copy(record)),
    remove: async (id) => void (conversations.delete(id), messages.delete(id)),
  };
}

async function present(tables, id) {
  const conversation = await tables.conversation(id);
  if (!conversation) throw new GoneError("This conversation was deleted in another tab.");
  return conversation;
}

async function whole(tables, id) {
  const conversation = await tables.conversation(id);
  return conversation && { conversation, messages: await tables.messages(id) };
}

export class Store {
  #database = null;
  #memory = null;
  #queue = Promise.resolve();
  #channel;
  #listeners = [];

  /** `kept` is false when the browser refuses to keep anything. */
  static async open(name = "strata") {
    const store = new Store();
    try {
      store.#database = await openDatabase(name);
      // Another tab with a newer page must not wait for this one.
      store.#database.onversionchange = () => store.#database.close();
    } catch {
      store.#memory = memoryTables();
    }
    store.kept = store.#database !== null;
    store.#channel = new BroadcastChannel(`${name}-history`);
    store.#channel.onmessage = ({ data }) => store.#listeners.forEach((listener) => listener(data));
    return store;
  }

  /** Calls `listener({id, gone})` when another tab changed a conversation. */
  onchange(listener) {
    this.#listeners.push(listener);
  }

  async #within(mode, work) {
    // One after the other, as IndexedDB does it.
    if (this.#memory) return (this.#queue = this.#queue.catch(() => {}).then(() => work(this.#memory)));
    const transaction = this.#database.transaction(["conversations", "messages"], mode);
    const ended = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = transaction.onerror = () => reject(transaction.error ?? new Error("the browser could not write the history"));
    });
    try {
      const result = await work(tables(transaction));
      await ended;
      return result;
    } catch (error) {
      ended.catch(() => {});
      try {
        transaction.abort();
      } catch {
        // It has ended by itself.
      }
      throw error;
    }
  }

  #tell(id, gone = false) {
    this.#channel.postMessage({ id, gone });
  }

  /** Conversations without their messages, the newest first. */
  async list() {
    const list = await this.#within("readonly", (tables) => tables.conversations());
    return list.sort((a, b) => b.updated - a.updated);
  }

  /** `{conversation, messages}`, or `undefined`. */
  async load(id) {
    return this.#within("readonly", (tables) => whole(tables, id));
  }

  async create(conversation) {
    await this.#within("readwrite", (tables) => tables.putConversation(conversation));
    this.#tell(conversation.id);
  }

  /** Changes some fields of a conversation and leaves the others as whoever wrote them last. */
  async change(id, fields) {
    await this.#within("readwrite", async (tables) => tables.putConversation({ ...(await present(tables, id)), ...fields }));
    this.#tell(id);
  }

  /** Writes messages and, with `leaf`, which of them is shown. */
  async putMessages(id, messages, leaf) {
    await this.#within("readwrite", async (tables) => {
      const old = await present(tables, id);
      for (const message of messages) await tables.putMessage({ ...message, conversation: id });
      await tables.putConversation({ ...old, updated: Date.now(), leaf: leaf ?? old.leaf });
    });
    this.#tell(id);
  }

  /** Deletes a conversation and gives back what it was, for `restore`. At once: what is written in between would be lost to both. */
  async remove(id) {
    const gone = await this.#within("readwrite", async (tables) => {
      const found = await whole(tables, id);
      await tables.remove(id);
      return found;
    });
    this.#tell(id, true);
    return gone;
  }

  /** Adds conversations, all or none. One that is here already gets the messages that it lacks and keeps all else. */
  async restore(list) {
    let added = 0;
    await this.#within("readwrite", async (tables) => {
      for (const { conversation, messages } of list) {
        const here = await tables.conversation(conversation.id);
        if (!here) await tables.putConversation(conversation);
        for (const message of messages) {
          if (here && (await tables.message(conversation.id, message.id))) continue;
          await tables.putMessage({ ...message, conversation: conversation.id });
          added += 1;
        }
      }
    });
    for (const { conversation } of list) this.#tell(conversation.id);
    return added;
  }

  close() {
    this.#database?.close();
    this.#channel.close();
  }

  /** `[{conversation, messages}]`, everything. */
  async everything() {
    const list = await this.list();
    return Promise.all(list.map(({ id }) => this.load(id)));
  }
}
