// Runs a pushed model.tflite with LiteRT.js, in a browser or in Node.
import { loadLiteRt } from "@litertjs/core";

const SIGNATURE = "raw_features";

// The types of raw features, by LiteRT's number: which values they take, what stands for an absent
// one (an integer cannot be absent), and their bytes in a tensor.
const TYPES = {
  1: {
    name: "a number",
    takes: (value) => typeof value === "number",
    absent: NaN,
    pack: (values) => new Uint8Array(Float32Array.from(values).buffer),
  },
  4: {
    name: "an integer",
    takes: Number.isSafeInteger,
    pack: (values) => new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
  },
  5: {
    name: "a string",
    takes: (value) => typeof value === "string",
    absent: "",
    pack: packStrings,
  },
};

// LiteRT.js reports that a model did not run by such a line alone.
const errors = [];

let runtime;

// Loads a model from its bytes; `wasm` is where the folder node_modules/@litertjs/core/wasm/ is.
export async function loadModel(content, wasm) {
  globalThis.Module = { printErr: (line) => line.startsWith("ERROR") && errors.push(line) };
  runtime ??= loadLiteRt(wasm);
  return new Model(await runtime, content);
}

// LiteRT.js's class Tensor has neither strings nor 64-bit integers, so tensors are made by the
// functions that it is made of.
class Model {
  constructor(runtime, content) {
    this.litert = runtime.liteRtWasm;
    this.environment = runtime.getDefaultEnvironment().liteRtEnvironment;
    const place = this.litert._malloc(content.length);
    this.litert.HEAPU8.set(content, place);
    const model = this.litert.loadModel(this.environment, place, content.length);
    const keys = Array.from({ length: model.getNumSignatures() }, (_, i) => model.getSignature(i).key());
    this.index = keys.indexOf(SIGNATURE);
    if (this.index < 0) throw new Error(`the model has no signature ${SIGNATURE}`);
    const signature = model.getSignature(this.index);
    this.outputs = list(signature.outputNames());
    this.inputs = list(signature.inputNames()).map((name, i) => {
      const type = model.getInputTensorType(this.index, i);
      const shape = list(type.layout().dimensions()).slice(1);
      return { name, shape, kind: TYPES[type.elementType().value], type: this.rowType(type, shape) };
    });
    const options = { accelerator: "wasm", cpuOptions: { numThreads: 1 } };
    this.compiled = this.litert.compileModel(this.environment, model, options);
  }

  // Predicts rows, each an object of the raw features; what it lacks, or is null, is absent.
  async predict(rows) {
    const predictions = [];
    for (const [number, row] of rows.entries()) {
      try {
        predictions.push(await this.predictRow(row));
      } catch (error) {
        throw new Error(`row ${number}: ${error.message}`);
      }
    }
    return predictions;
  }

  // One at a time: LiteRT.js has room for the prediction of one row.
  async predictRow(row) {
    const unknown = Object.keys(row).filter((key) => !this.inputs.some(({ name }) => name === key));
    if (unknown.length) throw new Error(`the model has no feature ${unknown}`);
    const inputs = this.inputs.map((input) => this.tensor(input, row[input.name]));
    errors.length = 0;
    const outputs = await (await this.compiled).run(this.index, inputs);
    if (errors.length) throw new Error(`the model did not run: ${errors.join("; ")}`);
    const entries = outputs.map((output, i) => [this.outputs[i], this.numbers(output)]);
    [...inputs, ...outputs].forEach((tensor) => tensor.delete());
    return Object.fromEntries(entries);
  }

  // The type of a tensor of one row.
  rowType(type, shape) {
    const dimensions = new this.litert.VectorInt32();
    [1, ...shape].forEach((size) => dimensions.push_back(size));
    const layout = this.litert.LiteRtLayout.create(dimensions);
    return this.litert.LiteRtRankedTensorType.create(type.elementType(), layout);
  }

  // A value, or the values of a vector, as a tensor.
  tensor({ name, shape, kind, type }, value) {
    const width = shape.reduce((product, size) => product * size, 1);
    const absent = value === undefined || value === null;
    const flat = absent ? Array(width).fill(kind.absent) : [value].flat(Infinity);
    if (flat.length !== width || !flat.every(kind.takes)) {
      throw new Error(`${name} has to be ${kind.name}, shape [${shape}], not ${JSON.stringify(value)}`);
    }
    const bytes = kind.pack(flat);
    const { LiteRtTensorBuffer, LiteRtTensorBufferType, LiteRtTensorBufferLockMode } = this.litert;
    const place = LiteRtTensorBufferType.HOST_MEMORY;
    const tensor = LiteRtTensorBuffer.createManaged(this.environment, place, type, bytes.length);
    this.litert.HEAPU8.set(bytes, tensor.lock(LiteRtTensorBufferLockMode.WRITE));
    tensor.unlock();
    return tensor;
  }

  // The float32 values of a tensor.
  numbers(tensor) {
    const start = tensor.lock(this.litert.LiteRtTensorBufferLockMode.READ);
    const bytes = this.litert.HEAPU8.slice(start, start + tensor.packedSize());
    tensor.unlock();
    return [...new Float32Array(bytes.buffer)];
  }
}

// TFLite's layout of strings, in int32: their number, where each begins, where the last one ends;
// then their bytes.
function packStrings(strings) {
  const encoded = strings.map((text) => new TextEncoder().encode(text));
  const header = new Int32Array(strings.length + 2);
  header[0] = strings.length;
  header[1] = header.byteLength;
  encoded.forEach((bytes, i) => (header[i + 2] = header[i + 1] + bytes.length));
  const packed = new Uint8Array(header[header.length - 1]);
  packed.set(new Uint8Array(header.buffer));
  encoded.forEach((bytes, i) => packed.set(bytes, header[i + 1]));
  return packed;
}

function list(vector) {
  return Array.from({ length: vector.size() }, (_, i) => vector.get(i));
}
