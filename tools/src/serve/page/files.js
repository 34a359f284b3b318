// Text files that are added to a message: read in the browser, refused when they are too large or no text.

export const MOST_BYTES = 2_000_000;
export const MOST_FILES = 20;

/** The text of a file's bytes, or `null` when they are none: UTF-8, or UTF-16 with its mark. */
export function decoded(bytes) {
  const mark = bytes[0] === 0xff && bytes[1] === 0xfe ? "utf-16le" : bytes[0] === 0xfe && bytes[1] === 0xff ? "utf-16be" : "utf-8";
  try {
    const text = new TextDecoder(mark, { fatal: true }).decode(bytes);
    // Control characters that no text has: all below the space but those for white space, and the escape of coloured logs.
    return /[\0-\x08\x0e-\x1a\x1c-\x1f]/.test(text) ? null : text;
  } catch {
    return null;
  }
}

/** `{files: [{name, text}], refused: [why]}` of files that were dropped or picked. */
export async function readFiles(chosen, already = 0) {
  const files = [];
  const refused = [];
  for (const file of chosen) {
    if (already + files.length >= MOST_FILES) {
      refused.push(`No more than ${MOST_FILES} files go with a message.`);
      break;
    }
    if (file.size > MOST_BYTES) {
      refused.push(`${file.name} has more than ${MOST_BYTES / 1e6} MB.`);
      continue;
    }
    try {
      const text = decoded(new Uint8Array(await file.arrayBuffer()));
      if (text === null) refused.push(`${file.name} is not a text file.`);
      else files.push({ name: file.name.slice(0, 200), text });
    } catch {
      refused.push(`${file.name} could not be read.`);
    }
  }
  return { files, refused };
}
