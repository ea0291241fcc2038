// A float32 or bfloat16 array whose type is known at run time: kernels bound by memory take their operands
// so, instead of one instantiation for each combination of types.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace softmoe::cuda {

struct AnyFloats {
  void* data;        // null: absent
  bool is_bfloat16;  // else float32
  bool aligned;      // the base is a multiple of four elements
};

inline AnyFloats any_floats(const Buffer& buffer) {
  const auto address = reinterpret_cast<std::uintptr_t>(buffer.data);
  return {buffer.data, buffer.dtype == DType::kBFloat16, address % (4 * size_of(buffer.dtype)) == 0};
}

}  // namespace softmoe::cuda
