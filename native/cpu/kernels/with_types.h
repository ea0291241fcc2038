// From the element type of a buffer to a C++ type.
#pragma once

#include "core/dtype.h"
#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {

// Calls body with a null pointer of the buffer's element type: float or BFloat16.
template <class Body>
inline void with_type(const Buffer& buffer, const Body& body) {
  if (buffer.dtype == DType::kBFloat16) {
    body(static_cast<BFloat16*>(nullptr));
  } else {
    body(static_cast<float*>(nullptr));
  }
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
