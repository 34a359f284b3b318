// What the page knows of the server: its models, and memory and disk, asked for while the page is seen.

import { getJson } from "./api.js";

const EVERY = 4000;

export class Server extends EventTarget {
  models = [];
  props = null;
  error = null;

  /** Asks now and from time to time. `busy()` says whether answers are being made. */
  async start() {
    await this.refresh(true);
    setInterval(() => document.visibilityState === "visible" && this.refresh(false), EVERY);
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.refresh(false));
  }

  async refresh(ask) {
    try {
      const models = await getJson("/v1/models", { ask });
      const props = await getJson("/props").catch(() => null);
      this.models = (Array.isArray(models.data) ? models.data : []).map(({ id }) => id).filter((id) => typeof id === "string");
      this.props = props;
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    this.dispatchEvent(new Event("change"));
  }

  /** The model that answers for a name: itself if it is there, else the server's own choice. */
  model(name) {
    if (this.models.includes(name)) return name;
    const own = this.props?.default_model;
    return this.models.includes(own) ? own : (this.models[0] ?? "");
  }

  /** Tokens that a conversation with a model may have, if the server says so. */
  context(name) {
    const context = this.props?.models?.find((model) => model.name === name)?.context;
    return Number.isFinite(context) && context > 0 ? context : 0;
  }

  loaded(name) {
    return this.props?.models?.find((model) => model.name === name)?.loaded === true;
  }
}
