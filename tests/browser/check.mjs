// Opens pages in a browser at several widths, light and dark, and prints what is wrong with each, as JSON:
//   node check.mjs <browser> <URL>...
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [executablePath, ...urls] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const quiet = ["background-networking", "component-update", "sync", "quic", "gpu"];
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", ...quiet.map((each) => `--disable-${each}`)],
});

// Runs in the page: what a person would stumble over that axe does not look for.
function lookAround() {
  const found = [];
  if (document.documentElement.scrollWidth > window.innerWidth) {
    found.push(`the page is ${document.documentElement.scrollWidth} pixels wide`);
  }
  for (const image of document.images) {
    if (!image.complete || image.naturalWidth === 0) found.push(`no picture: ${image.alt}`);
  }
  for (const plot of document.querySelectorAll("svg")) {
    const box = plot.getBoundingClientRect();
    if (box.width < 200 || box.height < 100) found.push(`a plot of ${box.width} x ${box.height}`);
    for (const text of plot.querySelectorAll("text")) {
      const letter = text.getBoundingClientRect();
      if (letter.width && (letter.left < box.left - 2 || letter.right > box.right + 2)) {
        found.push(`a text is cut: ${text.textContent}`);
      }
      const size = parseFloat(getComputedStyle(text).fontSize) * (box.width / plot.viewBox.baseVal.width);
      if (size < 8) found.push(`a text of ${size.toFixed(1)} pixels: ${text.textContent}`);
    }
  }
  return found;
}

const problems = [];
try {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 400]) {
      // The page has no script and allows none; axe is one.
      const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme, bypassCSP: true });
      for (const url of urls) {
        const page = await context.newPage();
        const at = (text) => problems.push(`${url} (${colorScheme}, ${width}): ${text}`);
        page.on("console", (message) => at(`console: ${message.text()}`));
        page.on("pageerror", (error) => at(`error: ${error}`));
        page.on("dialog", (dialog) => (at(`dialog: ${dialog.message()}`), dialog.dismiss()));
        page.on("request", (request) => {
          if (request.url() !== url && !request.url().startsWith("data:")) at(`request: ${request.url()}`);
        });
        await page.goto(url);
        await page.evaluate(() => document.querySelectorAll("details").forEach((each) => (each.open = true)));
        (await page.evaluate(lookAround)).forEach(at);
        await page.keyboard.press("Tab");
        const first = await page.evaluate(() => document.activeElement.textContent);
        if (first !== "Skip to the content") at(`the first stop of the keyboard is ${first}`);
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => window.axe.run());
        for (const { id, help, nodes } of violations) {
          at(`axe: ${id}: ${help}: ${nodes.slice(0, 3).map((each) => each.html.slice(0, 200)).join(" | ")}`);
        }
        await page.close();
      }
      await context.close();
    }
  }
} finally {
  await browser.close();
}
console.log(JSON.stringify(problems));
