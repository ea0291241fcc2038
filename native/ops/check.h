// Checks of operands. Every message says which operand of which operation, what was given and what was
// wanted.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>

#include "core/tensor.h"

namespace softmoe::ops {

class Check {
 public:
  explicit Check(const char* operation) : operation_(operation) {}

  // All given tensors must live on one device.
  void same_device(std::initializer_list<const Tensor*> tensors) const;
  // `wanted` uses kAny for an extent that is free; `meaning` names the axes, like "[in, out]".
  void shape(const char* name, const Tensor& tensor, std::initializer_list<std::int64_t> wanted,
             const char* meaning) const;
  void same_shape(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) const;
  void rank(const char* name, const Tensor& tensor, int rank, const char* meaning) const;
  void min_rank(const char* name, const Tensor& tensor, int rank, const char* meaning) const;
  void dtype(const char* name, const Tensor& tensor, DType wanted) const;
  void floating(const char* name, const Tensor& tensor) const;
  void same_dtype(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) const;
  // Throws ERR_INVALID_ARGUMENT with "operation: message" unless `condition`.
  void that(bool condition, const std::string& message) const;
  void finite(const char* name, double value) const;
  void probability(const char* name, double value) const;

  static constexpr std::int64_t kAny = -1;

 private:
  [[noreturn]] void fail(const char* code, const std::string& message) const;

  const char* operation_;
};

inline const Tensor* pointer(const std::optional<Tensor>& tensor) { return tensor ? &*tensor : nullptr; }
inline Buffer buffer(const std::optional<Tensor>& tensor) { return tensor ? tensor->buffer() : Buffer{}; }

}  // namespace softmoe::ops
