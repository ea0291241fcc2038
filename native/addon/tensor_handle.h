// JavaScript's hold on a tensor: an external value that the garbage collector may free, whose bytes V8 knows
// of.
#pragma once

#include <napi.h>

#include "addon/reported_memory.h"
#include "core/tensor.h"

namespace softmoe::addon {

class TensorHandle {
 public:
  static Napi::Value wrap(Napi::Env env, const Tensor& tensor) {
    auto* handle = new TensorHandle(tensor);
    ReportedMemory::of_thread().took(env, tensor.bytes());
    return Napi::External<TensorHandle>::New(env, handle, [](Napi::BasicEnv basic_env, TensorHandle* owned) {
      if (owned->tensor_) ReportedMemory::of_thread().collected(basic_env, owned->tensor_.bytes());
      delete owned;
    });
  }

  static TensorHandle* unwrap(const Napi::Value& value) {
    return value.IsExternal() ? value.As<Napi::External<TensorHandle>>().Data() : nullptr;
  }

  // Absent after dispose().
  const Tensor& tensor() const { return tensor_; }

  void dispose() {
    if (!tensor_) return;
    ReportedMemory::of_thread().disposed(tensor_.bytes());
    tensor_ = Tensor();
  }

 private:
  explicit TensorHandle(const Tensor& tensor) : tensor_(tensor) {}

  Tensor tensor_;
};

}  // namespace softmoe::addon
