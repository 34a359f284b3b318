// The page's logic without a page: `node --test tests/page-chat/`.
import { test } from "node:test";
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { HOSTILE, RICH } from "./answers.mjs";
import { Tree, newId } from "../../tools/src/serve/page/tree.js";
import { EventParser } from "../../tools/src/serve/page/sse.js";
import { exported, imported, ImportError } from "../../tools/src/serve/page/exchange.js";
import { apiMessages, requestBody, titleOf, withFiles } from "../../tools/src/serve/page/prompt.js";
import { FIELDS, cleaned, fault } from "../../tools/src/serve/page/settings.js";
import { decoded, readFiles } from "../../tools/src/serve/page/files.js";
import { folded, found, searched, snippet, wordsOf } from "../../tools/src/serve/page/search.js";
import { describe as progressOf, ownSlot } from "../../tools/src/serve/page/progress.js";
import { bytes, duration, era, figures, rate } from "../../tools/src/serve/page/format.js";
import { markdown } from "../../tools/src/serve/page/markdown.js";
import { Store } from "../../tools/src/serve/page/store.js";
import { Chat } from "../../tools/src/serve/page/chat.js";
import { Server } from "../../tools/src/serve/page/server.js";

const load = createRequire(import.meta.url);
const vendor = (name) => load(`../../tools/src/serve/page/vendor/${name}.min.js`);
const library = vendor("markdown-it");
const blocks = markdown(library.default ?? library, vendor("highlight"));
const html = (text) => blocks(text).join("");

const message = (id, parent, created, role = "user") => ({ id, parent, role, content: id, created });
const conversation = { id: "c1", title: "T", created: 1, updated: 2, system: "", settings: { top_k: 4 }, model: "m", leaf: "b" };
const messages = [message("a", null, 1), { ...message("b", "a", 2, "assistant"), reasoning: "r", state: "done", finish: "stop", model: "m", stats: { prompt_tokens: 3 } }];

test("a tree shows the path to a leaf, versions of a message, and the newest leaf", () => {
  const tree = new Tree([message("b2", "a", 4), message("a", null, 1), message("b1", "a", 2), message("c", "b1", 3)]);
  assert.deepEqual(tree.path("c").map(({ id }) => id), ["a", "b1", "c"]);
  assert.deepEqual(tree.siblings("b2").map(({ id }) => id), ["b1", "b2"]);
  assert.equal(tree.newestLeaf("a"), "b2");
  assert.equal(tree.newestLeaf("b1"), "c");
  assert.equal(tree.newestLeaf("unknown"), "b2");
  tree.add({ ...message("c", "b1", 3), content: "new" });
  assert.equal(tree.size, 4);
  assert.equal(tree.path("c").at(-1).content, "new");
  assert.deepEqual(tree.path("unknown"), []);
  assert.deepEqual(tree.all().map(({ id }) => id), ["a", "b1", "c", "b2"]);
});

test("a circle ends", () => {
  const tree = new Tree([message("a", "b", 1), message("b", "a", 2)]);
  assert.equal(tree.path("a").length, 2);
  assert.ok(["a", "b"].includes(tree.newestLeaf("a")));
});

test("ids differ", () => assert.equal(new Set(Array.from({ length: 1000 }, newId)).size, 1000));

test("events come whole from any pieces", () => {
  const text = ': hi\n\ndata: {"a":1}\n\ndata: first\r\ndata:second\r\n\r\nevent: x\ndata: é😀\n\ndata: [DONE]';
  const all = new TextEncoder().encode(text);
  for (const size of [1, 2, 3, 7, all.length]) {
    const parser = new EventParser();
    const events = [];
    for (let at = 0; at < all.length; at += size) events.push(...parser.push(all.slice(at, at + size)));
    events.push(...parser.finish());
    assert.deepEqual(events, ['{"a":1}', "first\nsecond", "é😀", "[DONE]"]);
  }
});

test("an event without an end is refused", () => {
  const parser = new EventParser();
  const piece = new Uint8Array(1 << 20).fill(97);
  assert.throws(() => Array.from({ length: 20 }, () => parser.push(piece)), /without an end/);
});

test("what is exported is imported", () => {
  const [read] = imported(exported([{ conversation: { ...conversation, version: 7 }, messages: messages.toReversed().map((each) => ({ ...each, conversation: "c1" })) }]));
  assert.deepEqual(read.conversation, conversation);
  assert.deepEqual(read.messages.map(({ id, content }) => [id, content]), [["a", "a"], ["b", "b"]]);
  assert.equal(read.messages[1].reasoning, "r");
  assert.deepEqual(read.messages[1].stats, { prompt_tokens: 3 });
});

test("an answer that was being made is stopped in an export", () => {
  const [read] = imported(exported([{ conversation, messages: [messages[0], { ...messages[1], state: "answering" }] }]));
  assert.equal(read.messages[1].state, "stopped");
});

test("hostile imports are refused, each with its place", () => {
  const file = (change) => {
    const value = JSON.parse(exported([{ conversation, messages }]));
    change(value, value.conversations[0], value.conversations[0].messages);
    return JSON.stringify(value);
  };
  const wrong = [
    ["[]", /file/], ["null", /file/], ["{", /JSON/], ["{}", /format/], ["[".repeat(200_000), /JSON/],
    [file((f) => (f.version = 2)), /version/],
    [file((f) => (f.conversations = {})), /conversations/],
    [file((f) => (f.conversations = Array(20_001).fill(0))), /20001/],
    [file((f) => f.conversations.push(f.conversations[0])), /conversations\[1\]\.id/],
    [file((f, c) => (c.id = "../x")), /\.id/], [file((f, c) => (c.id = 3)), /\.id/], [file((f, c) => (c.id = ["c1"])), /\.id/],
    [file((f, c) => (c.title = { toString: 1 })), /title/], [file((f, c) => (c.title = "x".repeat(501))), /title/],
    [file((f, c) => (c.created = "now")), /created/], [file((f, c) => (c.created = -1)), /created/], [file((f, c) => (c.updated = 1e300)), /updated/],
    [file((f, c) => (c.system = "x".repeat(1_000_001))), /system/], [file((f, c) => (c.leaf = "zz")), /leaf/], [file((f, c) => (c.messages = "x")), /messages/],
    [file((f, c, m) => (m[0].id = "<b>")), /messages\[0\]\.id/], [file((f, c, m) => (m[1].id = "a")), /messages\[1\]\.id/],
    [file((f, c, m) => (m[0].parent = "b")), /parent/], [file((f, c, m) => (m[0].parent = "a")), /parent/], [file((f, c, m) => (m[0].parent = "__proto__")), /parent/],
    [file((f, c, m) => (m[0].role = "system")), /role/], [file((f, c, m) => (m[0].role = "assistant")), /role/],
    [file((f, c, m) => (m[0].content = ["x"])), /content/], [file((f, c, m) => delete m[0].content), /content/],
    [file((f, c, m) => (m[0].files = [{ name: "x" }])), /files\[0\]\.text/], [file((f, c, m) => (m[0].files = [null])), /files/],
    [file((f, c, m) => (m[0].files = Array(101).fill({ name: "", text: "" }))), /101/],
    [file((f, c, m) => (m[1].error = "x")), /error/],
  ];
  for (const [json, place] of wrong) {
    assert.throws(() => imported(json), (error) => error instanceof ImportError && place.test(error.message), `${json.slice(0, 300)} ${place}`);
  }
});

test("an import keeps only what it knows", () => {
  const json = exported([{ conversation, messages }]).replace('"title"', '"__proto__": {"polluted": 1}, "evil": 1, "title"').replace('"top_k": 4', '"top_k": 4, "evil": 1, "top_p": "x", "seed": 1e99')
    .replace('"prompt_tokens": 3', '"prompt_tokens": 3, "evil": 1, "decode_ms": "<b>"');
  const [{ conversation: read, messages: [, answer] }] = imported(json);
  assert.equal(read.polluted, undefined);
  assert.equal(read.evil, undefined);
  assert.deepEqual(read.settings, { top_k: 4 });
  assert.deepEqual(answer.stats, { prompt_tokens: 3 });
});

test("settings have bounds", () => {
  const field = (key) => FIELDS.find((each) => each.key === key);
  assert.equal(fault(field("temperature"), 0), null);
  assert.match(fault(field("temperature"), -1), /from 0 to 10/);
  assert.match(fault(field("top_k"), 1.5), /whole/);
  assert.match(fault(field("top_p"), NaN), /number/);
  assert.deepEqual(cleaned({ temperature: 0.5, top_k: "4", seed: -1, other: 1 }), { temperature: 0.5 });
  assert.deepEqual(cleaned(null), {});
});

test("a request holds the path without reasoning, failed answers and empty settings", () => {
  const path = [{ role: "user", content: "hi", files: [] }, { role: "assistant", content: "yes", reasoning: "hm" }, { role: "user", content: "so?" }, { role: "assistant", content: "", reasoning: "" }];
  const body = requestBody({ system: "Be brief.", settings: { min_p: 0.1 } }, "m", path);
  assert.deepEqual(body, { model: "m", messages: [{ role: "system", content: "Be brief." }, { role: "user", content: "hi" }, { role: "assistant", content: "yes" }, { role: "user", content: "so?" }],
    min_p: 0.1, stream: true, stream_options: { include_usage: true }, return_progress: true });
  assert.deepEqual(apiMessages("  ", []), []);
  assert.deepEqual(apiMessages("", [...path, { role: "user", content: "still?" }]).at(-1), { role: "user", content: "so?\n\nstill?" });
});

test("files stand before the message, fenced so that they cannot end their fence", () => {
  assert.equal(withFiles({ content: "What is it?", files: [{ name: "a\n.md", text: "```\nx\n````" }] }), "File: a .md\n`````\n```\nx\n````\n`````\n\nWhat is it?");
  assert.equal(withFiles({ content: "plain" }), "plain");
});

test("titles are one line", () => {
  assert.equal(titleOf({ content: "\n\n## What is *it*?\nmore" }), "What is *it*?");
  assert.equal(titleOf({ content: "", files: [{ name: "a.txt" }] }), "a.txt");
  assert.ok([...titleOf({ content: "word ".repeat(50) })].length <= 61);
  assert.equal([...titleOf({ content: "😀".repeat(100) })].length, 61);
});

test("text files are UTF-8 or marked UTF-16, all else is refused", async () => {
  assert.equal(decoded(new TextEncoder().encode("aé\n\t")), "aé\n\t");
  assert.equal(decoded(new Uint8Array([0xff, 0xfe, 0x61, 0])), "a");
  assert.equal(decoded(new Uint8Array([0x89, 0x50, 0x4e, 0x47])), null);
  assert.equal(decoded(new Uint8Array([0x61, 0, 0x62])), null);
  const { files, refused } = await readFiles([new File(["x"], "a.txt"), new File([new Uint8Array(2_000_001)], "big"), new File([new Uint8Array([255])], "b.png")]);
  assert.deepEqual(files, [{ name: "a.txt", text: "x" }]);
  assert.equal(refused.length, 2);
});

test("search finds every word, without case and accents, and keeps places", () => {
  assert.equal(folded("ÉCOLE İß한"), "ecole İß한".replace("İ", "i"));
  assert.equal(folded("a😀É").length, "a😀É".length);
  assert.deepEqual(found("Über den Wolken", wordsOf("wolken uber")), [[0, 4], [9, 15]]);
  assert.equal(found("Über den Wolken", wordsOf("wolken unter")), null);
  assert.deepEqual(snippet("one two three", [[4, 7]]), [["one ", false], ["two", true], [" three", false]]);
  const whole = { conversation: { title: "Rocks" }, messages };
  assert.deepEqual(searched(whole, ["rock"]), { message: null, pieces: [] });
  assert.equal(searched(whole, ["r"]).message, "b");
  assert.equal(searched(whole, ["zzz"]), null);
});

test("progress says what the server does", () => {
  const slot = (fields) => ({ id: 0, is_processing: true, model: "m", prompt_tokens: 4000, cached_tokens: 0, answer_tokens: 0, step: null, ...fields });
  const at = (slots, received = 0, prompt = null) => progressOf(slots, { model: "m", received, prompt });
  assert.equal(at([]).what, "Waiting for the server");
  assert.equal(at({ error: 1 }).share, null);
  assert.equal(at([slot({ model: "other" })]).what, "Waiting for the server");
  const reading = { what: "Reading the prompt: 1,000 of 4,000 tokens", share: 0.25, detail: "Layer 3 of 126, 2 s left" };
  assert.deepEqual(at([slot({ cached_tokens: 1000, step: "layer 3 of 126, 2 s left" })]), reading);
  assert.deepEqual(at([slot({ cached_tokens: 7, step: "layer 3 of 126, 2 s left" })], 0, { processed: 1000, total: 4000 }), reading);
  assert.deepEqual(at([slot({ cached_tokens: 4005, answer_tokens: 5, step: "layer 63 of 126" })], 5), { what: "Thinking", share: 0.5, detail: "Layer 63 of 126" });
  assert.equal(at([slot({ answer_tokens: 9 })]).what, "Waiting for a free slot");
  assert.equal(ownSlot([slot({ id: 1, answer_tokens: 90 }), slot({ id: 2, answer_tokens: 4 }), slot({ id: 3, is_processing: false })], "m", 5).id, 2);
});

test("figures are those that people read", () => {
  assert.deepEqual([0, 999, 1000, 41.3e9, 201e9, -1, NaN].map(bytes), ["0 B", "999 B", "1.0 KB", "41.3 GB", "201 GB", "–", "–"]);
  assert.deepEqual([900, 15_400, 754_000, 119_700].map(duration), ["0.9 s", "15 s", "12 min 34 s", "2 min 0 s"]);
  assert.deepEqual([0.021, 3.14, 42.4].map(rate), ["0.021 tokens/s", "3.1 tokens/s", "42 tokens/s"]);
  assert.deepEqual(figures({ model: "m", stats: { prompt_tokens: 12, completion_tokens: 11, first_ms: 900, decode_ms: 2000 } }), ["m", "11 tokens", "5.0 tokens/s", "prompt 12 tokens in 0.9 s"]);
  assert.deepEqual(figures({ model: "", stats: { prompt_tokens: 1200, cached_tokens: 1100, first_ms: 0 } }), ["prompt 1,200 tokens (1,100 cached)"]);
  const now = new Date(2026, 10, 26, 12).getTime();
  assert.deepEqual([0, 1, 5, 20, 60].map((days) => era(now - days * 86_400_000, now)), ["Today", "Yesterday", "Last 7 days", "Last 30 days", "September 2026"]);
});

/** Tags and attributes of HTML text, as a parser would find them. */
const tags = (text) => [...text.matchAll(/<([a-z][a-z0-9]*)((?:\s+[a-z-]+="[^"]*")*)\s*\/?>/gi)].map(([, name, attributes]) => [name, [...attributes.matchAll(/([a-z-]+)="([^"]*)"/g)].map(([, key, value]) => [key, value])]);

test("Markdown of any text makes harmless tags only", () => {
  const allowed = new Set("a blockquote br code div em h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul".split(" "));
  for (const text of [...HOSTILE, RICH]) {
    const made = html(text);
    assert.equal(made.replace(/<\/?[a-z][a-z0-9]*(?:\s+[a-z-]+="[^"]*")*\s*\/?>/gi, "").includes("<"), false, `an odd tag: ${text}`);
    for (const [name, attributes] of tags(made)) {
      assert.ok(allowed.has(name), `${name} from ${text}`);
      for (const [key, value] of attributes) {
        assert.ok(["class", "href", "title", "rel", "target", "start"].includes(key), `${key} from ${text}`);
        if (key === "href") assert.match(value, /^(https?:\/\/|mailto:)/i, text);
      }
    }
  }
});

test("Markdown", () => {
  assert.equal(html("a <b>c</b>"), "<p>a &lt;b&gt;c&lt;/b&gt;</p>\n");
  assert.equal(html("![alt](https://x.y/z.png)"), '<p><a href="https://x.y/z.png" rel="noopener noreferrer" target="_blank">Image: alt</a></p>\n');
  assert.equal(html("[l](https://x.y)"), '<p><a href="https://x.y" rel="noopener noreferrer" target="_blank">l</a></p>\n');
  assert.equal(html("[l](/v1/models) main.rs"), "<p>[l](/v1/models) main.rs</p>\n");
  assert.equal(html("# A\n### B\n###### C\n## D"), "<h3>A</h3>\n<h4>B</h4>\n<h5>C</h5>\n<h4>D</h4>\n");
  assert.equal(html("|a|\n|-:|\n|b|").replaceAll("\n", ""), '<table><thead><tr><th class="right">a</th></tr></thead><tbody><tr><td class="right">b</td></tr></tbody></table>');
  assert.equal(html("- [ ] a\n- [x] b").replaceAll("\n", ""), "<ul><li>☐ a</li><li>☑ b</li></ul>");
  assert.match(html("```rust\nfn x() {}\n```"), /<pre><code class="language-rust"><span class="hljs-keyword">fn<\/span>/);
  assert.equal(html("```no such\n<x>\n```"), '<pre><code class="language-no">&lt;x&gt;\n</code></pre>');
  assert.equal(blocks("a\n\n- b\n\n  c\n\n> d").length, 3);
});

test("math is kept as its source, money is not math", () => {
  const inline = (source) => `<p><span class="math">${source}</span></p>\n`;
  assert.equal(html("$a_1 * b_1$"), inline("a_1 * b_1"));
  assert.equal(html("\\(a < b\\)"), inline("a &lt; b"));
  assert.equal(html("it costs $5 or $10."), "<p>it costs $5 or $10.</p>\n");
  assert.equal(html("$ x $"), "<p>$ x $</p>\n");
  assert.equal(html("$\\$5$"), inline("\\$5"));
  assert.equal(html("`$a$`"), "<p><code>$a$</code></p>\n");
  assert.equal(html("$$\na\n\nb\n$$"), '<div class="math display">a\n\nb</div>');
  assert.equal(html("\\[x\n= y\\]\ntext"), '<div class="math display">x\n= y</div><p>text</p>\n');
  assert.equal(html("so $$x$$ then"), '<p>so <span class="math display">x</span> then</p>\n');
  assert.equal(html("$$x$$ then"), '<p><span class="math display">x</span> then</p>\n');
  assert.equal(html("- \\[\n  x\n  \\]"), '<ul>\n<li>\n<div class="math display">x</div></li>\n</ul>\n');
  assert.equal(html("*$a*b$*"), '<p><em><span class="math">a*b</span></em></p>\n');
  assert.equal(html("$x"), "<p>$x</p>\n");
});

test("the history without IndexedDB: what two writers add is kept, what is deleted stays deleted", async () => {
  const store = await Store.open(`test-${newId()}`);
  assert.equal(store.kept, false);
  await store.create(conversation);
  await store.putMessages("c1", [messages[0]], "a");
  await Promise.all([store.putMessages("c1", [messages[1]], "b"), store.change("c1", { title: "New" })]);
  const whole = await store.load("c1");
  assert.equal(whole.messages.length, 2);
  assert.equal(whole.conversation.title, "New");
  assert.equal(whole.conversation.leaf, "b");
  assert.equal(await store.restore([{ conversation: { ...conversation, title: "Old" }, messages: [...messages, message("c", "b", 3)] }]), 1);
  assert.equal((await store.load("c1")).conversation.title, "New");
  // What is written while it is deleted is in what is given back, or refused.
  const [gone, late] = await Promise.all([store.remove("c1"), store.putMessages("c1", [message("d", "c", 4)], "d").catch((error) => error)]);
  assert.match(late.message, /deleted/);
  await assert.rejects(store.putMessages("c1", [messages[0]]), /deleted/);
  await assert.rejects(store.change("c1", {}), /deleted/);
  assert.equal((await store.list()).length, 0);
  await store.restore([gone]);
  assert.equal((await store.load("c1")).messages.length, 3);
  store.close();
});

test("a chat that is opened later is shown, however long an earlier one takes; what comes in another tab is no stopped answer", async () => {
  globalThis.localStorage = { getItem: () => null, setItem: () => {} };
  const slow = {};
  const stored = (id, updated) => ({ conversation: { ...conversation, id, updated, leaf: "b" }, messages: [messages[0], { ...messages[1], state: "answering" }] });
  const store = { load: (id) => (id === "slow" ? new Promise((resolve) => (slow.resolve = () => resolve(stored(id, 0)))) : stored(id, Date.now() - 2000)) };
  const chat = new Chat(store, { of: () => undefined }, { model: () => "m" });
  const first = chat.open("slow");
  await chat.open("quick");
  slow.resolve();
  await first;
  assert.equal(chat.id, "quick");
  assert.equal(chat.elsewhere(chat.path[1]), true);
  const again = chat.open("slow");
  slow.resolve();
  await again;
  assert.equal(chat.elsewhere(chat.path[1]), false);
});

test("a server that is slow to answer is asked once at a time", async () => {
  let asked = 0;
  globalThis.fetch = async () => ((asked += 1), { ok: true, json: async () => ({ data: [] }) });
  const server = new Server();
  server.wanted = () => "";
  await Promise.all([server.refresh(false), server.refresh(false), server.refresh(false)]);
  assert.equal(asked, 2, "models and properties");
  await server.refresh(false);
  assert.equal(asked, 4);
});

test("messages of the user may follow each other, as after an answer that was lost", () => {
  const [read] = imported(exported([{ conversation, messages: [messages[0], { ...messages[1], role: "user" }] }]));
  assert.deepEqual(read.messages.map(({ role }) => role), ["user", "user"]);
});

test("what another tab writes in the middle of sending changes nothing of what is sent", async () => {
  globalThis.localStorage = { getItem: () => null, setItem: () => {} };
  const store = await Store.open(`test-${newId()}`);
  const bodies = [];
  const answers = { of: () => undefined, start: async (id, message, body) => void (bodies.push(body), (message.content = "yes")) };
  const chat = new Chat(store, answers, { model: () => "m" });
  // The worst moment: each time before a message is written.
  const put = store.putMessages.bind(store);
  store.putMessages = async (...all) => (await chat.refresh(), put(...all));
  await chat.send("one");
  await chat.send("two");
  assert.deepEqual(bodies.map((body) => body.messages.map(({ content }) => content)), [["one"], ["one", "yes", "two"]]);
  const [{ id }] = chat.path;
  await chat.edit(id, "three", []);
  assert.deepEqual(bodies.at(-1).messages.map(({ content }) => content), ["three"]);
  assert.equal(chat.siblings(id).length, 2);
  await chat.regenerate(chat.path[1].id);
  assert.equal((await store.load(chat.id)).messages.length, 7);
  store.close();
});
