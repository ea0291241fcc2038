// Element types of tensors and the untyped views that kernels receive.
#pragma once

#include <cstddef>
#include <cstdint>

namespace softmoe {

enum class DType : std::uint8_t { kFloat32, kBFloat16, kInt32 };

constexpr std::size_t size_of(DType dtype) { return dtype == DType::kBFloat16 ? 2 : 4; }

constexpr const char* name_of(DType dtype) {
  return dtype == DType::kFloat32 ? "float32" : dtype == DType::kBFloat16 ? "bfloat16" : "int32";
}

// A device pointer with its element type. Null stands for an optional operand that is absent.
struct Buffer {
  void* data = nullptr;
  DType dtype = DType::kFloat32;

  explicit operator bool() const { return data != nullptr; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace softmoe
