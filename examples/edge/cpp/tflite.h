// What predict.cc calls of TensorFlow Lite's C API, which is the same on every platform. Packages
// with the library bring few of its headers; where all are at hand, include these instead:
// tensorflow/lite/c/c_api.h and tensorflow/lite/c/c_api_opaque.h.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
struct TfLiteModel;
struct TfLiteInterpreter;
struct TfLiteInterpreterOptions;
struct TfLiteSignatureRunner;
struct TfLiteTensor;
struct TfLiteOpaqueTensor;  // A TfLiteTensor.

enum TfLiteStatus { kTfLiteOk = 0 };
enum TfLiteType { kTfLiteFloat32 = 1, kTfLiteInt64 = 4, kTfLiteString = 5 };

TfLiteModel* TfLiteModelCreateFromFile(const char* path);
void TfLiteModelDelete(TfLiteModel*);
TfLiteInterpreter* TfLiteInterpreterCreate(const TfLiteModel*, const TfLiteInterpreterOptions*);
void TfLiteInterpreterDelete(TfLiteInterpreter*);

TfLiteSignatureRunner* TfLiteInterpreterGetSignatureRunner(TfLiteInterpreter*, const char* key);
void TfLiteSignatureRunnerDelete(TfLiteSignatureRunner*);
size_t TfLiteSignatureRunnerGetInputCount(const TfLiteSignatureRunner*);
const char* TfLiteSignatureRunnerGetInputName(const TfLiteSignatureRunner*, int32_t index);
TfLiteTensor* TfLiteSignatureRunnerGetInputTensor(TfLiteSignatureRunner*, const char* name);
TfLiteStatus TfLiteSignatureRunnerAllocateTensors(TfLiteSignatureRunner*);
TfLiteStatus TfLiteSignatureRunnerInvoke(TfLiteSignatureRunner*);
size_t TfLiteSignatureRunnerGetOutputCount(const TfLiteSignatureRunner*);
const char* TfLiteSignatureRunnerGetOutputName(const TfLiteSignatureRunner*, int32_t index);
const TfLiteTensor* TfLiteSignatureRunnerGetOutputTensor(const TfLiteSignatureRunner*, const char*);

TfLiteType TfLiteTensorType(const TfLiteTensor*);
size_t TfLiteTensorByteSize(const TfLiteTensor*);
int32_t TfLiteTensorNumDims(const TfLiteTensor*);
int32_t TfLiteTensorDim(const TfLiteTensor*, int32_t index);
TfLiteStatus TfLiteTensorCopyFromBuffer(TfLiteTensor*, const void* data, size_t bytes);
TfLiteStatus TfLiteTensorCopyToBuffer(const TfLiteTensor*, void* data, size_t bytes);
TfLiteStatus TfLiteOpaqueTensorWriteStrings(TfLiteOpaqueTensor*, const char* const* strings,
                                            int count, const int* lengths);
}
