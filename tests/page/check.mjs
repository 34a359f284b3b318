// Opens a report of `strata compare --html` in headless Chromium and fails on whatever a reader would trip over:
//
//     node check.mjs REPORT.html [FOLDER FOR SCREENSHOTS]
//
// A message in the console, a request for anything but the file, a plot without size or marks, text that is cut off at the edge of a plot or
// stands on other text there, a page that scrolls sideways on a phone, a violation that axe-core finds, a copied table that is not the one
// that is shown. In light and dark, on a desk and on a phone, and as a PDF.
import { mkdirSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { join, resolve } from "node:path";
import { faults, launch } from "../browser/browser.mjs";

const [file, shots] = process.argv.slice(2);
const url = pathToFileURL(resolve(file)).href;
const problems = [];
const fail = (where, what) => problems.push(`${where}: ${what}`);

/** Plots that are shown, and what is wrong with them. */
const plots = () => {
  const wrong = [];
  let shown = 0;
  for (const plot of document.querySelectorAll("svg.plot")) {
    const box = plot.getBoundingClientRect();
    if (box.width === 0 && plot.closest(".wide, .narrow, details:not([open])")) continue;
    shown += 1;
    const name = plot.getAttribute("aria-label") ?? "";
    if (plot.getAttribute("role") !== "img" || name.length < 10) wrong.push(`a plot without a name: ${name}`);
    if (box.width < 100 || box.height < 10) wrong.push(`${name}: ${box.width} by ${box.height}`);
    const marks = [...plot.querySelectorAll("circle, polyline, rect")].filter((mark) => {
      const { width, height } = mark.getBoundingClientRect();
      return width + height > 0;
    });
    if (marks.length === 0) wrong.push(`${name}: no marks`);
    const texts = [...plot.querySelectorAll("text")].map((text) => ({ text: text.textContent.trim(), box: text.getBoundingClientRect() }));
    texts.forEach(({ text, box: own }, i) => {
      const out = Math.max(box.left - own.left, own.right - box.right, box.top - own.top, own.bottom - box.bottom);
      if (out > 1) wrong.push(`${name}: "${text}" is cut off by ${out.toFixed(1)} pixels`);
      for (const other of texts.slice(0, i)) {
        const width = Math.min(own.right, other.box.right) - Math.max(own.left, other.box.left);
        const height = Math.min(own.bottom, other.box.bottom) - Math.max(own.top, other.box.top);
        // Boxes of lines are higher than letters.
        if (width > 1 && height > 0.4 * own.height) wrong.push(`${name}: "${text}" stands on "${other.text}"`);
      }
      if (own.height < 9) wrong.push(`${name}: "${text}" is ${own.height.toFixed(1)} pixels high`);
    });
  }
  return { shown, wrong };
};

/** What a button copies, beside the cells of its table. */
const copied = async (page, where) => {
  const table = page.locator(".copyable").first();
  await table.getByRole("button", { name: "Copy as TSV" }).click();
  const status = table.getByRole("status");
  for (let i = 0; i < 100 && !(await status.textContent()); i++) await page.waitForTimeout(50);
  const said = await status.textContent();
  const text = await page.evaluate(() => navigator.clipboard.readText());
  const rows = text.trimEnd().split("\n").map((row) => row.split("\t"));
  const count = await table.locator("tr").count();
  if (said !== "copied" || rows.length !== count) fail(where, `copying said "${said}" and gave ${rows.length} of ${count} rows`);
  if (rows.some((row) => row.length !== rows[0].length)) fail(where, "rows that were copied have different lengths");
  if (!rows[0].includes("Mean KLD low") || !rows.slice(1).every((row) => row.slice(1, 6).every((cell) => Number.isFinite(Number(cell)))))
    fail(where, `copied cells are no numbers: ${rows[1]}`);
};

/** Whether the keyboard reaches what can be used, and shows where it is. */
const keyboard = async (page, where) => {
  await page.keyboard.press("Tab");
  const first = await page.evaluate(() => document.activeElement.className);
  if (first !== "skip") fail(where, "the first stop of the keyboard is not the link to the figures");
  for (let i = 0; i < 25; i++) {
    await page.keyboard.press("Tab");
    const stop = await page.evaluate(() => {
      const element = document.activeElement;
      return { name: element.outerHTML.slice(0, 80), seen: getComputedStyle(element).outlineStyle !== "none" };
    });
    if (!stop.seen) fail(where, `no outline on ${stop.name}`);
  }
};

const headings = () => [...document.querySelectorAll("h1, h2, h3, h4")].map((heading) => Number(heading.tagName[1]));

const browser = await launch();
let drawn = 0;
for (const [where, width, colorScheme] of [["light", 1280, "light"], ["dark", 1280, "dark"], ["phone", 375, "light"], ["phone-dark", 375, "dark"]]) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme, permissions: ["clipboard-read", "clipboard-write"] });
  const page = await context.newPage();
  page.on("console", (message) => fail(where, `console: ${message.text()}`));
  page.on("pageerror", (error) => fail(where, `error: ${error.message}`));
  page.on("dialog", (dialog) => (fail(where, `dialog: ${dialog.message()}`), dialog.dismiss()));
  page.on("request", (request) => request.url() !== url && fail(where, `request: ${request.url().slice(0, 200)}`));
  await page.goto(url);
  const { shown, wrong } = await page.evaluate(plots);
  drawn = Math.max(drawn, shown);
  wrong.forEach((what) => fail(where, what));
  const [inside, outside] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  if (inside > outside) fail(where, `the page is ${inside} pixels wide in a window of ${outside}`);
  const levels = await page.evaluate(headings);
  if (levels[0] !== 1 || levels.some((level, i) => i > 0 && level > levels[i - 1] + 1)) fail(where, `headings ${levels}`);
  await keyboard(page, where);
  await copied(page, where);
  await page.evaluate(() => document.activeElement.blur());
  if (shots) {
    mkdirSync(shots, { recursive: true });
    await page.screenshot({ path: join(shots, `${where}.png`), fullPage: true });
  }
  // With everything open.
  await page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
  (await page.evaluate(plots)).wrong.forEach((what) => fail(`${where}, open`, what));
  (await faults(page)).forEach((what) => fail(`${where}, open`, what));
  if (where === "light") {
    await page.emulateMedia({ media: "print", colorScheme: null });
    await page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = details.matches(".candidate:first-of-type"))));
    await page.setViewportSize({ width: 690, height: 980 });
    (await page.evaluate(plots)).wrong.filter((what) => !what.includes("pixels high")).forEach((what) => fail("print", what));
    const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    if (over > 0) fail("print", `the page is ${over} pixels too wide`);
    if (shots) await page.pdf({ path: join(shots, "print.pdf"), preferCSSPageSize: true, format: "A4", printBackground: false });
  }
  await context.close();
}
await browser.close();
if (drawn === 0) fail("page", "no plots");
console.log(`${drawn} plots, ${problems.length} problems`);
problems.forEach((problem) => console.log(problem));
process.exitCode = problems.length > 0 ? 1 : 0;
