// Markdown to HTML text, one piece for each block at the top level. HTML in the Markdown is text; only links to the web and to mail are links,
// and images are links too, so that nothing is loaded that nobody asked for. What comes out is sanitized all the same (render.js).

import { tex } from "./tex.js";

/** Longer code is shown without colours, and so is a language whose colours once took longer (milliseconds): code can be made to be slow. */
const MOST_COLOURED = 30_000;
const MOST_TIME = 300;

const linkable = (url) => /^(https?:\/\/|mailto:)/i.test(url);

/** Colours of code, kept: while an answer grows, its finished blocks are asked for again and again. */
function highlighter(hljs, escape) {
  const kept = new Map();
  const slow = new Set(["markdown", "md", "mkdown", "mkd"]);
  return (code, info) => {
    const language = info.trim().split(/\s+/)[0].toLowerCase();
    if (!hljs.getLanguage(language) || slow.has(language) || code.length > MOST_COLOURED) return escape(code);
    const key = `${language}\n${code}`;
    const began = performance.now();
    const html = kept.get(key) ?? hljs.highlight(code, { language, ignoreIllegals: true }).value;
    if (performance.now() - began > MOST_TIME) slow.add(language);
    kept.delete(key);
    kept.set(key, html);
    if (kept.size > 200) kept.delete(kept.keys().next().value);
    return html;
  };
}

/** Headings of an answer stand below the page's own (two levels), and never skip a level. */
function headings(tokens) {
  let last = 2;
  for (const [i, token] of tokens.entries()) {
    if (token.type !== "heading_open") continue;
    last = Math.min(Math.max(3, Number(token.tag[1]) + 2), last + 1, 6);
    token.tag = `h${last}`;
    tokens[i + 2].tag = token.tag;
  }
}

/** `- [ ]` and `- [x]` as boxes. */
function tasks(tokens) {
  for (const [i, token] of tokens.entries()) {
    const first = token.type === "inline" && tokens[i - 2]?.type === "list_item_open" ? token.children[0] : undefined;
    if (first?.type === "text") first.content = first.content.replace(/^\[([ xX])\] /, (_, mark) => (mark === " " ? "☐ " : "☑ "));
  }
}

/** Alignment as a class: the page's policy allows no style attribute. */
function cell(tokens, i, options, env, renderer) {
  const token = tokens[i];
  const align = /text-align:(left|right|center)/.exec(token.attrGet("style") ?? "")?.[1];
  token.attrs = align ? [["class", align]] : null;
  return renderer.renderToken(tokens, i, options);
}

/** `blocks(text)`: HTML of each top block. `markdownit` and `hljs` are the libraries. */
export function markdown(markdownit, hljs) {
  const md = markdownit({ html: false, linkify: true, typographer: false, breaks: false });
  const escape = md.utils.escapeHtml;
  const colour = highlighter(hljs, escape);
  md.validateLink = linkable;
  // Only whole addresses become links by themselves: "main.rs" and "node.js" are no hosts.
  md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
  md.use(tex);
  const { rules } = md.renderer;
  rules.fence = (tokens, i) => {
    const language = /^[\w+#.-]{1,30}/.exec(tokens[i].info.trim())?.[0] ?? "";
    return `<pre><code class="language-${escape(language)}">${colour(tokens[i].content, tokens[i].info)}</code></pre>`;
  };
  rules.code_block = (tokens, i) => `<pre><code>${escape(tokens[i].content)}</code></pre>`;
  rules.th_open = rules.td_open = cell;
  rules.link_open = (tokens, i, options, env, renderer) => {
    tokens[i].attrSet("rel", "noopener noreferrer");
    tokens[i].attrSet("target", "_blank");
    return renderer.renderToken(tokens, i, options);
  };
  rules.image = (tokens, i) => {
    const url = tokens[i].attrGet("src");
    const label = `Image: ${tokens[i].content || url}`;
    return `<a href="${escape(url)}" rel="noopener noreferrer" target="_blank">${escape(label)}</a>`;
  };
  return (text) => {
    const env = {};
    const tokens = md.parse(text, env);
    headings(tokens);
    tasks(tokens);
    const blocks = [];
    let from = 0;
    let depth = 0;
    tokens.forEach((token, i) => {
      depth += token.nesting;
      if (depth !== 0) return;
      blocks.push(md.renderer.render(tokens.slice(from, i + 1), md.options, env));
      from = i + 1;
    });
    return blocks;
  };
}
