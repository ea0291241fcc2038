// Elementwise, copying, reducing and random kernels.
#pragma once

#include "core/dtype.h"

namespace softmoe {

enum class Activation : std::uint8_t { kNone, kGeluTanh, kGeluErf, kTanh };

// Counter-based random numbers (Philox4x32-10): the key is `seed`, the counter of element i is
// (i / 4, stream), and element i takes word i % 4. Uniform: (word >> 8) * 2^-24. Normal: Box-Muller on the
// word pairs (0, 1) and (2, 3) with radius sqrt(-2 ln(((even >> 8) + 1) * 2^-24)) and angle 2 pi (odd >> 8) *
// 2^-24; even elements take the cosine, odd ones the sine.
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
};

// y[i] = value. Any dtype.
struct Fill {
  static constexpr const char* kName = "fill";
  Buffer y;
  std::int64_t count = 0;
  double value = 0;
};

// y[i] = x[i] in y's dtype (round to nearest even). Between any two dtypes.
struct Cast {
  static constexpr const char* kName = "cast";
  Buffer x, y;
  std::int64_t count = 0;
};

// y[i] = a[i] + alpha * b[i % period]. `y` may be `a`. float32 or bfloat16 each; computed in float32.
struct Add {
  static constexpr const char* kName = "add";
  Buffer a, b, y;
  std::int64_t count = 0, period = 0;
  double alpha = 1;
};

// y[i] = a[i] * b[i]. Same dtype.
struct Multiply {
  static constexpr const char* kName = "multiply";
  Buffer a, b, y;
  std::int64_t count = 0;
};

// y[i] = factor * x[i], or factor * device_factor[0] * x[i] when device_factor (float32) is given. Same
// dtype.
struct Scale {
  static constexpr const char* kName = "scale";
  Buffer x, y, device_factor;
  std::int64_t count = 0;
  double factor = 1;
};

// y[o * y_stride + i] = x[o * x_stride + i] for o < outer, i < inner; x_stride 0 repeats a row. Same dtype.
struct StridedCopy {
  static constexpr const char* kName = "copy";
  Buffer x, y;
  std::int64_t outer = 0, inner = 0, x_stride = 0, y_stride = 0;
};

// y[o, i] = scale * sum over m of x[o, m, i], m ascending in a fixed order that depends on the extents only.
// x float32 or bfloat16; y float32 or x's dtype.
struct SumMiddle {
  static constexpr const char* kName = "sum";
  Buffer x, y;
  std::int64_t outer = 0, middle = 0, inner = 0;
  double scale = 1;
};

// y[o, m, i] = scale * x[o, i].
struct BroadcastMiddle {
  static constexpr const char* kName = "broadcast";
  Buffer x, y;
  std::int64_t outer = 0, middle = 0, inner = 0;
  double scale = 1;
};

// y = activation(x), elementwise.
struct Activate {
  static constexpr const char* kName = "activation";
  Buffer x, y;
  std::int64_t count = 0;
  Activation activation = Activation::kGeluTanh;
};

// dx = dy * activation'(x). `dx` may be `dy`.
struct ActivateBackward {
  static constexpr const char* kName = "activation_backward";
  Buffer x, dy, dx;
  std::int64_t count = 0;
  Activation activation = Activation::kGeluTanh;
};

// y[i] = uniform(key, i) < rate ? 0 : x[i] / (1 - rate). Applied to dy it is its own gradient.
struct Dropout {
  static constexpr const char* kName = "dropout";
  Buffer x, y;
  std::int64_t count = 0;
  double rate = 0;
  RandomKey key;
};

enum class Distribution : std::uint8_t { kUniform, kNormal, kTruncatedNormal };

// y[i] = mean + scale * draw(key, i): uniform in [0, 1), standard normal, or standard normal truncated to
// [-2, 2] by the inverse distribution function of one uniform draw.
struct RandomFill {
  static constexpr const char* kName = "random_fill";
  Buffer y;
  std::int64_t count = 0;
  Distribution distribution = Distribution::kUniform;
  double mean = 0, scale = 1;
  RandomKey key;
};

// y[b, c, r] = x[b, r, c]. Same dtype.
struct Transpose {
  static constexpr const char* kName = "transpose";
  Buffer x, y;
  std::int64_t batch = 0, rows = 0, columns = 0;
};

// images [batch, height, width, channels] -> patches [batch, (height/patch) * (width/patch), patch * patch *
// channels], or back when `inverse` (x then holds patches). Dtypes may differ.
struct Patchify {
  static constexpr const char* kName = "patchify";
  Buffer x, y;
  std::int64_t batch = 0, height = 0, width = 0, channels = 0, patch = 0;
  bool inverse = false;
};

// y[0] (int32) = number of NaN or infinite elements of x.
struct CountNonFinite {
  static constexpr const char* kName = "count_non_finite";
  Buffer x, y;
  std::int64_t count = 0;
};

}  // namespace softmoe
