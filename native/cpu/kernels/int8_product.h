// Products of 8-bit numbers: codes of A, 0 … 255, times weights -127 … 127, in 32-bit sums, which are exact.
//
// A row x of A becomes codes u = round(x / s) + z with s = (max - min) / 255 and z = round(-min / s), where
// the range includes 0, so x ~ s (u - z) within s / 2. A column w of B becomes q = round(w / t), t = max |w|
// / 127. Then x w ~ s t (sum of u q - z sum of q); the second sum is made when the weights are frozen. Every
// instruction set makes the same codes and sums. A row of A that holds NaN or infinity, or a column of B that
// does, has NaN for its scale, and so in all of its results.
#pragma once

#include "cpu/kernels/frozen_product.h"
#include "cpu/kernels/gemm_operands.h"

namespace softmoe::cpu::SOFTMOE_ISA {

// The masks keep older compilers from warning of what the unmasked intrinsics leave undefined.
inline IntVec round_to_integers(Vec v) {
#if defined(SOFTMOE_WIDE_VECTORS)
  return (IntVec)_mm512_maskz_cvtps_epi32(0xffff, (__m512)v);
#elif defined(SOFTMOE_ISA_AVX2)
  return (IntVec)_mm256_cvtps_epi32((__m256)v);
#elif defined(SOFTMOE_ISA_SSE4)
  return (IntVec)_mm_cvtps_epi32((__m128)v);
#else
  IntVec integers{};
  for (int i = 0; i < kLanes; ++i) integers[i] = static_cast<std::int32_t>(__builtin_rintf(v[i]));
  return integers;
#endif
}

// An element is what one instruction sums for a lane: four codes of eight bits (VPDPBUSD), else two of
// sixteen (PMADDWD; its eight-bit sister saturates).
struct FrozenInt8 {
  using Element = std::uint32_t;
  using Sum = IntVec;
#ifdef SOFTMOE_BFLOAT16_PRODUCTS
  using Code = std::uint8_t;
  using Stored = std::uint32_t;
  static constexpr int kPerElement = 4;
  static UintVec load(const Stored* p) { return *reinterpret_cast<const LooseUintVec*>(p); }
  static IntVec multiply_add(IntVec sum, Element a, UintVec b) {
    return (IntVec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)(a - UintVec{}), (__m512i)b);
  }
#else
  using Code = std::int16_t;
  using Stored = std::uint16_t;
  static constexpr int kPerElement = 2;
  typedef std::int16_t CodeVec __attribute__((vector_size(4 * kLanes)));
  static CodeVec load(const Stored* p) {
#if defined(SOFTMOE_WIDE_VECTORS)
    return (CodeVec)_mm512_maskz_cvtepi8_epi16(0xffffffffu,
                                               _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(SOFTMOE_ISA_AVX2)
    return (CodeVec)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(SOFTMOE_ISA_SSE4)
    return (CodeVec)_mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
    CodeVec codes;
    const auto* bytes = reinterpret_cast<const signed char*>(p);
    for (int i = 0; i < 2 * kLanes; ++i) codes[i] = bytes[i];
    return codes;
#endif
  }
  static IntVec multiply_add(IntVec sum, Element a, CodeVec b) {
#if defined(SOFTMOE_WIDE_VECTORS)
    return sum + (IntVec)_mm512_madd_epi16((__m512i)(a - UintVec{}), (__m512i)b);
#elif defined(SOFTMOE_ISA_AVX2)
    return sum + (IntVec)_mm256_madd_epi16((__m256i)(a - UintVec{}), (__m256i)b);
#elif defined(SOFTMOE_ISA_SSE4)
    return sum + (IntVec)_mm_madd_epi16((__m128i)(a - UintVec{}), (__m128i)b);
#else
    const std::int32_t low = a & 0xffffu, high = a >> 16;
    for (int i = 0; i < kLanes; ++i) sum[i] += low * b[2 * i] + high * b[2 * i + 1];
    return sum;
#endif
  }
#endif
};

// Below it a scale counts as 0: its inverse would not be finite.
constexpr float kSmallestScale = 1e-30f;
constexpr float kLargestFinite = 3.402823466e38f;

// Lanes that are true: NaN or infinite.
inline IntVec not_finite(Vec v) { return (IntVec) ~(abs(v) <= kLargestFinite); }
inline bool any(IntVec lanes) {
  bool found = false;
  for (int i = 0; i < kLanes; ++i) found = found || lanes[i] != 0;
  return found;
}

// Rows of A as codes, laid out as FrozenRows.
struct CodedRows {
  static constexpr std::int64_t kStep =
      std::int64_t{kDepthBlock} * FrozenInt8::kPerElement;  // codes of a block
  static constexpr std::int64_t kStride = std::int64_t{kPanelStride} * FrozenInt8::kPerElement;
  static constexpr std::int64_t kRowsBeyond = 32;  // which tiles read, without using them
  FrozenInt8::Code* codes;
  std::int64_t block_stride;  // codes from block to block
  float* scales;
  std::int32_t* zeros;

  CodedRows(std::int64_t rows, std::int64_t depth, Arena& arena)
      : codes(arena.take<FrozenInt8::Code>((ceil_div(depth, kStep) * rows + kRowsBeyond) * kStride)),
        block_stride(rows * kStride),
        scales(arena.take<float>(rows)),
        zeros(arena.take<std::int32_t>(rows)) {}

  FrozenRows<FrozenInt8> rows_from(std::int64_t row) const {
    return {reinterpret_cast<const std::uint32_t*>(codes + row * kStride),
            block_stride / FrozenInt8::kPerElement};
  }

  template <class Line>
  void encode(std::int64_t row, const Line& line, std::int64_t depth) const {
    Vec low{}, high{};
    IntVec broken{};
    for (std::int64_t k = 0; k < depth; k += kLanes) {
      const Vec v = load_line(line, k, depth - k);
      low = min(v, low);
      high = max(v, high);
      broken |= not_finite(v);
    }
    const bool is_broken = any(broken);
    const float below = max_lanes(-low), above = max_lanes(high);
    float scale = above / 255.0f + below / 255.0f;
    if (is_broken || scale < kSmallestScale) scale = 0;
    const float inverse = scale == 0 ? 0 : 1.0f / scale;
    const std::int32_t zero = scale == 0 ? 0 : round_to_integers(splat(below * inverse))[0];
    for (std::int64_t k = 0; k < depth; k += kLanes) {
      IntVec code = round_to_integers(load_line(line, k, depth - k) * inverse) + zero;
      code = code < 0 ? IntVec{} : code;
      code = code > 255 ? IntVec{} + 255 : code;
      typedef FrozenInt8::Code LooseCodes
          __attribute__((vector_size(sizeof(FrozenInt8::Code) * kLanes), aligned(1), may_alias));
      FrozenInt8::Code* out = codes + k / kStep * block_stride + row * kStride + k % kStep;
      *reinterpret_cast<LooseCodes*>(out) = __builtin_convertvector(code, LooseCodes);
    }
    scales[row] = is_broken ? __builtin_nanf("") : scale;
    zeros[row] = zero;
  }
};

// A panel of columns [column, column + kTileColumns) of w [depth, columns]; `bytes` of it are filled. Its
// scales and sums are those of `columns` columns.
inline void pack_int8_panel(char* panel, std::int64_t bytes, const float* weights, std::int64_t depth,
                            std::int64_t columns, std::int64_t column, float* scales, std::int32_t* sums) {
  __builtin_memset(panel, 0, static_cast<std::size_t>(bytes));
  for (std::int64_t c = column; c < smaller<std::int64_t>(column + kTileColumns, columns); c += kLanes) {
    const std::int64_t count = smaller<std::int64_t>(columns - c, kLanes);
    Vec largest{};
    IntVec broken{}, sum{};
    for (std::int64_t k = 0; k < depth; ++k) {
      const Vec w = load_some(weights + k * columns + c, count);
      largest = max(abs(w), largest);
      broken |= not_finite(w);
    }
    Vec scale = largest / 127.0f;
    scale = scale >= kSmallestScale ? scale : Vec{};
    const Vec divisor = scale > 0.0f ? scale : splat(__builtin_inff());
    for (std::int64_t k = 0; k < depth; ++k) {
      const Vec w = load_some(weights + k * columns + c, count);
      const IntVec code = broken ? IntVec{} : round_to_integers(w / divisor);
      sum += code;
      char* out = panel +
                  (k / FrozenInt8::kPerElement * kTileColumns + c - column) * FrozenInt8::kPerElement +
                  k % FrozenInt8::kPerElement;
      for (std::int64_t i = 0; i < count; ++i) {
        out[i * FrozenInt8::kPerElement] = static_cast<char>(code[i]);
      }
    }
    store_some(scales + c, broken ? splat(__builtin_nanf("")) : scale, count);
    for (std::int64_t i = 0; i < count; ++i) sums[c + i] = sum[i];
  }
}

inline IntVec load_some_integers(const std::int32_t* p, std::int64_t count) {
  IntVec v{};
  if (count >= kLanes) {
    __builtin_memcpy(&v, p, sizeof v);
  } else {
    for (std::int64_t i = 0; i < count; ++i) v[i] = p[i];
  }
  return v;
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
