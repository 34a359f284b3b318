// Tables are copied with all digits, each end of an interval in a column of its own.
"use strict";
const cellsOf = (table, wide) => [...table.rows].map((row) => [...row.cells].flatMap((cell, i) => {
  const value = cell.dataset.v ?? cell.innerText.replace(/\s+/g, " ").trim();
  if (!wide.has(i)) return [value];
  if (cell.tagName === "TH") return [value, value + " low", value + " high"];
  return [value, cell.dataset.low ?? "", cell.dataset.high ?? ""];
}));
const textOf = (table, separator) => {
  const wide = new Set();
  for (const row of table.rows) [...row.cells].forEach((cell, i) => cell.dataset.low !== undefined && wide.add(i));
  const quoted = (text) => (separator === "," && /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text);
  return cellsOf(table, wide).map((row) => row.map(quoted).join(separator)).join("\n") + "\n";
};
const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("the browser does not copy");
  }
};
for (const figure of document.querySelectorAll(".copyable")) {
  const bar = figure.querySelector(".copy");
  const said = bar.querySelector("[role=status]");
  for (const button of bar.querySelectorAll("button")) {
    button.addEventListener("click", async () => {
      const separator = button.dataset.separator === "comma" ? "," : "\t";
      try {
        await copy(textOf(figure.querySelector("table"), separator));
        said.textContent = "copied";
      } catch (error) {
        said.textContent = "cannot copy: " + error.message;
      }
      setTimeout(() => (said.textContent = ""), 3000);
    });
  }
  bar.hidden = false;
}
