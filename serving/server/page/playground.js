// The playground: models, a form, predictions and explanations. What comes from the server, its
// models or its user goes into the page as text, never as markup. The token stays in this module.
// One file because there is no build step, and a browser then asks for one script.

const MOST_SHARES = 10;
const MOST_EFFECTS = 12;
const STATES = { AVAILABLE: "available", LOADING: "loading", START: "waiting", UNLOADING: "unloading" };

const at = (id) => document.getElementById(id);
const copyOf = (template) => at(template).content.firstElementChild.cloneNode(true);

let token = "";
let chosen = null; // {model, version, form, inputs: [{field, element, error}]}
let explains = true; // Whether the server explains the chosen version.
// Counts what the user asks for: a response to something earlier is not shown.
let looks = 0; // At models and versions.
let predictions = 0;

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Requests.

async function send(path, body) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  let response, text;
  try {
    response = await fetch(path, { method, headers, body, cache: "no-store", redirect: "error" });
    text = await response.text();
  } catch {
    throw new Refusal(0, "The server does not respond.");
  }
  let content;
  try {
    content = parse(text);
  } catch {
    throw new Refusal(response.status, `The response (status ${response.status}) is not JSON.`);
  }
  if (!response.ok) {
    throw new Refusal(response.status, String(content?.error ?? `Status ${response.status}`));
  }
  return content;
}

/** Reads JSON in which NaN and Infinity may stand, as the server writes them; they become text. */
function parse(text) {
  const quoted = text.replace(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g, (found) =>
    found.startsWith('"') ? found : `"${found}"`,
  );
  return JSON.parse(quoted);
}

/** JSON in which no character is invisible or changes the order of others. */
function visible(json) {
  return json.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (found) =>
    [...Array(found.length).keys()]
      .map((index) => `\\u${found.charCodeAt(index).toString(16).padStart(4, "0")}`)
      .join(""),
  );
}

function pathOf({ model, version }, method) {
  return `v1/models/${encodeURIComponent(model)}/versions/${version}:${method}`;
}

function shellQuote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function curl(body) {
  const url = new URL(pathOf(chosen, "predict"), document.baseURI).href;
  const lines = [`curl --silent ${shellQuote(url)}`];
  if (token) lines.push('--header "Authorization: Bearer $TOKEN"');
  lines.push("--header 'Content-Type: application/json'", `--data-raw ${shellQuote(body)}`);
  return lines.join(" \\\n  ");
}

// Models.

async function load() {
  const mine = ++looks;
  let content;
  try {
    content = await send("ui/models");
  } catch (error) {
    return fail(error);
  }
  if (mine !== looks) return;
  say("");
  at("token-form").hidden = true;
  at("refresh").hidden = at("playground").hidden = false;
  const versions = showModels(content.models);
  const same = versions.find((one) => one.model === chosen?.model && one.version === chosen?.version);
  if (same) return mark();
  const first = versions.find((one) => one.live) ?? versions[0];
  if (first) return choose(first);
  forget();
  if (!content.models.length) say("No model is served.");
}

function showModels(models) {
  const usable = [];
  at("models").replaceChildren(
    ...models.map((model) => {
      const part = copyOf("model-template");
      part.querySelector("bdi").textContent = model.name;
      part.querySelector("ul").append(
        ...model.versions.map((version) => {
          const one = { model: model.name, version: version.version, live: version.live };
          const available = version.state === "AVAILABLE";
          if (available) usable.push(one);
          return versionItem(one, version, available);
        }),
      );
      return part;
    }),
  );
  return usable;
}

function versionItem(one, version, available) {
  const item = copyOf("version-template");
  const button = item.querySelector("button");
  button.disabled = !available;
  button.dataset.version = JSON.stringify([one.model, one.version]);
  button.addEventListener("click", () => choose(one));
  item.querySelector(".number").textContent = version.version;
  const state = STATES[version.state] ?? (version.reason ? "refused" : "unloaded");
  const tags = [...(version.live ? ["live"] : available ? [] : [state]), ...version.labels];
  item.querySelector(".tags").append(
    ...tags.map((text, index) => {
      const tag = document.createElement("span");
      tag.className = "tag";
      if (index === 0 && !available) tag.classList.add(state);
      if (index === 0 && version.live) tag.classList.add("live");
      tag.textContent = text;
      return tag;
    }),
  );
  const reason = item.querySelector(".reason");
  reason.textContent = version.reason;
  reason.hidden = !version.reason;
  return item;
}

function mark() {
  for (const button of document.querySelectorAll(".version")) {
    const current = chosen && button.dataset.version === JSON.stringify([chosen.model, chosen.version]);
    button.setAttribute("aria-current", String(Boolean(current)));
  }
}

// The form.

async function choose(one) {
  const mine = ++looks;
  try {
    const form = await send(`ui/models/${encodeURIComponent(one.model)}/versions/${one.version}`);
    if (mine !== looks) return;
    say("");
    chosen = { ...one, form };
    explains = true;
    showForm();
  } catch (error) {
    if (mine === looks) fail(error);
  }
}

function showForm() {
  const { model, version, form } = chosen;
  mark();
  at("form-model").textContent = model;
  at("form-version").textContent = `version ${version}`;
  at("form").hidden = !form.signature;
  at("form-hint").textContent = !form.signature
    ? "This version has no signature whose inputs a form can hold."
    : form.has_example
      ? "The values are those of a row that the version is warmed up with. An empty input is absent."
      : "The values are zeros: there is no row to show. An empty input is absent.";
  chosen.inputs = form.fields.map(makeInput);
  at("fields").replaceChildren(...chosen.inputs.map((input) => input.part));
  at("filter").value = "";
  at("filter").hidden = form.fields.length <= 30;
  at("form-part").hidden = false;
  at("answers").hidden = !form.signature;
  showAnswers();
}

function makeInput(field, index) {
  const part = copyOf("field-template");
  const long = field.kind === "list" || /[\r\n]/.test(field.value);
  const kind = long ? "textarea" : field.kind === "boolean" ? "select" : "input";
  const element = document.createElement(kind);
  element.id = `field-${index}`;
  if (kind === "select") {
    for (const value of ["false", "true"]) element.add(new Option(value, value, value === field.value));
  } else {
    element.defaultValue = field.value;
    element.spellcheck = false;
  }
  if (kind === "textarea") {
    element.rows = Math.min(6, 2 + Math.floor(field.value.length / 80));
    part.classList.add("wide");
  }
  if (field.kind === "float") element.inputMode = "decimal";
  const label = part.querySelector("label");
  label.htmlFor = element.id;
  label.querySelector("bdi").textContent = field.name;
  const sizes = field.shape?.map((size) => size ?? "any").join(" × ");
  label.querySelector(".dtype").textContent = sizes ? `${field.dtype}, ${sizes}` : field.dtype;
  label.after(element);
  if (field.choices.length) {
    const list = document.createElement("datalist");
    list.id = `choices-${index}`;
    list.append(...field.choices.map((choice) => new Option(choice, choice)));
    element.setAttribute("list", list.id);
    element.after(list);
  }
  const error = part.querySelector(".error");
  error.id = `error-${index}`;
  return { field, element, error, part };
}

/** The JSON of what stands in an input; undefined if the request leaves it out. */
function toJson(field, text) {
  if (field.kind === "text") return text || !field.optional ? visible(JSON.stringify(text)) : undefined;
  text = text.trim();
  if (!text && field.optional) return undefined;
  if (field.kind === "integer") {
    if (!/^[+-]?\d+$/.test(text)) throw new Error("A whole number is needed.");
    return BigInt(text.replace("+", "")).toString();
  }
  if (field.kind === "float") {
    if (!text || text === "NaN") return "NaN";
    if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) return String(Number(text));
    if (/^-?Infinity$/.test(text)) return text;
    throw new Error("A number is needed, such as 0.5, or nothing.");
  }
  if (field.kind === "boolean") return text;
  let value;
  try {
    value = parse(text);
  } catch {
    throw new Error("A list as JSON has it is needed, such as [0.5, 1].");
  }
  if (field.shape && !fits(value, field.shape)) {
    throw new Error(`A list of ${field.shape.map((size) => size ?? "any number of").join(" × ")} values is needed.`);
  }
  return visible(text.replace(/\s+/g, " "));
}

function fits(value, [size, ...sizes]) {
  if (size === undefined) return !Array.isArray(value) && value !== null && typeof value !== "object";
  return (
    Array.isArray(value) &&
    (size === null || value.length === size) &&
    value.every((element) => fits(element, sizes))
  );
}

/**
 * The body of the request; null if a value cannot be sent, with the first such input.
 * Only if it complains does an input get a message; one that has a message loses it when mended.
 */
function readBody(complain) {
  const members = [];
  let first = null;
  for (const { field, element, error } of chosen.inputs) {
    let message = "";
    try {
      const json = toJson(field, element.value);
      if (json !== undefined) members.push(`${visible(JSON.stringify(field.name))}: ${json}`);
    } catch (problem) {
      message = problem.message;
      first ??= element;
    }
    if (message && !complain && error.hidden) continue;
    error.textContent = message;
    error.hidden = !message;
    if (message) {
      element.setAttribute("aria-invalid", "true");
      element.setAttribute("aria-describedby", error.id);
    } else {
      element.removeAttribute("aria-invalid");
      element.removeAttribute("aria-describedby");
    }
  }
  const signature = visible(JSON.stringify(chosen.form.signature));
  const body = `{"signature_name": ${signature}, "instances": [{${members.join(", ")}}]}`;
  return { body: first ? null : body, first };
}

// Answers.

/** Shows what belongs to the values in the form before they are sent. */
function showAnswers() {
  predictions += 1;
  at("prediction").replaceChildren(hint("Press Predict."));
  at("explanation-part").hidden = true;
  if (!chosen?.form.signature) return;
  const { body } = readBody(false);
  at("request").textContent = body ? curl(body) : "An input has a value that cannot be sent.";
  at("copy").hidden = !body || !navigator.clipboard;
  at("request-hint").hidden = !token;
}

async function predict() {
  showAnswers();
  const { body, first } = readBody(true);
  if (first) return first.focus();
  const mine = predictions;
  at("prediction").replaceChildren(hint("…"));
  let best;
  try {
    const content = await send(pathOf(chosen, "predict"), body);
    if (mine !== predictions) return;
    best = showPrediction(content.predictions[0]);
    at("prediction").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (mine === predictions) failIn("prediction", error);
    return;
  }
  if (explains) await explain(body, best, mine);
}

async function explain(body, best, mine) {
  try {
    const content = await send(pathOf(chosen, "explain"), body);
    if (mine !== predictions) return;
    showExplanation(content.explanations[0], best);
  } catch (error) {
    if (mine !== predictions) return;
    // Servers that have no such method, as TensorFlow Serving, say that the request is malformed.
    explains = ![404, 405, 501].includes(error.status) && !/^Malformed request/.test(error.message);
    if (!explains) return;
    failIn("explanation", error);
  }
  at("explanation-part").hidden = false;
}

/** Shows the prediction of a row, and returns the number of the class that it speaks of. */
function showPrediction(row) {
  const { task, classes } = chosen.form;
  const values = Array.isArray(row) ? row : [row];
  const single = values.length === 1 && typeof values[0] !== "object";
  let best = 0;
  let parts;
  if (single && values[0] === "NaN") {
    parts = [answer("NaN"), hint("The model gives no number for these values.")];
  } else if (task === "binary" && single) {
    const names = classes.length === 2 ? classes : ["the other class", "the positive class"];
    parts = [answer(percent(values[0])), about("probability of ", names[1])];
    if (typeof values[0] === "number") parts.push(shares(names, [1 - values[0], values[0]]));
  } else if (task === "multiclass" && values.every((value) => typeof value === "number")) {
    best = values.indexOf(Math.max(...values));
    const names = values.map((_, index) => classes[index] ?? `class ${index}`);
    parts = [answer(names[best]), hint(`with a probability of ${percent(values[best])}`), shares(names, values)];
  } else if (single) {
    parts = [answer(decimal(values[0], 6))];
  } else {
    parts = [outputs(row)];
  }
  at("prediction").replaceChildren(...parts);
  return best;
}

function showExplanation(explanation, best) {
  const pick = (value) => (Array.isArray(value) ? value[best] : value); // By output, or of the one.
  const size = (value) => (typeof value === "number" ? Math.abs(value) : -1);
  const effects = Object.entries(explanation.shap_values ?? explanation.values)
    .map(([name, value]) => [name, pick(value)])
    .sort(([, one], [, other]) => size(other) - size(one));
  const largest = Math.max(...effects.map(([, value]) => size(value)), Number.MIN_VALUE);
  const given = new Map(chosen.inputs.map(({ field, element }) => [field.name, element.value]));
  const parts = [...at("effects-template").content.cloneNode(true).children];
  const base = decimal(pick(explanation.base_values ?? explanation.base_value), 4);
  parts[0].textContent = `How far each input moves the prediction from ${base}, what it is on average.`;
  const rows = effects.map(([name, value]) => {
    const row = copyOf("effect-template");
    row.querySelector("bdi").textContent = name;
    row.querySelector(".given").textContent = short(given.get(name) ?? "");
    const bar = row.querySelector(".bar");
    const width = (50 * Math.max(size(value), 0)) / largest;
    bar.style.width = `${width}%`;
    bar.style.left = `${value < 0 ? 50 - width : 50}%`;
    bar.classList.toggle("down", value < 0);
    row.lastElementChild.textContent = effect(value, largest);
    return row;
  });
  const body = parts[1].tBodies[0];
  body.append(...rows.slice(0, MOST_EFFECTS));
  if (rows.length > MOST_EFFECTS) {
    const more = document.createElement("button");
    more.type = "button";
    more.className = "quiet more";
    more.textContent = `Show all ${rows.length}`;
    more.addEventListener("click", () => {
      body.append(...rows.slice(MOST_EFFECTS));
      more.remove();
    });
    parts.push(more);
  }
  at("explanation").replaceChildren(...parts);
}

function shares(names, values) {
  const list = document.createElement("ul");
  list.className = "shares";
  const order = values.map((value, index) => index);
  if (order.length > MOST_SHARES) order.sort((one, other) => values[other] - values[one]);
  for (const index of order.slice(0, MOST_SHARES)) {
    const item = copyOf("share-template");
    item.querySelector("bdi").textContent = names[index];
    item.querySelector(".bar").style.width = `${100 * Math.min(1, Math.max(0, values[index]))}%`;
    item.querySelector(".share").textContent = percent(values[index]);
    list.append(item);
  }
  return list;
}

function outputs(row) {
  const list = document.createElement("dl");
  list.className = "outputs";
  const named = row && typeof row === "object" && !Array.isArray(row) ? row : { prediction: row };
  for (const [name, value] of Object.entries(named)) {
    const [term, text] = ["dt", "dd"].map((tag) => list.appendChild(document.createElement(tag)));
    term.textContent = name;
    text.textContent = typeof value === "object" ? JSON.stringify(value) : String(value);
  }
  return list;
}

// Text.

function paragraph(className, ...content) {
  const part = document.createElement("p");
  part.className = className;
  part.append(...content); // Strings become text.
  return part;
}

const hint = (text) => paragraph("hint", text);
const answer = (text) => paragraph("answer", text);

function about(before, name) {
  const isolated = document.createElement("bdi");
  isolated.textContent = name;
  return paragraph("hint", before, isolated);
}

function decimal(value, digits) {
  if (typeof value !== "number") return String(value);
  const large = Math.abs(value) >= 1e15 || (value !== 0 && Math.abs(value) < 1e-6);
  return value.toLocaleString("en", {
    maximumSignificantDigits: digits,
    notation: large ? "scientific" : "standard",
  });
}

/** An effect with its sign, and as many digits behind the point as the largest one needs. */
function effect(value, largest) {
  if (typeof value !== "number") return String(value);
  const fractionDigits = Math.min(12, Math.max(0, 2 - Math.floor(Math.log10(largest))));
  return value.toLocaleString("en", {
    minimumFractionDigits: fractionDigits,
    maximumFractionDigits: fractionDigits,
    signDisplay: "exceptZero",
  });
}

function percent(value) {
  return typeof value === "number" ? `${decimal(100 * value, value > 0.1 ? 3 : 2)}%` : String(value);
}

const short = (text) => (text.length > 40 ? `${text.slice(0, 40)}…` : text);

// Failures.

function say(message) {
  at("notice").textContent = message;
  at("notice").hidden = !message;
}

function fail(error) {
  if (error.status !== 401) return say(error.message);
  const wrong = token !== "";
  token = "";
  forget();
  at("models").replaceChildren();
  at("playground").hidden = at("refresh").hidden = true;
  at("token-form").hidden = false;
  say(wrong ? "The server does not know this token." : "");
  at("token").focus();
}

function failIn(id, error) {
  if (error.status === 401) return fail(error);
  at(id).replaceChildren(paragraph("error", error.message));
}

function forget() {
  chosen = null;
  looks += 1;
  predictions += 1;
  at("form-part").hidden = at("answers").hidden = true;
  for (const id of ["fields", "prediction", "explanation", "request", "form-model", "form-version"]) {
    at(id).replaceChildren();
  }
}

// What the user does.

at("refresh").addEventListener("click", load);
at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = at("token").value.trim();
  at("token").value = "";
  if (!/^[\x21-\x7e]*$/.test(token)) {
    token = "";
    return say("A token has letters, digits and signs alone, no spaces.");
  }
  load();
});
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});
at("form").addEventListener("reset", () => setTimeout(showAnswers));
at("fields").addEventListener("input", showAnswers);
at("filter").addEventListener("input", () => {
  const wanted = at("filter").value.toLowerCase();
  for (const { field, part } of chosen.inputs) part.hidden = !field.name.toLowerCase().includes(wanted);
});
at("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(at("request").textContent);
  at("copy").textContent = "Copied";
  setTimeout(() => (at("copy").textContent = "Copy"), 2000);
});
load();
