// Sampling settings: their names in the API, their bounds, and how they are read from what a person typed. An empty field leaves the choice
// to the server, which knows what the model's file recommends.

export const FIELDS = [
  { key: "temperature", label: "Temperature", min: 0, max: 10, hint: "0 always takes the likeliest token" },
  { key: "top_p", label: "Top-p", min: 0, max: 1, hint: "Likeliest tokens that together have this probability" },
  { key: "top_k", label: "Top-k", min: 0, max: 1_000_000, whole: true, hint: "So many likeliest tokens; 0 for all" },
  { key: "min_p", label: "Min-p", min: 0, max: 1, hint: "Least probability, as a share of the likeliest token's" },
  { key: "repeat_penalty", label: "Repeat penalty", min: 0.01, max: 10, hint: "1 for none" },
  { key: "max_tokens", label: "Max tokens", min: 1, max: 10_000_000, whole: true, hint: "Most tokens of an answer" },
  { key: "seed", label: "Seed", min: 0, max: 4_294_967_295, whole: true, hint: "The same seed gives the same answer" },
];

/** What is wrong with a number for a field, or `null`. */
export function fault(field, number) {
  if (typeof number !== "number" || !Number.isFinite(number)) return `${field.label} is not a number`;
  if (field.whole && !Number.isInteger(number)) return `${field.label} is not a whole number`;
  if (number < field.min || number > field.max) return `${field.label} is not from ${field.min} to ${field.max.toLocaleString("en")}`;
  return null;
}

/** The fields of `settings` that are known and right; whatever else it holds is dropped. */
export function cleaned(settings) {
  const clean = {};
  for (const field of FIELDS) {
    const number = settings?.[field.key];
    if (number !== undefined && fault(field, number) === null) clean[field.key] = number;
  }
  return clean;
}
