// NVIDIA's own batched matrix product, for comparison: cuBLASLt, opened at run time where it is installed.
#pragma once

#include <cstdint>
#include <memory>

#include "cuda/driver.h"

namespace softmoe::bench {

// c [batches, rows, columns] = a [batches, rows, depth] b [batches, depth, columns], all row-major bfloat16,
// summed in float32.
struct BatchedProduct {
  std::int64_t batches, rows, depth, columns;
  const void* a;
  const void* b;
  void* c;
};

class CublasLt {
 public:
  // Null when the library is not there. The caller's context is current, here and below.
  static std::unique_ptr<CublasLt> open();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // Microseconds of one product by the library's first choice of algorithm, the mean of `repetitions`. Throws
  // softmoe::Error.
  double time(const BatchedProduct& product, int repetitions);

 private:
  struct Functions;
  explicit CublasLt(std::unique_ptr<Functions> functions);

  std::unique_ptr<Functions> functions_;
  void* handle_ = nullptr;
};

}  // namespace softmoe::bench
