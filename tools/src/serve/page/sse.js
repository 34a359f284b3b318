// Server-sent events: pieces of bytes in, the data of events out (https://html.spec.whatwg.org/multipage/server-sent-events.html).

/** The most characters of one event: a server that never ends a line must not fill the memory. */
const MOST = 16_000_000;

export class EventParser {
  #decoder = new TextDecoder();
  #rest = "";
  #data = [];

  /** The data of the events that these bytes complete. */
  push(bytes) {
    return this.#lines(this.#decoder.decode(bytes, { stream: true }), false);
  }

  /** What is left at the end. An event without its empty line counts: servers forget it after the last one. */
  finish() {
    const events = this.#lines(this.#decoder.decode(), true);
    if (this.#data.length > 0) events.push(this.#data.join("\n"));
    this.#data = [];
    return events;
  }

  #lines(text, last) {
    const events = [];
    let buffer = this.#rest + text;
    // A carriage return at the end may be half of a line's end.
    const held = !last && buffer.endsWith("\r") ? "\r" : "";
    if (held) buffer = buffer.slice(0, -1);
    const lines = buffer.split(/\r\n|\n|\r/);
    this.#rest = (last ? "" : lines.pop()) + held;
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) events.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    if (this.#rest.length + this.#data.reduce((sum, line) => sum + line.length, 0) > MOST) throw new Error("the server sent an event without an end");
    return events;
  }
}
