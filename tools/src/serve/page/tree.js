// A conversation as a tree of messages. Editing and regenerating add a sibling, so that nothing that was said is lost; what is shown is one
// path from a root to a leaf. No storage and no page here.

/** 128 random bits. `crypto.randomUUID` is missing where the page is read over plain HTTP from another machine. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const byAge = (a, b) => a.created - b.created || (a.id < b.id ? -1 : 1);

export class Tree {
  #messages = new Map();
  #children = new Map([[null, []]]);

  constructor(messages = []) {
    for (const message of messages) this.add(message);
  }

  get size() {
    return this.#messages.size;
  }

  get(id) {
    return this.#messages.get(id);
  }

  /** All messages that hang on a root, each after its parent. */
  all() {
    const all = [];
    const next = this.children(null).toReversed();
    while (next.length > 0) {
      all.push(next.pop());
      next.push(...this.children(all.at(-1).id).toReversed());
    }
    return all;
  }

  /** Adds a message, or replaces the one with its id. Its parent may come later. */
  add(message) {
    const parent = message.parent ?? null;
    const known = this.#messages.get(message.id);
    this.#messages.set(message.id, message);
    if (!this.#children.has(parent)) this.#children.set(parent, []);
    const siblings = this.#children.get(parent);
    if (known) siblings.splice(siblings.findIndex(({ id }) => id === message.id), 1, message);
    else siblings.push(message);
    siblings.sort(byAge);
  }

  children(id) {
    return this.#children.get(id ?? null) ?? [];
  }

  siblings(id) {
    return this.children(this.#messages.get(id)?.parent ?? null);
  }

  /** Messages from a root to `leaf`. A circle, which no tree of this page has, ends the path. */
  path(leaf) {
    const path = [];
    const seen = new Set();
    for (let message = this.get(leaf); message && !seen.has(message.id); message = this.get(message.parent)) {
      seen.add(message.id);
      path.push(message);
    }
    return path.reverse();
  }

  /** The leaf that is reached from `id` by the newest messages; from the roots for an unknown id. */
  newestLeaf(id) {
    let leaf = this.get(id);
    const seen = new Set();
    for (;;) {
      const next = this.children(leaf?.id).at(-1);
      if (!next || seen.has(next.id)) return leaf?.id ?? null;
      seen.add(next.id);
      leaf = next;
    }
  }
}
