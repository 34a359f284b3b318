// What the page knows of the server: its models, and memory and disk, asked for while the page is seen.

import { getJson } from "./api.js";

const EVERY = 2500;

export class Server extends EventTarget {
  models = [];
  props = null;
  error = null;
  asked = false;
  /** Bytes a second that the server read from disk of late; `null` before two answers. */
  reading = null;
  #read = null;
  #refreshing = null;

  /** Asks now and from time to time. `wanted()` names the model that the page shows. */
  async start(wanted) {
    this.wanted = wanted;
    await this.refresh(true);
    setInterval(() => document.visibilityState === "visible" && this.refresh(false), EVERY);
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.refresh(false));
  }

  /** One at a time: a server that is slow to answer must not be asked over all the connections that a browser has. */
  refresh(ask) {
    return (this.#refreshing ??= this.#refresh(ask).finally(() => (this.#refreshing = null)));
  }

  async #refresh(ask) {
    try {
      const { data } = await getJson("/v1/models", { ask });
      this.models = (Array.isArray(data) ? data : []).map(({ id }) => id).filter((id) => typeof id === "string");
      const name = this.model(this.wanted());
      this.props = await getJson(name ? `/props?model=${encodeURIComponent(name)}` : "/props").catch(() => null);
      this.#count(this.props?.memory?.read_bytes);
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    this.asked = true;
    this.dispatchEvent(new Event("change"));
  }

  #count(bytes) {
    const [now, before] = [performance.now(), this.#read];
    this.#read = Number.isFinite(bytes) ? { bytes, now } : null;
    this.reading = before && this.#read && bytes >= before.bytes ? ((bytes - before.bytes) * 1000) / Math.max(1, now - before.now) : null;
  }

  /** The model that answers for a name: itself if it is there, else the server's first. */
  model(name) {
    return this.models.includes(name) ? name : (this.models[0] ?? "");
  }

  /** Sampling of the model that is shown, for what a request leaves open. */
  get defaults() {
    return this.props?.properties?.sampling ?? {};
  }

  /** Tokens that a conversation with a model may have, where the server says so: for a model in memory. */
  context(name) {
    const context = this.props?.model === name ? this.props.properties?.n_ctx : 0;
    return Number.isFinite(context) && context > 0 ? context : 0;
  }
}
