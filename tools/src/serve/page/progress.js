// What the server does while no token comes: how much of the prompt is read, which layer of a streamed model is computed. The stream of the
// answer tells of its prompt; GET /slots tells where the pass is.

const number = (value) => (Number.isFinite(value) ? value : 0);

/** The slot that most likely works for an answer of `received` tokens: the busy one of the model whose answer is about as long. */
export function ownSlot(slots, model, received) {
  const busy = slots.filter((slot) => slot.is_processing && (!model || slot.model === model));
  const apart = (slot) => Math.abs(number(slot.answer_tokens) - received);
  return busy.sort((a, b) => apart(a) - apart(b))[0];
}

const sentence = (text) => text && text[0].toUpperCase() + text.slice(1);

/**
 * `{what, share, detail}`: a sentence, its share of the work (0 to 1, or `null`), and where the pass is, or "". `prompt` is
 * `{processed, total}` as the stream told it, or `null`; `received` is the number of tokens that came.
 */
export function describe(slots, { model, received, prompt }) {
  const slot = Array.isArray(slots) ? ownSlot(slots, model, received) : undefined;
  if (!slot) return { what: "Waiting for the server", share: null, detail: "" };
  const step = typeof slot.step === "string" ? slot.step.slice(0, 200) : "";
  const [, layer, layers] = /^layer (\d+) of (\d+)/.exec(step) ?? [];
  const detail = sentence(step);
  if (received === 0 && !prompt && number(slot.answer_tokens) > 0) return { what: "Waiting for a free slot", share: null, detail: "" };
  const total = prompt?.total ?? number(slot.prompt_tokens);
  const processed = prompt?.processed ?? number(slot.cached_tokens);
  if (received === 0 && processed < total) {
    return { what: `Reading the prompt: ${processed.toLocaleString("en")} of ${total.toLocaleString("en")} tokens`, share: processed / total, detail };
  }
  return { what: "Thinking", share: layer ? layer / layers : null, detail };
}
