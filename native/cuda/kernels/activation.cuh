// The activations and their derivatives, in float32.
#pragma once

#include "core/kernels/elementwise.h"
#include "cuda/kernels/ptx.cuh"

namespace softmoe::cuda {

namespace activation_constants {
constexpr float kSqrt2OverPi = 0.7978845608028654f;
constexpr float kCubic = 0.044715f;
constexpr float kSqrtHalf = 0.7071067811865476f;
constexpr float kInverseSqrt2Pi = 0.3989422804014327f;
constexpr float kTwoLog2E = 2.8853900817779268f;
}  // namespace activation_constants

// tanh(x) = 1 - 2 / (1 + e^(2x)), with an absolute error of a few 1e-7.
__device__ __forceinline__ float hyperbolic_tangent(float x) {
  return 1.0f - __fdividef(2.0f, 1.0f + ptx::exp2_approximate(activation_constants::kTwoLog2E * x));
}

__device__ __forceinline__ float activate(float x, Activation activation) {
  using namespace activation_constants;
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + hyperbolic_tangent(kSqrt2OverPi * (x + kCubic * x * x * x)));
    case Activation::kGeluErf:
      return 0.5f * x * (1.0f + erff(kSqrtHalf * x));
    case Activation::kTanh:
      return hyperbolic_tangent(x);
  }
  return x;
}

__device__ __forceinline__ float activation_derivative(float x, Activation activation) {
  using namespace activation_constants;
  // Beyond |x| = 15 the slopes are 0 or 1 to float32; the bound keeps infinities out. NaN passes through it.
  x = x > 15.0f ? 15.0f : x < -15.0f ? -15.0f : x;
  switch (activation) {
    case Activation::kNone:
      return 1.0f;
    case Activation::kGeluTanh: {
      const float t = hyperbolic_tangent(kSqrt2OverPi * (x + kCubic * x * x * x));
      return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * kSqrt2OverPi * (1.0f + 3.0f * kCubic * x * x);
    }
    case Activation::kGeluErf:
      return 0.5f * (1.0f + erff(kSqrtHalf * x)) +
             x * kInverseSqrt2Pi * ptx::exp2_approximate(-0.25f * kTwoLog2E * x * x);
    case Activation::kTanh: {
      const float t = hyperbolic_tangent(x);
      return 1.0f - t * t;
    }
  }
  return 1.0f;
}

}  // namespace softmoe::cuda
