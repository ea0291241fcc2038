#include "ops/check.h"

#include <cmath>

namespace softmoe::ops {

namespace {

std::string wanted_text(std::initializer_list<std::int64_t> wanted) {
  std::string text = "[";
  for (const std::int64_t extent : wanted) {
    if (text.size() > 1) text += ", ";
    text += extent == Check::kAny ? "any" : std::to_string(extent);
  }
  return text + "]";
}

}  // namespace

void Check::fail(const char* code, const std::string& message) const {
  throw Error(code, std::string(operation_) + ": " + message);
}

void Check::same_device(std::initializer_list<const Tensor*> tensors) const {
  const Device* first = nullptr;
  for (const Tensor* tensor : tensors) {
    if (tensor == nullptr) continue;
    const Device* device = tensor->device().get();
    if (first == nullptr) first = device;
    if (device != first) {
      fail("ERR_DEVICE", "tensors of two devices (" + first->kind() + ":" + std::to_string(first->index()) +
                             " and " + device->kind() + ":" + std::to_string(device->index()) +
                             ") in one operation; create them all on the same device");
    }
  }
}

void Check::shape(const char* name, const Tensor& tensor, std::initializer_list<std::int64_t> wanted,
                  const char* meaning) const {
  bool same = tensor.shape().rank() == static_cast<int>(wanted.size());
  int axis = 0;
  for (const std::int64_t extent : wanted) {
    if (same && extent != kAny && tensor.shape()[axis] != extent) same = false;
    ++axis;
  }
  if (!same) {
    fail("ERR_SHAPE", std::string(name) + " has shape " + tensor.shape().text() + "; wanted " +
                          wanted_text(wanted) + " = " + meaning);
  }
}

void Check::same_shape(const char* name, const Tensor& tensor, const char* other_name,
                       const Tensor& other) const {
  if (tensor.shape() != other.shape()) {
    fail("ERR_SHAPE", std::string(name) + " has shape " + tensor.shape().text() + ", but " + other_name +
                          " has shape " + other.shape().text() + "; they must be the same");
  }
}

void Check::rank(const char* name, const Tensor& tensor, int rank, const char* meaning) const {
  if (tensor.shape().rank() != rank) {
    fail("ERR_SHAPE", std::string(name) + " has shape " + tensor.shape().text() + "; wanted rank " +
                          std::to_string(rank) + ", " + meaning);
  }
}

void Check::min_rank(const char* name, const Tensor& tensor, int rank, const char* meaning) const {
  if (tensor.shape().rank() < rank) {
    fail("ERR_SHAPE", std::string(name) + " has shape " + tensor.shape().text() + "; wanted at least rank " +
                          std::to_string(rank) + ", " + meaning);
  }
}

void Check::dtype(const char* name, const Tensor& tensor, DType wanted) const {
  if (tensor.dtype() != wanted) {
    fail("ERR_DTYPE", std::string(name) + " is " + name_of(tensor.dtype()) + "; wanted " + name_of(wanted) +
                          ": convert it with cast()");
  }
}

void Check::floating(const char* name, const Tensor& tensor) const {
  if (tensor.dtype() == DType::kInt32) {
    fail("ERR_DTYPE", std::string(name) + " is int32; wanted float32 or bfloat16: convert it with cast()");
  }
}

void Check::same_dtype(const char* name, const Tensor& tensor, const char* other_name,
                       const Tensor& other) const {
  if (tensor.dtype() != other.dtype()) {
    fail("ERR_DTYPE", std::string(name) + " is " + name_of(tensor.dtype()) + ", but " + other_name + " is " +
                          name_of(other.dtype()) + "; convert one of them with cast()");
  }
}

void Check::that(bool condition, const std::string& message) const {
  if (!condition) fail("ERR_INVALID_ARGUMENT", message);
}

void Check::finite(const char* name, double value) const {
  that(std::isfinite(value), std::string(name) + " is " + std::to_string(value) + "; wanted a finite number");
}

void Check::probability(const char* name, double value) const {
  that(value >= 0 && value < 1,
       std::string(name) + " is " + std::to_string(value) + "; wanted 0 <= " + name + " < 1");
}

}  // namespace softmoe::ops
