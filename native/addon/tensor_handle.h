// JavaScript's hold on a tensor: an external value that the garbage collector may free, whose bytes V8 knows
// of.
#pragma once

#include <napi.h>

#include "core/tensor.h"

namespace softmoe::addon {

class TensorHandle {
 public:
  static Napi::Value wrap(Napi::Env env, const Tensor& tensor) {
    auto* handle = new TensorHandle(tensor);
    Napi::MemoryManagement::AdjustExternalMemory(env, handle->reported_);
    return Napi::External<TensorHandle>::New(env, handle, [](Napi::BasicEnv basic_env, TensorHandle* owned) {
      owned->dispose(basic_env);
      delete owned;
    });
  }

  static TensorHandle* unwrap(const Napi::Value& value) {
    return value.IsExternal() ? value.As<Napi::External<TensorHandle>>().Data() : nullptr;
  }

  // Absent after dispose().
  const Tensor& tensor() const { return tensor_; }

  void dispose(Napi::BasicEnv env) {
    if (!tensor_) return;
    tensor_ = Tensor();
    Napi::MemoryManagement::AdjustExternalMemory(env, -reported_);
    reported_ = 0;
  }

 private:
  explicit TensorHandle(const Tensor& tensor)
      : tensor_(tensor), reported_(static_cast<std::int64_t>(tensor.bytes())) {}

  Tensor tensor_;
  std::int64_t reported_;
};

}  // namespace softmoe::addon
