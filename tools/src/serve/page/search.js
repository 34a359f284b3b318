// Search over the text of conversations: every word must occur, in one message or in the title.

/** Without case and accents, each letter as long as before, so that places in it are places in the text. */
export function folded(text) {
  if (/^[\0-\x7f]*$/.test(text)) return text.toLowerCase();
  return text.replace(/[^\0-\x7f]/gu, (letter) => {
    const parts = letter.normalize("NFD");
    const plain = (/^.\p{M}+$/u.test(parts) ? parts[0] : letter).toLowerCase();
    return plain.length === letter.length ? plain : letter;
  }).replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}

export const wordsOf = (query) => folded(query).split(/\s+/).filter((word) => word !== "");

/** Where `words` occur in a text: `[[from, to]]` without overlaps, or `null` when one is missing. */
export function found(text, words) {
  const plain = folded(text);
  const places = [];
  for (const word of words) {
    const from = plain.indexOf(word);
    if (from < 0) return null;
    places.push([from, from + word.length]);
  }
  places.sort((a, b) => a[0] - b[0]);
  return places.filter(([from], i) => i === 0 || from >= places[i - 1][1]);
}

/** A line of a text around its first place: `[[piece, whether it was found]]`. */
export function snippet(text, places, length = 90) {
  const first = places[0][0];
  let from = Math.max(0, first - 24);
  if (from > 0) from = Math.max(from, text.lastIndexOf(" ", first - 1) >= from ? text.indexOf(" ", from) + 1 : from);
  const to = Math.min(text.length, from + length);
  const pieces = from > 0 ? [["…", false]] : [];
  let at = from;
  for (const [start, end] of places.filter(([, end]) => end <= to)) {
    if (start > at) pieces.push([text.slice(at, start), false]);
    pieces.push([text.slice(start, end), true]);
    at = end;
  }
  if (to > at) pieces.push([text.slice(at, to), false]);
  if (to < text.length) pieces.push(["…", false]);
  return pieces.map(([piece, hit]) => [piece.replace(/\s+/g, " "), hit]);
}

/** The best place of the words in a conversation: `{message, pieces}`, or `null`. The newest message comes first, then the title. */
export function searched({ conversation, messages }, words) {
  const newest = [...messages].sort((a, b) => b.created - a.created);
  for (const message of newest) {
    for (const text of [message.content, ...(message.files ?? []).flatMap(({ name, text }) => [name, text]), message.reasoning ?? ""]) {
      const places = text && found(text, words);
      if (places) return { message: message.id, pieces: snippet(text, places) };
    }
  }
  return found(conversation.title, words) && { message: null, pieces: [] };
}
