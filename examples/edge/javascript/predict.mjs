// Predicts rows with a pushed model.tflite in Node:
//   node predict.mjs model.tflite rows.json
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { runInThisContext } from "node:vm";

// LiteRT.js is made for browsers: what it expects of one.
const require = createRequire(import.meta.url);
const wasm = `${dirname(require.resolve("@litertjs/core"))}/../wasm/`;
Object.assign(globalThis, {
  self: globalThis,
  require,
  __dirname: wasm,
  __filename: wasm,
  importScripts: (path) => runInThisContext(readFileSync(path, "utf8"), { filename: path }),
});
const { loadModel } = await import("./model.js");

const [path, rows] = process.argv.slice(2);
try {
  const model = await loadModel(readFileSync(path), wasm);
  console.log(JSON.stringify(await model.predict(JSON.parse(readFileSync(rows, "utf8")))));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
