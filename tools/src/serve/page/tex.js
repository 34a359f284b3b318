// Math in Markdown: `$…$`, `$$…$$`, `\(…\)` and `\[…\]`, as models write it. The source becomes the text of a `.math` element; math.js draws it.

const PAIRS = [["$$", "$$", true], ["\\[", "\\]", true], ["\\(", "\\)", false], ["$", "$", false]];

/** The most lines of a formula, and the most characters of one within a line: an open mark must not be sought to the end of a long text. */
const MOST_LINES = 100;
const MOST = 5_000;

/** The end of math that begins at `from` (after its mark), or -1; a backslash hides the character after it, except in the mark itself. */
function ending(text, from, close) {
  const last = Math.min(text.length, from + MOST);
  for (let i = from; i < last; i++) {
    if (text.startsWith(close, i)) return i;
    if (text[i] === "\\") i++;
  }
  return -1;
}

function inline(state, silent) {
  const pair = PAIRS.find(([open]) => state.src.startsWith(open, state.pos));
  if (!pair) return false;
  const [open, close, display] = pair;
  const from = state.pos + open.length;
  // Where one mark has no partner, those soon after it have none.
  if (from < (state.lonely?.[open] ?? 0)) return false;
  const end = ending(state.src, from, close);
  if (end < 0) (state.lonely ??= {})[open] = Math.max(from + 1, Math.min(state.src.length, from + MOST / 2));
  if (end < 0 || end >= state.posMax + (state.posMax === state.src.length ? 0 : 1)) return false;
  const source = state.src.slice(from, end);
  if (source.trim() === "") return false;
  // A dollar is more often money: it stands at the formula, and no digit comes after it (the rule of pandoc).
  if (open === "$" && (/^\s|\s$|\n\s*\n/.test(source) || /\d/.test(state.src[end + 1] ?? ""))) return false;
  if (!silent) Object.assign(state.push("math", "", 0), { content: source, meta: { display } });
  state.pos = end + close.length;
  return true;
}

function block(state, start, endLine, silent) {
  if (state.sCount[start] - state.blkIndent >= 4) return false;
  const line = (i) => state.src.slice(state.bMarks[i] + state.tShift[i], state.eMarks[i]);
  const pair = PAIRS.slice(0, 2).find(([open]) => line(start).startsWith(open));
  if (!pair) return false;
  const [open, close] = pair;
  const lines = [];
  let next = start;
  let closed = false;
  for (; next < endLine && !closed; next++) {
    if (next - start > MOST_LINES) return false;
    if (next > start && state.sCount[next] < state.blkIndent && line(next) !== "") break;
    let text = next === start ? line(next).slice(open.length) : line(next);
    const end = ending(text, 0, close);
    // Words after the formula make it part of a paragraph.
    if (end >= 0 && text.slice(end + close.length).trim() !== "") return false;
    if (end >= 0) [text, closed] = [text.slice(0, end), true];
    lines.push(text);
  }
  if (silent) return true;
  state.line = next;
  Object.assign(state.push("math_block", "", 0), { block: true, content: lines.join("\n").trim(), map: [start, next], meta: { display: true } });
  return true;
}

export function tex(markdown) {
  markdown.inline.ruler.before("escape", "math", inline);
  markdown.block.ruler.before("fence", "math_block", block, { alt: ["paragraph", "reference", "blockquote", "list"] });
  const render = (tokens, i) => {
    const { content, meta } = tokens[i];
    const source = markdown.utils.escapeHtml(content);
    return tokens[i].block ? `<div class="math display">${source}</div>` : `<span class="math${meta.display ? " display" : ""}">${source}</span>`;
  };
  markdown.renderer.rules.math = render;
  markdown.renderer.rules.math_block = render;
}
