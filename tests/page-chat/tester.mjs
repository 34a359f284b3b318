// A browser that takes note of everything that a chat page must not do: messages in the console, errors, dialogs, requests to another host,
// violations of the policy. And what tests do again and again.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { faults, launch } from "../browser/browser.mjs";

export class Tester {
  problems = [];
  checks = 0;
  where = "start";

  constructor(shots) {
    this.shots = shots;
    mkdirSync(shots, { recursive: true });
  }

  async launch() {
    this.browser = await launch();
  }

  check(right, what) {
    this.checks += 1;
    if (!right) this.problems.push(`${this.where}: ${what}`);
  }

  equal(found, wanted, what) {
    this.check(JSON.stringify(found) === JSON.stringify(wanted), `${what}: ${JSON.stringify(found)} and not ${JSON.stringify(wanted)}`);
  }

  /** A window of its own, with a history of its own. `expected` tells of a message whether it may be; `prepare` runs before the page's scripts. */
  async open(base, { expected = () => false, prepare = () => {}, ...options } = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1360, height: 900 }, colorScheme: "light", reducedMotion: "reduce", permissions: ["clipboard-read", "clipboard-write"], ...options });
    await context.addInitScript(prepare);
    await context.addInitScript(() => addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`)));
    await context.route("**", (route) => {
      const url = route.request().url();
      if (url.startsWith(base)) return route.continue();
      this.check(false, `request: ${url.slice(0, 200)}`);
      return route.abort();
    });
    context.on("page", (page) => this.#watch(page, expected));
    const page = await context.newPage();
    await page.goto(base);
    await page.waitForSelector("body.ready");
    return page;
  }

  #watch(page, expected) {
    page.on("console", (message) => expected(message.text()) || this.check(false, `console: ${message.text()}`));
    page.on("response", async (response) => {
      if (response.status() < 400 || expected(`Failed to load resource: ${response.status()}`)) return;
      const said = await response.text().catch(() => "");
      this.check(false, `${response.status()} ${response.url()}: ${said.slice(0, 500)} for ${response.request().postData()?.slice(0, 500)}`);
    });
    page.on("pageerror", (error) => this.check(false, `error: ${error.stack}`));
    page.on("dialog", (dialog) => (this.check(dialog.type() === "beforeunload", `dialog: ${dialog.message()}`), dialog.accept()));
    page.on("popup", () => this.check(false, "a window was opened"));
  }

  async visit(page, url) {
    await page.goto(url);
    await page.waitForSelector("body.ready");
    await page.waitForFunction(() => document.querySelector("#model").value !== "…");
  }

  /** Runs a part of the test. A part that breaks is a problem, and the others go on. */
  async part(name, work) {
    this.where = name;
    try {
      await work();
    } catch (error) {
      this.check(false, error.stack.split("\n").slice(0, 6).join(" "));
    }
  }

  async say(page, text) {
    await page.fill("#message", text);
    await page.press("#message", "Enter");
  }

  /** Until no answer is being made and so many are shown. */
  async settled(page, count) {
    await page.waitForFunction((count) => document.querySelectorAll(".answer:not(.live) .tools:not([hidden])").length === count && !document.querySelector(".live"), count, { timeout: 60_000 });
  }

  texts(page, selector) {
    return page.$$eval(selector, (all) => all.map((each) => each.innerText.trim()));
  }

  async shot(page, name) {
    await page.screenshot({ path: join(this.shots, `${name}.png`) });
  }

  /** Nothing that axe-core finds, and nothing that is wider than the window. */
  async accessible(page, name) {
    this.equal(await faults(page), [], name);
  }

  async end() {
    await this.browser.close();
    console.log(`${this.checks} checks, ${this.problems.length} problems`);
    this.problems.forEach((problem) => console.log(problem));
    process.exitCode = this.problems.length > 0 ? 1 : 0;
  }
}
