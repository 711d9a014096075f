// Opens a page in a browser as a person would, chooses a model and rows, and prints what it shows:
//   node browser.mjs <browser> <URL> <model.tflite> <rows.json>
import { chromium } from "playwright-core";

const [executablePath, url, model, rows] = process.argv.slice(2);
const quiet = ["background-networking", "component-update", "sync", "quic", "gpu"];
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", ...quiet.map((each) => `--disable-${each}`)],
});
try {
  const page = await browser.newPage();
  await page.goto(url);
  await page.setInputFiles("#model", model);
  await page.setInputFiles("#rows", rows);
  const shown = page.locator("#predictions:not(:empty)");
  console.log(await shown.textContent({ timeout: 120_000 }));
} finally {
  await browser.close();
}
