// Predicts rows with a pushed model.tflite on the JVM:
//   java -cp 'lib/*' Predict.java model.tflite rows.json

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.bytedeco.tensorflowlite.global.tensorflowlite.*;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.tensorflowlite.TfLiteInterpreter;
import org.bytedeco.tensorflowlite.TfLiteInterpreterOptions;
import org.bytedeco.tensorflowlite.TfLiteModel;
import org.bytedeco.tensorflowlite.TfLiteSignatureRunner;
import org.bytedeco.tensorflowlite.TfLiteTensor;

final class Predict {
  private static final String SIGNATURE = "raw_features";

  private final TfLiteSignatureRunner runner;
  private final Set<String> names = new LinkedHashSet<>();

  /** Loads a model. It stays in memory as long as the program runs. */
  Predict(String path) {
    TfLiteModel model = TfLiteModelCreateFromFile(path);
    check(model != null, path + " is no TFLite model");
    TfLiteInterpreter interpreter = TfLiteInterpreterCreate(model, (TfLiteInterpreterOptions) null);
    runner = TfLiteInterpreterGetSignatureRunner(interpreter, SIGNATURE);
    check(runner != null, path + " has no signature " + SIGNATURE);
    check(TfLiteSignatureRunnerAllocateTensors(runner) == kTfLiteOk, "no room for tensors");
    for (int i = 0; i < TfLiteSignatureRunnerGetInputCount(runner); i++) {
      names.add(TfLiteSignatureRunnerGetInputName(runner, i).getString(UTF_8));
    }
  }

  /** Predicts a row, an object of the raw features; what it lacks, or is null, is absent. */
  JsonObject predict(JsonObject row) {
    for (String name : row.keySet()) {
      check(names.contains(name), "the model has no feature " + name);
    }
    for (String name : names) set(name, row.has(name) ? row.get(name) : JsonNull.INSTANCE);
    check(TfLiteSignatureRunnerInvoke(runner) == kTfLiteOk, "the model did not run");
    JsonObject prediction = new JsonObject();
    for (int i = 0; i < TfLiteSignatureRunnerGetOutputCount(runner); i++) {
      BytePointer name = TfLiteSignatureRunnerGetOutputName(runner, i);
      TfLiteTensor tensor = TfLiteSignatureRunnerGetOutputTensor(runner, name);
      float[] values = new float[(int) (tensor.bytes() / Float.BYTES)];
      new FloatPointer(tensor.data().f()).get(values);
      prediction.add(name.getString(UTF_8), new Gson().toJsonTree(values));
    }
    return prediction;
  }

  /** Copies a value, or the values of a vector, into an input. */
  private void set(String name, JsonElement value) {
    TfLiteTensor tensor = TfLiteSignatureRunnerGetInputTensor(runner, name);
    int width = 1;
    for (int i = 1; i < TfLiteTensorNumDims(tensor); i++) width *= TfLiteTensorDim(tensor, i);
    List<JsonElement> values = new ArrayList<>();
    if (value.isJsonNull()) {
      for (int i = 0; i < width; i++) values.add(value);
    } else {
      flatten(value, values);
    }
    check(values.size() == width, name + " has the wrong number of values");
    byte[] bytes;
    switch (TfLiteTensorType(tensor)) {
      case kTfLiteFloat32 -> bytes = floats(name, values);
      case kTfLiteInt64 -> bytes = longs(name, values);
      case kTfLiteString -> {
        bytes = strings(name, values);
        check(TfLiteTensorRealloc(bytes.length, tensor) == kTfLiteOk, "no room for strings");
      }
      default -> throw new IllegalArgumentException(name + " has a type that no raw feature has");
    }
    try (BytePointer pointer = new BytePointer(bytes)) {
      int status = TfLiteTensorCopyFromBuffer(tensor, pointer, bytes.length);
      check(status == kTfLiteOk, "the size of " + name + " differs");
    }
  }

  private static void flatten(JsonElement value, List<JsonElement> values) {
    if (value.isJsonArray()) {
      value.getAsJsonArray().forEach(part -> flatten(part, values));
    } else {
      values.add(value);
    }
  }

  /** Absent is NaN. */
  private static byte[] floats(String name, List<JsonElement> values) {
    ByteBuffer buffer = buffer(values.size() * Float.BYTES);
    for (JsonElement value : values) {
      check(value.isJsonNull() || isNumber(value), name + " has to be a number");
      buffer.putFloat(value.isJsonNull() ? Float.NaN : value.getAsFloat());
    }
    return buffer.array();
  }

  /** An integer cannot be absent. */
  private static byte[] longs(String name, List<JsonElement> values) {
    ByteBuffer buffer = buffer(values.size() * Long.BYTES);
    for (JsonElement value : values) {
      boolean whole = isNumber(value) && value.getAsBigDecimal().stripTrailingZeros().scale() <= 0;
      check(whole, name + " has to be an integer");
      buffer.putLong(value.getAsBigDecimal().longValueExact());
    }
    return buffer.array();
  }

  /**
   * Absent is empty. TFLite's layout: in 32 bits their number, where each begins and where the last
   * one ends, then their bytes.
   */
  private static byte[] strings(String name, List<JsonElement> values) {
    List<byte[]> encoded = new ArrayList<>();
    for (JsonElement value : values) {
      boolean isString = value.isJsonPrimitive() && value.getAsJsonPrimitive().isString();
      check(value.isJsonNull() || isString, name + " has to be a string");
      encoded.add(value.isJsonNull() ? new byte[0] : value.getAsString().getBytes(UTF_8));
    }
    int end = (encoded.size() + 2) * Integer.BYTES;
    ByteBuffer buffer = buffer(end + encoded.stream().mapToInt(each -> each.length).sum());
    buffer.putInt(encoded.size()).putInt(end);
    for (byte[] each : encoded) buffer.putInt(end += each.length);
    encoded.forEach(buffer::put);
    return buffer.array();
  }

  private static ByteBuffer buffer(int bytes) {
    return ByteBuffer.allocate(bytes).order(ByteOrder.nativeOrder());
  }

  private static boolean isNumber(JsonElement value) {
    return value.isJsonPrimitive() && value.getAsJsonPrimitive().isNumber();
  }

  private static void check(boolean fine, String otherwise) {
    if (!fine) throw new IllegalArgumentException(otherwise);
  }

  public static void main(String[] arguments) throws Exception {
    Predict model = new Predict(arguments[0]);
    JsonElement rows = JsonParser.parseString(Files.readString(Path.of(arguments[1])));
    JsonArray predictions = new JsonArray();
    for (JsonElement row : rows.getAsJsonArray()) {
      try {
        predictions.add(model.predict(row.getAsJsonObject()));
      } catch (IllegalArgumentException | IllegalStateException | ArithmeticException error) {
        System.err.println("row " + predictions.size() + ": " + error.getMessage());
        System.exit(1);
      }
    }
    System.out.println(predictions);
  }
}
