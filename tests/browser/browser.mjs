// Chromium, and what every page is asked: whether it fits its window and what axe-core finds. install.sh brings both.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const load = createRequire(new URL("../../target/browser/package.json", import.meta.url));
const { chromium } = load("playwright-core");
const axe = readFileSync(load.resolve("axe-core/axe.min.js"), "utf8");

export const launch = () =>
  chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });

/** What is wrong with the page, a sentence each. */
export async function faults(page) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  // From outside of the page: its policy forbids another script.
  const { violations } = await page.evaluate(`${axe}; axe.run()`);
  const found = violations.map(({ id, help, nodes: [{ html, any }, ...others] }) =>
    `axe ${id}: ${help}: ${html.slice(0, 200)} ${any[0]?.message ?? ""} (${others.length + 1})`);
  return wide > 0 ? [`${wide} pixels too wide`, ...found] : found;
}
