// Predicts rows with a pushed model.tflite, by TensorFlow Lite's C API:
//   predict model.tflite rows.json
#include <cmath>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "tflite.h"

using nlohmann::json;

constexpr char kSignature[] = "raw_features";

void Check(bool fine, const std::string& otherwise) {
  if (!fine) throw std::runtime_error(otherwise);
}

// Appends a value, or the values of a vector, to a list.
void Flatten(const json& value, std::vector<json>& values) {
  if (!value.is_array()) return values.push_back(value);
  for (const json& part : value) Flatten(part, values);
}

class Model {
 public:
  explicit Model(const std::string& path)
      : model_(TfLiteModelCreateFromFile(path.c_str()), TfLiteModelDelete),
        interpreter_(model_ ? TfLiteInterpreterCreate(model_.get(), nullptr) : nullptr,
                     TfLiteInterpreterDelete),
        runner_(interpreter_ ? TfLiteInterpreterGetSignatureRunner(interpreter_.get(), kSignature)
                             : nullptr,
                TfLiteSignatureRunnerDelete) {
    Check(runner_ != nullptr, path + " is no TFLite model with the signature " + kSignature);
    Check(TfLiteSignatureRunnerAllocateTensors(runner_.get()) == kTfLiteOk, "no room for tensors");
    for (size_t i = 0; i < TfLiteSignatureRunnerGetInputCount(runner_.get()); ++i) {
      names_.insert(TfLiteSignatureRunnerGetInputName(runner_.get(), i));
    }
  }

  // Predicts a row, an object of the raw features; what it lacks, or is null, is absent.
  json Predict(const json& row) {
    for (const auto& [name, value] : row.items()) {
      Check(names_.count(name), "the model has no feature " + name);
    }
    for (const std::string& name : names_) Set(name, row.value(name, json()));
    Check(TfLiteSignatureRunnerInvoke(runner_.get()) == kTfLiteOk, "the model did not run");
    json prediction;
    for (size_t i = 0; i < TfLiteSignatureRunnerGetOutputCount(runner_.get()); ++i) {
      const char* name = TfLiteSignatureRunnerGetOutputName(runner_.get(), i);
      const TfLiteTensor* tensor = TfLiteSignatureRunnerGetOutputTensor(runner_.get(), name);
      std::vector<float> values(TfLiteTensorByteSize(tensor) / sizeof(float));
      TfLiteTensorCopyToBuffer(tensor, values.data(), values.size() * sizeof(float));
      prediction[name] = values;
    }
    return prediction;
  }

 private:
  // Copies a value, or the values of a vector, into an input.
  void Set(const std::string& name, const json& value) {
    TfLiteTensor* tensor = TfLiteSignatureRunnerGetInputTensor(runner_.get(), name.c_str());
    size_t width = 1;
    for (int i = 1; i < TfLiteTensorNumDims(tensor); ++i) width *= TfLiteTensorDim(tensor, i);
    std::vector<json> values;
    if (!value.is_null()) Flatten(value, values);
    Check(value.is_null() || values.size() == width, name + " has the wrong number of values");
    switch (TfLiteTensorType(tensor)) {
      case kTfLiteFloat32: {
        std::vector<float> numbers(width, NAN);  // Absent is NaN.
        for (size_t i = 0; i < values.size(); ++i) {
          Check(values[i].is_number(), name + " has to be a number");
          numbers[i] = values[i].get<float>();
        }
        return Copy(numbers.data(), width * sizeof(float), tensor);
      }
      case kTfLiteInt64: {
        std::vector<int64_t> numbers;  // An integer cannot be absent.
        for (const json& each : values) {
          Check(each.is_number_integer(), name + " has to be an integer");
          numbers.push_back(each.get<int64_t>());
        }
        Check(numbers.size() == width, name + " has to be an integer, and is absent");
        return Copy(numbers.data(), width * sizeof(int64_t), tensor);
      }
      case kTfLiteString: {
        std::vector<std::string> strings(width);  // Absent is empty.
        for (size_t i = 0; i < values.size(); ++i) {
          Check(values[i].is_string(), name + " has to be a string");
          strings[i] = values[i].get<std::string>();
        }
        std::vector<const char*> starts;
        std::vector<int> lengths;
        for (const std::string& each : strings) {
          starts.push_back(each.data());
          lengths.push_back(each.size());
        }
        auto* opaque = reinterpret_cast<TfLiteOpaqueTensor*>(tensor);
        TfLiteOpaqueTensorWriteStrings(opaque, starts.data(), width, lengths.data());
        return;
      }
      default:
        Check(false, name + " has a type that no raw feature has");
    }
  }

  static void Copy(const void* data, size_t bytes, TfLiteTensor* tensor) {
    Check(TfLiteTensorCopyFromBuffer(tensor, data, bytes) == kTfLiteOk, "a tensor's size differs");
  }

  std::unique_ptr<TfLiteModel, decltype(&TfLiteModelDelete)> model_;
  std::unique_ptr<TfLiteInterpreter, decltype(&TfLiteInterpreterDelete)> interpreter_;
  std::unique_ptr<TfLiteSignatureRunner, decltype(&TfLiteSignatureRunnerDelete)> runner_;
  std::set<std::string> names_;
};

int main(int argc, char** argv) {
  std::string where;
  try {
    Check(argc == 3, "call it as: predict model.tflite rows.json");
    Model model(argv[1]);
    json predictions = json::array();
    for (const json& row : json::parse(std::ifstream(argv[2]))) {
      where = "row " + std::to_string(predictions.size()) + ": ";
      predictions.push_back(model.Predict(row));
    }
    std::cout << predictions << std::endl;
  } catch (const std::exception& error) {
    std::cerr << where << error.what() << std::endl;
    return 1;
  }
}
