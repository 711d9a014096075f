// Tries the playground as a person would, and prints what it shows as JSON:
//   node playground.mjs <browser> <URL> <token> <folder for pictures> <steps.json>
// A step is {"model", "version", "values": {input: text}, "explanation": answer or null}.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [executablePath, url, token, pictures, stepsFile] = process.argv.slice(2);
const steps = JSON.parse(fs.readFileSync(stepsFile, "utf8"));
const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const quiet = ["background-networking", "component-update", "sync", "quic", "gpu"];
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", ...quiet.map((each) => `--disable-${each}`)],
});
const found = { problems: [], addresses: [], axe: {}, overflow: {}, steps: [] };

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  page.on("console", (message) => {
    // Chromium reports a refused request itself.
    if (!message.text().startsWith("Failed to load resource")) found.problems.push(message.text());
  });
  page.on("pageerror", (error) => found.problems.push(error.message));
  page.on("dialog", (dialog) => found.problems.push(`dialog: ${dialog.message()}`));
  page.on("request", (request) => found.addresses.push(request.url()));
  await page.goto(url);
  return page;
}

async function signIn(page, given) {
  await page.locator("#token").fill(given);
  await page.keyboard.press("Enter");
}

async function choose(page, { model, version }) {
  const part = page.locator(".model").filter({ has: page.getByText(model, { exact: true }) });
  const fields = page.locator("#fields > *");
  await fields.evaluateAll((all) => all.forEach((one) => (one.dataset.before = "")));
  await part.locator(".version", { hasText: new RegExp(`^${version}`) }).click();
  // What is filled in before the new form is there goes with the old one, also of the same version.
  await page.locator("#fields > [data-before]").first().waitFor({ state: "detached" });
  await page.locator("#form-model", { hasText: model }).waitFor();
  await page.locator("#form-version", { hasText: new RegExp(`^version ${version}$`) }).waitFor();
}

async function take(page, step) {
  await choose(page, step);
  for (const [name, text] of Object.entries(step.values ?? {})) {
    const input = page.getByLabel(name);
    if ((await input.evaluate((each) => each.tagName)) === "SELECT") await input.selectOption(text);
    else await input.fill(text);
  }
  if (step.explanation) {
    await page.route("**/*:explain", (route) => route.fulfill({ json: step.explanation }));
  }
  const explained = page.waitForResponse(/:explain$/, { timeout: 5000 }).catch(() => null);
  await page.locator("#form button[type=submit]").click();
  const request = await page.locator("#request").textContent();
  await page.locator("#prediction").getByText("…", { exact: true }).waitFor({ state: "detached" });
  if (step.sends !== false) await explained;
  await page.waitForTimeout(100);
  const shown = {
    labels: await page.locator("#fields label bdi").allTextContents(),
    choices: await page.locator("#fields option").evaluateAll((all) => all.map((one) => one.value)),
    errors: await page.locator("#fields .error:visible").allTextContents(),
    focus: await page.evaluate(() => document.activeElement.id),
    answer: (await page.locator("#prediction .answer").allTextContents()).join(),
    prediction: await page.locator("#prediction").innerText(),
    shares: await page.locator("#prediction li").allInnerTexts(),
    explained: await page.locator("#explanation-part").isVisible(),
    effects: await page.locator("#explanation tbody tr").evaluateAll((rows) =>
      rows.map((row) => [row.querySelector("bdi").textContent, row.lastElementChild.textContent]),
    ),
    request,
  };
  await page.unroute("**/*:explain");
  return shown;
}

async function check(page, name) {
  await page.screenshot({ path: path.join(pictures, `${name}.png`), fullPage: true });
  await page.evaluate(axe);
  const result = await page.evaluate(() => axe.run());
  found.axe[name] = result.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html)}`);
  found.overflow[name] = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
}

try {
  const page = await open();
  await page.locator("#token").waitFor();
  found.beforeToken = await page.locator("body").innerText();
  found.requestsBeforeToken = found.addresses.length;
  await check(page, "token");
  await signIn(page, `${token}x`);
  await page.locator("#notice:visible").waitFor();
  found.wrongToken = await page.locator("body").innerText();
  await signIn(page, token);
  await page.locator(".version").first().waitFor();
  found.models = await page.locator(".model h3").allTextContents();
  found.versions = await page.locator(".model li").allInnerTexts();
  for (const step of steps) found.steps.push(await take(page, step));
  const elements = await page.locator("main img, main b, main [onmouseover], main script").count();
  found.markup = { elements, title: await page.title() };
  found.kept = await page.evaluate(() => ({
    storage: localStorage.length + sessionStorage.length,
    cookie: document.cookie,
    address: location.href,
  }));
  found.keepsToken = (await page.content()).includes(token) || (await page.locator("#token").inputValue()) !== "";
  await page.reload();
  await page.locator("#token").waitFor();
  found.afterReload = await page.locator("body").innerText();
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 400]) {
      const one = await open({ colorScheme, viewport: { width, height: 800 } });
      await signIn(one, token);
      await take(one, steps[0]);
      await check(one, `${colorScheme}-${width}`);
      await one.context().close();
    }
  }
  console.log(JSON.stringify(found));
} finally {
  await browser.close();
}
