// Memory and disk of the server, at the foot of the list.

import { h } from "./dom.js";
import { bytes } from "./format.js";

/** Bytes a second; less is the noise of a server that does nothing. */
const LEAST = 1e6;

function gauge(name) {
  const value = h("span.gauge-value");
  const meter = h("meter", { min: 0, max: 1, "aria-label": name, hidden: true });
  const element = h("div.gauge", { hidden: true }, h("div.gauge-line", {}, h("span", {}, name), value), meter);
  return {
    element,
    /** `share` of the whole, or `null` where there is no whole. */
    show(text, share) {
      element.hidden = text === null;
      value.textContent = text ?? "";
      meter.hidden = share === null;
      if (share !== null) {
        meter.value = Math.min(1, share);
        meter.title = `${Math.round(share * 100)} %`;
      }
    },
  };
}

export class Gauges {
  constructor(server) {
    this.memory = gauge("Memory");
    this.disk = gauge("Disk");
    this.offline = h("p.offline", { hidden: true });
    document.getElementById("gauges").append(this.offline, this.memory.element, this.disk.element);
    server.addEventListener("change", () => this.draw(server));
  }

  draw({ props, error, reading }) {
    this.offline.hidden = error === null;
    this.offline.textContent = error?.message ?? "";
    const { resident_bytes: used, budget_bytes: budget } = props?.memory ?? {};
    if (!Number.isFinite(used) || error) this.memory.show(null, null);
    else if (budget > 0) this.memory.show(`${bytes(used)} of ${bytes(budget)}`, used / budget);
    else this.memory.show(bytes(used), null);
    // A model that lies in memory reads nothing, and then there is no disk to watch.
    this.streams ||= reading > LEAST;
    this.disk.show(this.streams && !error ? (reading > LEAST ? `${bytes(reading)}/s` : "idle") : null, null);
  }
}
