// Figures as people read them.

/** Bytes in decimal units, as disks and models are sold. */
export function bytes(count) {
  if (!Number.isFinite(count) || count < 0) return "–";
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 999.5 && unit < units.length - 1) [count, unit] = [count / 1000, unit + 1];
  return `${count >= 99.5 || unit === 0 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

export function duration(milliseconds) {
  const seconds = milliseconds / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export const rate = (perSecond) => `${perSecond < 9.95 ? perSecond.toFixed(perSecond < 0.1 ? 3 : 1) : Math.round(perSecond)} tokens/s`;

/** Count with its noun. */
export const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** The figures under an answer. Tokens per second leave out the first token, which waits for the prompt. */
export function figures({ stats, model }) {
  const parts = model ? [model] : [];
  if (!stats) return parts;
  const { prompt_tokens: prompt, cached_tokens: cached = 0, completion_tokens: answer, first_ms: first, decode_ms: decode } = stats;
  if (answer) parts.push(counted(answer, "token"));
  if (answer > 1 && decode > 0) parts.push(rate(((answer - 1) * 1000) / decode));
  if (prompt) parts.push(`prompt ${counted(prompt, "token")}${cached > 0 ? ` (${cached.toLocaleString("en")} cached)` : ""}${first > 0 ? ` in ${duration(first)}` : ""}`);
  return parts;
}

/** The heading of a list under which a time falls. */
export function era(time, now = Date.now()) {
  const days = Math.round((new Date(now).setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / 86_400_000);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days < 8) return "Last 7 days";
  if (days < 31) return "Last 30 days";
  return new Date(time).toLocaleDateString("en", { month: "long", year: "numeric" });
}
