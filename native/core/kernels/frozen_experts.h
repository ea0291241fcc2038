// Experts whose weights were packed once, in the order in which the products of this device read them, for
// inference alone.
#pragma once

#include "core/kernels/experts.h"

namespace softmoe {

// How frozen weights are stored. float32 gives the bits of the plain experts; bfloat16 those of plain experts
// in bfloat16: the input and the hidden activations are rounded, too. int8: a scale for each output column,
// the largest magnitude over 127; each row of the input, and of the hidden activations, is brought to 8 bits
// with a scale and a zero point of its own, and the sums are whole numbers.
enum class WeightFormat : std::uint8_t { kFloat32, kBFloat16, kInt8 };

// Where the parts of frozen experts begin, in bytes. What is inside the weights is the kernels' own.
struct FrozenLayout {
  // Columns are padded to whole panels: a multiple of the panel of every instruction set of the architecture.
#if defined(__aarch64__)
  static constexpr std::int64_t kColumns = 24;
#else
  static constexpr std::int64_t kColumns = 32;
#endif
  // The depth is padded to this many bytes of a column: what the largest step of a product takes.
  static constexpr std::int64_t kDepthBytes = 64;

  struct Matrix {
    std::int64_t weights = 0, weights_of_expert = 0;
    std::int64_t biases = 0;  // float32 [experts, columns]
    std::int64_t scales = 0;  // int8: float32 [experts, columns]
    std::int64_t sums = 0;    // int8: int32 [experts, columns], of the weights of a column
  };
  Matrix first, second;
  std::int64_t bytes = 0;

  FrozenLayout(WeightFormat format, std::int64_t experts, std::int64_t dim, std::int64_t hidden,
               std::int64_t out) {
    first = append(format, experts, dim, hidden);
    second = append(format, experts, hidden, out);
  }

 private:
  static std::int64_t padded(std::int64_t size, std::int64_t unit) { return (size + unit - 1) / unit * unit; }
  std::int64_t take(std::int64_t size) {
    const std::int64_t begin = bytes;
    bytes += padded(size, 64);
    return begin;
  }
  Matrix append(WeightFormat format, std::int64_t experts, std::int64_t depth, std::int64_t columns) {
    const std::int64_t weight_bytes = format == WeightFormat::kFloat32    ? 4
                                      : format == WeightFormat::kBFloat16 ? 2
                                                                          : 1;
    Matrix matrix;
    matrix.weights_of_expert = padded(depth * weight_bytes, kDepthBytes) * padded(columns, kColumns);
    matrix.weights = take(experts * matrix.weights_of_expert);
    matrix.biases = take(experts * columns * 4);
    if (format == WeightFormat::kInt8) {
      matrix.scales = take(experts * columns * 4);
      matrix.sums = take(experts * columns * 4);
    }
    return matrix;
  }
};

// Packs w1 [E, dim, hidden], b1 [E, hidden], w2 [E, hidden, out], b2 [E, out], all float32, into `frozen`
// (FrozenLayout::bytes).
struct FreezeExperts {
  static constexpr const char* kName = "freeze_experts";
  Buffer w1, b1, w2, b2, frozen;
  std::int64_t num_experts = 0, dim = 0, hidden = 0, out = 0;
  WeightFormat format = WeightFormat::kFloat32;
};

// ExpertsForward without dropout, with frozen weights. x [rows (or tokens when gathered), dim] and y
// [max_rows, out] share a dtype, whatever the format of the weights.
struct FrozenExpertsForward {
  static constexpr const char* kName = "frozen_experts";
  ExpertRows rows;
  Buffer x, frozen, y;
  std::int64_t dim = 0, hidden = 0, out = 0;
  Activation activation = Activation::kGeluTanh;
  WeightFormat format = WeightFormat::kFloat32;
};

}  // namespace softmoe
