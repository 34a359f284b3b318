// What the mock server says: an answer with every construct of Markdown, and answers that try to run a script, load something, or break out
// of their place. Every one of the hostile ones would set `hacked`, open a dialog, or ask another host for something.

const RUN = "window.hacked=1;alert(1)";
const EVIL = "http://evil.example";

export const HOSTILE = [
  `<script>${RUN}</script>`,
  `<scr<script>ipt>${RUN}</scr</script>ipt>`,
  `<img src=x onerror="${RUN}">`,
  `<img src="${EVIL}/pixel.png">`,
  `![a picture](${EVIL}/image.png "title")`,
  `![x](x" onerror="${RUN})`,
  `[click](javascript:${RUN})`,
  `[click](JaVaScRiPt:${RUN})`,
  `[click](java&#115;cript:${RUN})`,
  `[click](&#x6A;avascript:${RUN})`,
  `[click](\u0001javascript:${RUN})`,
  `[click](data:text/html,<script>${RUN}</script>)`,
  `[click](vbscript:msgbox(1))`,
  `[click](${EVIL}/" onmouseover="${RUN})`,
  `[click][ref]\n\n[ref]: javascript:${RUN}`,
  `<javascript:${RUN}>`,
  `<a href="javascript:${RUN}">click</a>`,
  `<svg onload="${RUN}"><script>${RUN}</script></svg>`,
  `<svg><animate onbegin="${RUN}" attributeName=x dur=1s></svg>`,
  `<svg><use href="data:image/svg+xml;base64,PHN2ZyBpZD0neCcgeG1sbnM9J2h0dHA6Ly93d3cudzMub3JnLzIwMDAvc3ZnJz48c2NyaXB0PmFsZXJ0KDEpPC9zY3JpcHQ+PC9zdmc+#x"></svg>`,
  `<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=${RUN}&gt;">`,
  `<math href="javascript:${RUN}">CLICK</math>`,
  `<math><annotation-xml encoding="text/html"><img src=x onerror=${RUN}></annotation-xml></math>`,
  `<form><math><mtext></form><form><mglyph><style></math><img src onerror=${RUN}>`,
  `<iframe srcdoc="<script>parent.hacked=1</script>"></iframe><iframe src="javascript:parent.hacked=1"></iframe>`,
  `<object data="javascript:${RUN}"></object><embed src="javascript:${RUN}">`,
  `<style>@import url(${EVIL}/style.css);*{background:url(${EVIL}/bg.png)}</style>`,
  `<link rel=stylesheet href=${EVIL}/style.css><meta http-equiv=refresh content="0;url=${EVIL}/">`,
  `<base href="${EVIL}/"><form action="${EVIL}/"><button>Go</button></form>`,
  `<details open ontoggle="${RUN}">x</details><input autofocus onfocus="${RUN}"><video src=x onerror="${RUN}"></video>`,
  `<div style="position:fixed;inset:0;background:url(${EVIL}/bg.png)">over everything</div>`,
  `<div id="message">a second field</div><a name="body" id="app"></a>`,
  "```html\n<script>" + RUN + "</script>\n</code></pre><img src=x onerror=" + RUN + ">\n```",
  "```\"><img/src=x/onerror=" + RUN + ">\ncode\n```",
  "`</code><img src=x onerror=" + RUN + ">`",
  `| <img src=x onerror=${RUN}> | b |\n|:-:|--:|\n| <script>${RUN}</script> | [x](javascript:${RUN}) |`,
  `# <img src=x onerror=${RUN}>`,
  `$\\href{javascript:${RUN}}{click}$ and $\\includegraphics{${EVIL}/math.png}$`,
  `$$\\class{x" onclick="${RUN}}{y} \\style{background:url(${EVIL}/tex.png)}{z} \\htmlId{message}{w}$$`,
  `$$\\text{<img src=x onerror=${RUN}>} \\text{</math><script>${RUN}</script>}$$`,
  `\\(\\unicode{<img src=x onerror=${RUN}>}\\) \\[\\begin{x" onload="${RUN}}\\]`,
  `$$\\def\\a{\\a\\a}\\a$$ and $\\rule{99999em}{99999em}$`,
  `${"<div>".repeat(2000)}`,
  `${"> ".repeat(500)}deep`,
  `${"[".repeat(3000)}x${"](y)".repeat(500)}`,
  `${"*a_".repeat(2000)}`,
  `\u202eright to left\u202c \u0000\u001b[31m`,
  `<!--><script>${RUN}</script>--> <![CDATA[<script>${RUN}</script>]]> <?xml-stylesheet href="javascript:${RUN}"?>`,
  `<template><script>${RUN}</script></template><noscript><p title="</noscript><img src=x onerror=${RUN}>"></noscript>`,
];

export const RICH = `# Layers of rock

Strata form where sediment **settles**, layer on layer, and the order of the layers is the order of *time*. Three rules follow, with \`code\` and a [link](https://en.wikipedia.org/wiki/Stratum):

1. What lies below is older.
2. What was laid flat was laid level:
   - sand and mud,
   - shells.
3. What cuts a layer is younger than it.

## In code

\`\`\`rust
/// Age of a layer, in years: the thickness above it over the rate.
fn age(layers: &[Layer], i: usize) -> Option<f64> {
    let above: f64 = layers.get(..i)?.iter().map(|layer| layer.thickness).sum();
    Some(above / 0.001) // a millimetre a year
}
\`\`\`

## In figures

| Layer | Thickness | Age |
|:------|----------:|----:|
| Soil | 0.4 m | 400 a |
| Sandstone | 12 m | 12 400 a |
| Shale | 31 m | 43 400 a |

The decay of an isotope gives the age: with $N_0$ atoms at first and a half-life $t_{1/2}$,

$$
t = \\frac{t_{1/2}}{\\ln 2} \\, \\ln\\left(1 + \\frac{D}{N}\\right), \\qquad \\int_0^\\infty e^{-\\lambda t}\\,dt = \\frac{1}{\\lambda}
$$

and a matrix \\(A = \\begin{pmatrix} a & b \\\\ c & d \\end{pmatrix}\\) has $\\det A = ad - bc$. It costs $5 or $10.

> The present is the key to the past.

- [x] Look at the outcrop
- [ ] Take a sample

---

That is all.`;
