// Uses the chat page in headless Chromium as a person does, and fails on whatever is not as it must be:
//
//     node check.mjs URL|--mock FOLDER_FOR_SCREENSHOTS
//
// With a URL, against a running `strata serve`; with `--mock`, against mock.mjs, which can also be made to say hostile things, to refuse and to
// be slow. The parts that are the same for both do not care what the model says.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Tester } from "./tester.mjs";
import { HOSTILE, RICH } from "./answers.mjs";
import { mock } from "./mock.mjs";

const [target, shots] = process.argv.slice(2);
const mocked = target === "--mock";
const server = mocked ? mock() : null;
const base = mocked ? await server.listen() : target;
const tester = new Tester(shots);
await tester.launch();
const { check, equal } = { check: (...all) => tester.check(...all), equal: (...all) => tester.equal(...all) };

// Not innerText: messages outside of the window are not laid out.
const userTexts = (page) => page.$$eval(".user .plain", (all) => all.map((each) => each.textContent));
const answerTexts = (page) => page.$$eval(".answer .markdown", (all) => all.map((each) => each.textContent));
const notes = (page) => tester.texts(page, ".note > span");
const clearNotes = (page) => page.$$eval(".note .icon-button", (all) => all.forEach((each) => each.click()));

/** An export with one conversation, whose one answer is `content`. */
const file = (id, title, content) => JSON.stringify({ format: "strata-chat", version: 1, conversations: [{ id, title, created: 1, updated: 2, leaf: `${id}-b`,
  messages: [{ id: `${id}-a`, parent: null, role: "user", content: title, created: 1 }, { id: `${id}-b`, parent: `${id}-a`, role: "assistant", content, reasoning: content, created: 2 }] }] });

async function importText(page, name, text) {
  await page.setInputFiles("#import-picker", { name, mimeType: "application/json", buffer: Buffer.from(text) });
  await page.waitForSelector(".note");
}

async function limitTokens(page, tokens) {
  await page.click("#open-settings");
  await page.fill("#setting-max_tokens", String(tokens));
  await page.click("#close-settings");
}

async function conversation(page) {
  await tester.accessible(page, "welcome");
  await tester.shot(page, "welcome");
  await limitTokens(page, 24);
  await tester.say(page, "First, of rocks");
  await tester.settled(page, 1);
  await tester.say(page, "Second, of rivers");
  await tester.settled(page, 2);
  equal(await userTexts(page), ["First, of rocks", "Second, of rivers"], "messages");
  check((await tester.texts(page, ".answer .figures")).every((text) => /\d tokens? · .*prompt \d/.test(text)), "no figures under an answer");
  await page.waitForFunction(() => /Answer: ./.test(document.querySelector("#announcements").textContent));
  equal(await page.title(), "First, of rocks · Strata", "title");
}

async function branching(page) {
  await page.locator(".user").last().getByRole("button", { name: "Edit message" }).click();
  await page.fill(".edit textarea", "Second, of lakes");
  await page.press(".edit textarea", "Enter");
  await page.waitForSelector(".branches");
  await tester.settled(page, 2);
  equal(await userTexts(page), ["First, of rocks", "Second, of lakes"], "after editing");
  const versions = () => tester.texts(page, ".branches > span");
  equal((await versions()).map((text) => text.replace(/\s+/g, " ")), ["Version 2/2"], "versions");
  await page.getByRole("button", { name: "Earlier version" }).click();
  equal(await userTexts(page), ["First, of rocks", "Second, of rivers"], "the earlier version");
  check(await page.evaluate(() => document.activeElement.getAttribute("aria-label") === "Later version"), "the focus left the versions");
  await page.getByRole("button", { name: "Later version" }).click();
  await page.getByRole("button", { name: "Regenerate answer" }).last().click();
  await page.waitForSelector(".answer .branches");
  await tester.settled(page, 2);
  equal((await versions()).length, 2, "versions after regenerating");
  // The arrow edits, Escape leaves all as it was.
  await page.press("#message", "ArrowUp");
  equal(await page.inputValue(".edit textarea"), "Second, of lakes", "the arrow edits the last message");
  await page.press(".edit textarea", "Escape");
  equal(await page.locator(".edit").count(), 0, "Escape closes the field");
}

async function stopping(page) {
  await limitTokens(page, 4000);
  await tester.say(page, "A long story");
  await page.waitForSelector(".live");
  await page.waitForTimeout(mocked ? 500 : 100);
  await page.press("#message", "Escape");
  await tester.settled(page, 3);
  if (mocked) {
    check((await page.locator(".problem").last().innerText()).startsWith("Stopped."), "a stopped answer does not say so");
    const text = (await answerTexts(page)).at(-1);
    check(text.length > 10 && text.length < 2000, `a stopped answer has ${text.length} characters`);
    await page.waitForTimeout(600);
    equal((await answerTexts(page)).at(-1).length, text.length, "it goes on");
  }
  await limitTokens(page, 24);
}

async function history(page) {
  const [said, answered] = [await userTexts(page), await answerTexts(page)];
  await page.reload();
  await page.waitForSelector("button.conversation");
  await page.click("button.conversation");
  await page.waitForSelector(".answer");
  equal(await userTexts(page), said, "messages after a reload");
  equal(await answerTexts(page), answered, "answers after a reload");
  await page.click("#new-chat");
  await tester.say(page, "Another chat, on volcanoes");
  await tester.settled(page, 1);
  await page.keyboard.press("Control+k");
  await page.keyboard.type("RÍVERS");
  await page.waitForFunction(() => document.querySelector("#conversations [role=status]")?.textContent === "1 chat");
  equal(await tester.texts(page, ".snippet mark"), ["rivers"], "what was found");
  await tester.shot(page, "search");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelectorAll(".user").length > 1);
  check((await userTexts(page)).includes("Second, of rivers"), "search does not show the branch of what it found");
  await page.fill("#search", "nosuchword");
  await page.waitForFunction(() => document.querySelector("#conversations [role=status]")?.textContent === "Nothing found.");
  await page.press("#search", "Escape");
  await page.waitForFunction(() => document.querySelectorAll("button.conversation").length === 2);
}

async function managing(page) {
  const menu = async (title, entry) => {
    await page.getByRole("button", { name: `More for ${title}` }).click();
    await page.getByRole("menuitem", { name: entry }).click();
  };
  await menu("Another chat, on volcanoes", "Rename");
  await page.fill("dialog input", "On volcanoes");
  await page.press("dialog input", "Enter");
  await page.waitForSelector("text=On volcanoes");
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export-all")]);
  const path = join(shots, "export.json");
  await download.saveAs(path);
  const [one] = await Promise.all([page.waitForEvent("download"), menu("On volcanoes", "Export as JSON")]);
  equal(one.suggestedFilename(), "strata-on-volcanoes.json", "name of the export");
  const exported = JSON.parse(readFileSync(path, "utf8"));
  equal(exported.conversations.length, 2, "exported conversations");
  await menu("On volcanoes", "Delete");
  await page.waitForFunction(() => document.querySelectorAll("button.conversation").length === 1);
  await page.getByRole("button", { name: "Undo" }).click();
  await page.waitForFunction(() => document.querySelectorAll("button.conversation").length === 2);
  await menu("On volcanoes", "Delete");
  await page.waitForFunction(() => document.querySelectorAll("button.conversation").length === 1);
  await clearNotes(page);
  await importText(page, "export.json", readFileSync(path, "utf8"));
  equal((await notes(page))[0], "Imported 2 chats with 2 new messages.", "import");
  equal(await page.locator("button.conversation").count(), 2, "conversations after the import");
  await clearNotes(page);
  for (const [name, text] of [["nonsense.json", "{"], ["other.json", '{"format":"other"}'], ["hostile.json", file("h1", "x", "y").replace('"h1-a","role"', '"h1-b","role"')]]) {
    await importText(page, name, text);
    check((await notes(page))[0].startsWith(`${name} was not imported: `), `an import of ${name}: ${await notes(page)}`);
    await clearNotes(page);
  }
  equal(await page.locator("button.conversation").count(), 2, "conversations after refused imports");
}

/** What must hold wherever hostile text is shown. */
async function harmless(page, name) {
  const found = await page.evaluate(() => {
    const bad = [];
    if (window.hacked) bad.push("a script ran");
    for (const element of document.querySelectorAll(".markdown *")) {
      const tag = element.localName;
      const math = element.closest("math");
      if (/^(script|img|image|iframe|object|embed|form|input|style|link|meta|base|video|audio|source|template|foreignobject|annotation-xml|use|animate)$/.test(tag)) bad.push(`<${tag}>`);
      if (tag === "svg" && !element.classList.contains("icon")) bad.push("<svg>");
      for (const { name, value } of element.attributes) {
        if (/^on/i.test(name) || (/^(src|srcset|href|xlink:href|action|formaction|background|poster)$/i.test(name) && !(tag === "a" && /^(https?:\/\/|mailto:)/.test(value)))) bad.push(`${name}=${value}`);
        if (name === "style" && (!math || /url|position|fixed/i.test(value))) bad.push(`style=${value}`);
        if (name === "id" || name === "name") bad.push(`${name}=${value}`);
      }
      if (tag === "a" && (element.rel !== "noopener noreferrer" || element.target !== "_blank")) bad.push("a link without rel and target");
    }
    return bad;
  });
  equal(found, [], name);
  equal(await page.evaluate(() => [document.querySelectorAll("#message").length, getComputedStyle(document.querySelector("#message")).visibility]), [1, "visible"], `${name}: the field`);
  check((await answerTexts(page)).every((text) => !text.includes("undefined")), `${name}: undefined`);
}

async function hostile(page) {
  await importText(page, "hostile.json", file("hostile", "<img src=x onerror=alert(1)><script>window.hacked=1</script>", HOSTILE.join("\n\n")));
  await clearNotes(page);
  await page.locator("button.conversation", { hasText: "onerror" }).click();
  await page.waitForSelector(".answer");
  await page.locator(".thinking summary").click();
  await page.waitForTimeout(500);
  await harmless(page, "hostile answers together");
  await tester.accessible(page, "hostile");
  await tester.shot(page, "hostile");
  // Each by itself: one that swallows the rest must not hide another.
  const many = { format: "strata-chat", version: 1, conversations: HOSTILE.flatMap((text, i) => JSON.parse(file(`h${i}`, `Hostile ${i}`, text)).conversations) };
  await importText(page, "many.json", JSON.stringify(many));
  await clearNotes(page);
  for (const i of HOSTILE.keys()) {
    await page.locator(`button.conversation[data-id="h${i}"]`).click();
    await page.waitForFunction((i) => document.querySelector("h1").textContent === `Hostile ${i}`, i);
    await harmless(page, HOSTILE[i].slice(0, 60));
  }
  // As the words of the user.
  await page.click("#new-chat");
  await tester.say(page, HOSTILE.slice(0, 8).join("\n").replace(/hostile/gi, ""));
  await tester.settled(page, 1);
  await harmless(page, "hostile words of the user");
}

async function looks(page) {
  await importText(page, "rich.json", file("rich", "How do layers of rock tell time?", RICH));
  await clearNotes(page);
  await page.locator("button.conversation", { hasText: "layers of rock" }).click();
  await page.waitForSelector(".answer math");
  equal(await page.locator(".answer .markdown").last().locator("math").count(), 5, "formulas");
  equal(await page.locator(".math.unread").count(), 0, "formulas that were not read");
  await page.locator(".code button").first().click();
  check((await page.evaluate(() => navigator.clipboard.readText())).startsWith("/// Age of a layer"), "the code was not copied");
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    for (const [name, width, height] of [["desk", 1360, 900], ["whole", 1360, 1900], ["phone", 390, 844]]) {
      await page.setViewportSize({ width, height });
      await page.evaluate(() => (document.querySelector("#scroller").scrollTop = 0));
      await tester.shot(page, `${name}-${scheme}`);
      await tester.accessible(page, `${name} ${scheme}`);
    }
    await page.click("#open-list");
    await page.waitForTimeout(300);
    await tester.shot(page, `drawer-${scheme}`);
    await tester.accessible(page, `drawer ${scheme}`);
    await page.keyboard.press("Escape");
    await page.click("#open-settings");
    await tester.shot(page, `phone-settings-${scheme}`);
    await tester.accessible(page, `settings on a phone ${scheme}`);
    await page.keyboard.press("Escape");
    await page.setViewportSize({ width: 1360, height: 900 });
    await page.click("#open-settings");
    await page.fill("#setting-top_p", "3");
    check((await page.textContent("#setting-top_p-problem")).includes("from 0 to 1"), "a wrong setting is not said");
    await tester.shot(page, `settings-${scheme}`);
    await tester.accessible(page, `settings ${scheme}`);
    await page.fill("#setting-top_p", "");
    await page.click("#close-settings");
    await page.evaluate(() => document.activeElement.blur());
    await page.keyboard.press("?");
    await tester.shot(page, `keys-${scheme}`);
    await tester.accessible(page, `keys ${scheme}`);
    await page.keyboard.press("Escape");
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.click("#theme");
  await page.click("#theme");
  equal(await page.evaluate(() => getComputedStyle(document.body).colorScheme), "dark", "the theme that was chosen");
  await page.reload();
  await page.waitForSelector("body.ready");
  equal(await page.evaluate(() => getComputedStyle(document.body).colorScheme), "dark", "the theme after a reload");
  await page.click("#theme");
}

async function files(page) {
  await page.click("#new-chat");
  await page.setInputFiles("#picker", [{ name: "notes.md", mimeType: "text/markdown", buffer: Buffer.from("# Notes\nTuff is no limestone.") }, { name: "x.png", mimeType: "image/png", buffer: Buffer.from([137, 80, 78, 71, 0, 255]) }]);
  await page.waitForSelector("#files li");
  equal(await notes(page), ["x.png is not a text file."], "refused files");
  const transfer = await page.evaluateHandle(() => {
    const transfer = new DataTransfer();
    transfer.items.add(new File(["dropped text"], "dropped.txt"));
    return transfer;
  });
  await page.dispatchEvent("#composer", "dragenter", { dataTransfer: transfer });
  check(await page.isVisible("#drop"), "nothing shows where to drop");
  await page.dispatchEvent("#composer", "drop", { dataTransfer: transfer });
  await page.waitForFunction(() => document.querySelectorAll("#files li").length === 2);
  check(!(await page.isVisible("#drop")), "the curtain stays");
  await tester.shot(page, "files");
  await tester.accessible(page, "files");
  await tester.say(page, "What do they say?");
  await tester.settled(page, 1);
  equal(await tester.texts(page, ".file .file-name"), ["notes.md", "dropped.txt"], "files of the message");
  if (mocked) {
    check(server.seen.at(-1).messages.at(-1).content.startsWith("File: notes.md\n```\n# Notes\nTuff is no limestone.\n```\n\nFile: dropped.txt\n```\ndropped text\n```\n\nWhat do"), "the text of files");
    equal(server.seen.at(-1).max_tokens, 24, "a setting that was sent");
  }
  await clearNotes(page);
}

async function twoTabs(page) {
  const other = await page.context().newPage();
  await tester.visit(other, base);
  await page.click("#new-chat");
  await limitTokens(page, 24);
  await tester.say(page, "Shared by two tabs");
  await tester.settled(page, 1);
  await other.locator("button.conversation", { hasText: "Shared by two tabs" }).click();
  await tester.settled(other, 1);
  // Both at once: neither may lose what the other wrote.
  await other.getByRole("button", { name: "Edit message" }).click();
  await other.fill(".edit textarea", "Edited in two");
  await Promise.all([tester.say(page, "Said in one"), other.press(".edit textarea", "Enter")]);
  await page.waitForFunction(() => document.querySelectorAll(".user").length === 2);
  for (const tab of [page, other]) {
    await tab.waitForSelector(".branches");
    await tab.waitForFunction(() => document.querySelector(".answer") && !document.querySelector(".live"));
  }
  equal(await userTexts(page), ["Shared by two tabs", "Said in one"], "one tab");
  equal(await userTexts(other), ["Edited in two"], "the other tab");
  await page.reload();
  await page.waitForSelector("button.conversation");
  await page.locator("button.conversation", { hasText: "Shared by two tabs" }).click();
  await page.waitForSelector(".branches");
  const seen = [await userTexts(page)];
  await page.getByRole("button", { name: /(Earlier|Later) version/ }).and(page.locator(":not(:disabled)")).click();
  seen.push(await userTexts(page));
  equal(seen.sort(), [["Edited in two"], ["Shared by two tabs", "Said in one"]], "both branches");
  await other.getByRole("button", { name: "More for Shared by two tabs" }).click();
  await other.getByRole("menuitem", { name: "Delete" }).click();
  await page.waitForFunction(() => document.querySelector("h1").textContent === "New chat");
  equal(await notes(page), ["The chat was deleted in another tab."], "a chat that is gone");
  await clearNotes(page);
  await other.close();
}

async function keyboard(page) {
  await tester.visit(page, base);
  equal(await page.evaluate(() => document.querySelector("a, button, input, textarea, select, [tabindex]").className), "skip", "the first stop");
  await page.focus(".skip");
  for (let i = 0; i < 20; i++) {
    await page.keyboard.press("Tab");
    const bare = await page.evaluate(() => {
      const element = document.activeElement;
      const ring = getComputedStyle(element).outlineStyle !== "none" || element.closest("#composer");
      return ring || element === document.body ? null : element.outerHTML.slice(0, 80);
    });
    equal(bare, null, "a stop that is not seen");
  }
  await page.press("#message", "Shift+Enter");
  equal(await page.inputValue("#message"), "\n", "a new line");
  await page.fill("#message", "");
  await page.keyboard.press("Control+,");
  check(await page.isVisible("#settings"), "no settings by key");
  await page.keyboard.press("Escape");
  check(!(await page.isVisible("#settings")), "the settings stay");
}

/** What only the mock server can be made to do. */
async function troubles(page) {
  await page.click("#new-chat");
  await tester.say(page, "hostile, please");
  await tester.settled(page, 1);
  await page.locator(".thinking summary").click();
  await page.waitForTimeout(300);
  await harmless(page, "a hostile answer as it comes");
  await page.click("#new-chat");
  await tester.say(page, "think of a sum");
  await tester.settled(page, 1);
  check(!(await page.locator(".thinking .markdown").isVisible()), "thoughts are not folded");
  await page.locator(".thinking summary").click();
  await page.waitForFunction(() => document.querySelector(".thinking .markdown").textContent.includes("Two and two"));
  await tester.shot(page, "thoughts");
  await tester.say(page, "slow");
  await page.waitForFunction(() => /Reading the prompt: [\d,]+ of 4,012 tokens/.test(document.querySelector(".live .progress")?.textContent) && /Layer \d+ of 126, 6.93 GB/.test(document.querySelector(".live .progress").textContent));
  await page.waitForTimeout(1200);
  await tester.shot(page, "slow");
  await tester.accessible(page, "slow");
  await tester.settled(page, 2);
  equal(server.seen.at(-1).messages.map(({ content }) => content), ["think of a sum", "It is **four**.", "slow"], "thoughts are not fed back");
  await tester.say(page, "busy?");
  await page.waitForFunction(() => /busy\. Trying again in \d s/.test(document.querySelector(".live .progress")?.textContent));
  await tester.settled(page, 3);
  equal((await answerTexts(page)).at(-1).startsWith("You said: busy?"), true, "the answer after being busy");
  await tester.say(page, "refuse this");
  await tester.settled(page, 4);
  check(/the context holds 8192.*Start a new chat/.test(await page.locator(".problem").last().innerText()), "a refusal without advice");
  await tester.shot(page, "refused");
  await tester.accessible(page, "refused");
  await tester.say(page, "break off");
  await tester.settled(page, 5);
  check(/broke/.test(await page.locator(".problem").last().innerText()), "an answer that broke off");
  await page.locator("#model").selectOption("SmolLM2-135M-Instruct-Q8_0");
  await tester.say(page, "limit");
  await tester.settled(page, 6);
  check(/limit of tokens/.test(await page.locator(".problem").last().innerText()), "an answer that reached its limit");
  equal(server.seen.at(-1).model, "SmolLM2-135M-Instruct-Q8_0", "the model that was chosen");
}

/** Where a person is quicker than the disk, what is answered stays where it belongs. */
async function quick(page) {
  await page.click("#new-chat");
  await page.fill("#message", "Quick words");
  await page.evaluate(() => (document.querySelector("#composer").requestSubmit(), document.querySelector("#new-chat").click()));
  equal([await userTexts(page), await page.textContent("h1")], [[], "New chat"], "a new chat at once after sending");
  await page.locator("button.conversation", { hasText: "Quick words" }).click();
  await tester.settled(page, 1);
  equal([server.seen.at(-1).messages.at(-1).content, (await answerTexts(page)).at(-1).slice(0, 21)], ["Quick words", "You said: Quick words"], "what was sent before the new chat");
}

/** What one does while an answer comes neither loses words nor stops it. */
async function meanwhile(page) {
  await page.getByRole("button", { name: "Edit message" }).click();
  await page.fill(".edit textarea", "Words to be kept");
  await page.evaluate(() => (document.querySelector("#scroller").scrollTop = 0));
  await limitTokens(page, 4000);
  await tester.say(page, "long, please");
  await page.waitForFunction(() => document.querySelector(".live > .markdown")?.textContent.includes("Sentence 20"));
  await page.press(".edit textarea", "Enter");
  equal([await page.inputValue(".edit textarea"), await notes(page)], ["Words to be kept", ["Another answer is being made. Stop it or wait for its end, then send."]], "an edit while an answer comes");
  await clearNotes(page);
  await page.press(".edit textarea", "Escape");
  await page.click("#open-settings");
  await page.focus("#system");
  await page.keyboard.press("Escape");
  equal([await page.isVisible("#settings"), await page.locator(".live").count()], [false, 1], "Escape in the settings while an answer comes");
  await page.focus("#search");
  await page.keyboard.press("Escape");
  await page.dispatchEvent("#message", "keydown", { key: "Escape", keyCode: 229 });
  equal(await page.locator(".live").count(), 1, "Escape in the list and in an input method");
  const other = await page.context().newPage();
  await tester.visit(other, base);
  await other.locator("button.conversation", { hasText: "Quick words" }).click();
  await other.waitForFunction(() => document.querySelectorAll(".answer").length === 2);
  equal(await other.$$eval(".problem, .tools", (all) => all.slice(-2).map(({ hidden }) => hidden)), [true, true], "an answer that comes in another tab");
  await other.close();
  // Deleted while it answers: all that came comes back.
  await page.getByRole("button", { name: "More for this chat" }).click();
  await page.getByRole("menuitem", { name: "Delete" }).click();
  await page.waitForSelector(".note");
  equal(await notes(page), ["“Quick words” was deleted."], "a chat deleted while it answers");
  await page.getByRole("button", { name: "Undo" }).click();
  await tester.settled(page, 2);
  check((await answerTexts(page)).at(-1).includes("Sentence 20"), "what had come before the chat was deleted");
  check((await page.locator(".problem").last().innerText()).startsWith("Stopped."), "the answer of a deleted chat does not say that it was stopped");
}

/** What is sent is seen, wherever one read before. */
async function scrolling(page) {
  await page.setViewportSize({ width: 1360, height: 500 });
  await page.evaluate(() => (document.querySelector("#scroller").scrollTop = 0));
  await page.waitForSelector("#jump:not([hidden])");
  await page.press("#jump", "Enter");
  equal(await page.evaluate(() => document.activeElement.id), "message", "the focus after the way to the newest message");
  await page.evaluate(() => (document.querySelector("#scroller").scrollTop = 0));
  await page.waitForSelector("#jump:not([hidden])");
  await tester.say(page, "Am I seen?");
  await tester.settled(page, 3);
  check(await page.isHidden("#jump"), "what was sent is not in the window");
  await page.setViewportSize({ width: 1360, height: 900 });
}

/** What was written and not yet sent, and where the focus is. */
async function kept(page) {
  await page.click("#open-settings");
  await page.fill("#system", "Be brief");
  await page.keyboard.press("Control+Shift+O");
  equal(await page.inputValue("#system"), "Be brief", "a system prompt that was just written");
  await page.fill("#system", "");
  await page.click("#close-settings");
  await page.fill("#message", "A draft");
  const [dialog] = await Promise.all([page.waitForEvent("dialog"), page.reload()]);
  equal(dialog.type(), "beforeunload", "leaving with a draft");
  await page.waitForSelector("button.conversation");
  // A chat deleted among those that were found is gone there too, and the focus goes on to the next.
  await importText(page, "two.json", JSON.stringify({ format: "strata-chat", version: 1, conversations: ["Zebra one", "Zebra two"].flatMap((title, i) => JSON.parse(file(`z${i}`, title, "x")).conversations) }));
  await clearNotes(page);
  await page.fill("#search", "zebra");
  await page.waitForFunction(() => document.querySelector("#conversations [role=status]")?.textContent === "2 chats");
  await page.getByRole("button", { name: "More for Zebra one" }).press("Enter");
  await page.keyboard.press("Control+k");
  equal(await page.locator(".menu").count(), 0, "menus after a key took the focus");
  await page.getByRole("button", { name: "More for Zebra one" }).press("Enter");
  await page.getByRole("menuitem", { name: "Delete" }).press("Enter");
  await page.waitForFunction(() => document.querySelector("#conversations [role=status]")?.textContent === "1 chat");
  await page.waitForFunction(() => document.activeElement.textContent.startsWith("Zebra two"));
  await page.fill("#search", "");
  await clearNotes(page);
}

/** A browser that keeps nothing, on a tablet. */
async function tablet() {
  const page = await tester.open(base, { viewport: { width: 1024, height: 768 }, hasTouch: true, isMobile: true, prepare: () => {
    const refuse = () => { throw new DOMException("denied", "SecurityError"); };
    for (const storage of ["localStorage", "sessionStorage"]) Object.defineProperty(window, storage, { get: refuse });
    IDBFactory.prototype.open = refuse;
  } });
  await page.waitForFunction(() => document.querySelector("#model").value !== "…");
  check((await notes(page))[0]?.startsWith("This browser keeps no history"), "a browser that keeps nothing is not told of");
  await limitTokens(page, 24);
  await tester.say(page, "Kept nowhere");
  await tester.settled(page, 1);
  await page.click("#theme");
  await page.click("#new-chat");
  equal(await page.evaluate(() => document.activeElement.id), "scroller", "the focus without a keyboard");
  await page.waitForSelector("button.conversation");
  equal(await page.$eval("#conversations .icon-button", (button) => getComputedStyle(button).opacity), "1", "what a finger can touch is not seen");
  await page.locator("button.conversation", { hasText: "Kept nowhere" }).click();
  await tester.settled(page, 1);
  await tester.accessible(page, "tablet");
  await page.context().close();
}

async function withKey() {
  const guarded = mock({ key: "secret" });
  const address = await guarded.listen();
  const page = await tester.open(address, { expected: (text) => /Failed to load resource: .*(401|ERR_)/.test(text) });
  await page.waitForSelector("dialog[open]");
  await tester.shot(page, "key");
  await tester.accessible(page, "key");
  await page.fill("dialog input", "ключ");
  await page.press("dialog input", "Enter");
  check(await page.isVisible("dialog input:invalid"), "a key that no request can carry is taken");
  await page.fill("dialog input", "wrong");
  await page.press("dialog input", "Enter");
  await page.waitForSelector("text=The server refused this API key");
  await page.fill("dialog input", "secret");
  await page.press("dialog input", "Enter");
  await page.waitForFunction(() => document.querySelector("#model").value.startsWith("Llama"));
  await tester.say(page, "hello");
  await tester.settled(page, 1);
  equal(await page.evaluate(() => Object.values(localStorage).some((value) => value.includes("secret"))), false, "the key is kept");
  guarded.server.closeAllConnections();
  guarded.server.close();
  await tester.say(page, "hello?");
  await tester.settled(page, 2);
  check(/does not answer/.test(await page.locator(".problem").last().innerText()), "a server that is gone");
  await page.context().close();
}

// Chromium itself reports answers that are errors; the mock gives such on purpose.
const page = await tester.open(base, { expected: (text) => mocked && /Failed to load resource: .*(429|400|ERR_)/.test(text) });
for (const part of [conversation, branching, stopping, history, managing, files, hostile, looks, twoTabs, keyboard, kept, tablet, ...(mocked ? [quick, meanwhile, scrolling, troubles, withKey] : [])]) {
  await tester.part(part.name, () => part(page));
}
await tester.part("last", async () => check(!(await page.evaluate(() => window.hacked)), "a script ran"));
server?.server.closeAllConnections();
server?.server.close();
await tester.end();
