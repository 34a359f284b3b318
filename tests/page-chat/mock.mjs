// A server that speaks as much of strata's API as the page uses, and says what no test model can be made to say: hostile answers, silence,
// refusals. `node mock.mjs [PORT]` prints its address; the last message of the user chooses what happens.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { extname, join, normalize } from "node:path";
import { HOSTILE, RICH } from "./answers.mjs";

const PAGE = fileURLToPath(new URL("../../tools/src/serve/page/", import.meta.url));
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml" };

/** The server's own, so that what is tested here is what it allows. */
function policy() {
  const [, text] = /^const POLICY: &str = "((?:[^"\\]|\\\n)+)";$/m.exec(readFileSync(new URL("../../tools/src/serve/page.rs", import.meta.url), "utf8")) ?? [];
  if (!text?.includes("default-src 'none'")) throw new Error("page.rs has no POLICY that this can read");
  return text.replace(/\\\n\s*/g, "");
}

const POLICY = policy();

const LONG = Array.from({ length: 400 }, (_, i) => `Sentence ${i + 1} of a long answer. `).join("");
const THOUGHT = "The user asks for a sum. Two and two are four.\n\nI can say so.";

/** `[text, reasoning, milliseconds between pieces, milliseconds before the first]` for a message. */
function script(text) {
  if (/hostile/i.test(text)) return [HOSTILE.join("\n\n"), HOSTILE.join("\n\n"), 1, 50];
  if (/rich/i.test(text)) return [RICH, "", 4, 100];
  if (/long/i.test(text)) return [LONG, "", 20, 100];
  if (/think/i.test(text)) return ["It is **four**.", THOUGHT, 20, 100];
  if (/slow/i.test(text)) return ["Done at last.", "", 20, 6000];
  return [`You said: ${text.split("\n").at(-1)}\n\nThat has ${text.length} characters.`, "", 15, 100];
}

export function mock({ key = null } = {}) {
  const slots = Array.from({ length: 2 }, (_, id) => ({ id, is_processing: false, prompt_tokens: 0, cached_tokens: 0, answer_tokens: 0, step: null }));
  const seen = [];
  let refusals = 0;
  let read = 0;
  const json = (response, status, body, headers = {}) => {
    response.writeHead(status, { "Content-Type": "application/json", ...headers });
    response.end(JSON.stringify(body));
  };

  async function answer(request, response) {
    let body = "";
    for await (const piece of request) body += piece;
    const asked = JSON.parse(body);
    seen.push(asked);
    // What was said last: after an answer that failed, messages stand together.
    const text = asked.messages.at(-1).content.split("\n\n").at(-1);
    if (/busy/i.test(text) && refusals++ === 0) return json(response, 429, { error: { message: "all slots are taken", type: "rate_limit" } }, { "Retry-After": "2" });
    if (/refuse/i.test(text)) return json(response, 400, { error: { message: "the prompt has 9000 tokens and the context holds 8192" } });
    const [said, thought, pause, before] = script(text);
    const slot = slots.find((slot) => !slot.is_processing) ?? slots[0];
    Object.assign(slot, { is_processing: true, model: asked.model, prompt_tokens: 4012, cached_tokens: 0, answer_tokens: 0 });
    let open = true;
    response.on("close", () => ((open = false), Object.assign(slot, { is_processing: false, prompt_tokens: 0, step: null })));
    const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time));
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
    const began = Date.now();
    for (let now = 0; open && now < before; now += 50) {
      const share = now / before;
      const processed = Math.floor(Math.min(1, share * 1.5) * 4012);
      Object.assign(slot, { cached_tokens: processed, step: `layer ${Math.floor((share * 700) % 126) + 1} of 126, 6.93 GB/s from disk, 12 s left` });
      if (asked.return_progress) response.write(`data: ${JSON.stringify({ choices: [], prompt_progress: { processed, total: 4012 } })}\n\n`);
      await sleep(50);
    }
    const first = Date.now();
    const send = (delta, finish = null) => {
      slot.answer_tokens += 1;
      response.write(`data: ${JSON.stringify({ object: "chat.completion.chunk", model: asked.model, choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`);
    };
    const pieces = (whole) => whole.match(/\s*\S{1,12}/g)?.concat(/\s*$/.exec(whole)[0]) ?? [];
    for (const [field, whole] of [["reasoning_content", thought], ["content", said]]) {
      for (const piece of pieces(whole)) {
        if (!open) return;
        send({ [field]: piece });
        if (pause > 2) await sleep(pause);
      }
    }
    if (/break/i.test(text)) return response.destroy();
    send({}, /limit/i.test(text) ? "length" : "stop");
    const usage = { prompt_tokens: 4012, completion_tokens: slot.answer_tokens };
    response.write(`data: ${JSON.stringify({ choices: [], usage, timings: { prompt_ms: first - began, predicted_ms: Date.now() - first } })}\n\ndata: [DONE]\n\n`);
    response.end();
  }

  async function file(path, response) {
    const name = normalize(path === "/" ? "/index.html" : path);
    try {
      const body = await readFile(join(PAGE, name));
      response.writeHead(200, { "Content-Type": TYPES[extname(name)] ?? "text/plain", "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff" });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  }

  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://x").pathname;
    if (!/^\/(v1\/|props|slots)/.test(path)) return file(path, response);
    if (key && request.headers.authorization !== `Bearer ${key}`) return json(response, 401, { error: { message: "the API key is missing or wrong" } });
    const model = new URL(request.url, "http://x").searchParams.get("model") ?? "Llama-3.1-405B-Instruct-Q4_K_M";
    read += slots.some((slot) => slot.is_processing) ? 15e9 : 0;
    const routes = {
      "/v1/models": () => json(response, 200, { object: "list", data: ["Llama-3.1-405B-Instruct-Q4_K_M", "SmolLM2-135M-Instruct-Q8_0"].map((id) => ({ id, object: "model" })) }),
      "/props": () => json(response, 200, {
        model, properties: { n_ctx: model.startsWith("Llama") ? 8192 : 2048, sampling: { temperature: 0.6000000238418579, top_k: 40, top_p: 0.8999999761581421, min_p: 0 } },
        memory: { resident_bytes: 41.3e9, budget_bytes: 64e9, read_bytes: read },
      }),
      "/slots": () => json(response, 200, slots),
      "/v1/chat/completions": () => answer(request, response).catch(() => response.destroy()),
    };
    (routes[path] ?? (() => json(response, 404, { error: { message: "no such path" } })))();
  });
  return { server, seen, listen: (port = 0) => new Promise((resolve) => server.listen(port, "127.0.0.1", () => resolve(`http://127.0.0.1:${server.address().port}/`))) };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(await mock().listen(Number(process.argv[2] ?? 0)));
