// What the server does while no token comes: how much of the prompt is read, which layer of a streamed model is computed. From GET /slots.

const number = (value) => (Number.isFinite(value) ? value : 0);
const busy = ({ state }) => state !== "idle";

/** The slot that most likely works for an answer of `received` tokens: the one whose answer is about as long. */
export function ownSlot(slots, received) {
  const candidates = slots.filter(busy).map((slot) => ({ slot, apart: Math.abs(number(slot.answer_tokens) - received) }));
  candidates.sort((a, b) => a.apart - b.apart);
  return candidates[0]?.slot;
}

/** `{what, share, layer}`: a sentence, its share of the work (0 to 1, or `null`), and a sentence on layers or "". */
export function describe(slots, received) {
  const slot = Array.isArray(slots) ? ownSlot(slots, received) : undefined;
  if (!slot) return { what: "Waiting for the server", share: null, layer: "" };
  const [processed, prompt] = [number(slot.processed_tokens), number(slot.prompt_tokens)];
  // A pass of a streamed model takes seconds: the layer shows that it moves.
  const layer = number(slot.layers) > 1 ? `Layer ${number(slot.layer)} of ${slot.layers}` : "";
  if (received === 0 && number(slot.answer_tokens) > 0 && slots.every(busy)) return { what: "Waiting for a free slot", share: null, layer: "" };
  if (prompt > 0 && processed < prompt) {
    return { what: `Reading the prompt: ${processed.toLocaleString("en")} of ${prompt.toLocaleString("en")} tokens`, share: processed / prompt, layer };
  }
  return { what: "Thinking", share: layer ? number(slot.layer) / slot.layers : null, layer };
}
