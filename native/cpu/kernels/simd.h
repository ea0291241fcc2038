// One vector type for every instruction set, by the compilers' vector extensions. Include after
// cpu/kernels/isa.h: everything here lives in the namespace of the instruction set.
#pragma once

namespace softmoe::cpu::SOFTMOE_ISA {

#if defined(SOFTMOE_ISA_AVX512) || defined(SOFTMOE_ISA_AVX512BF16) || defined(SOFTMOE_ISA_AMX)
#define SOFTMOE_WIDE_VECTORS 1
constexpr int kLanes = 16;
#elif defined(SOFTMOE_ISA_AVX2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// A bfloat16 in memory; arithmetic is done in float32.
struct BFloat16 {
  std::uint16_t bits;
};

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t IntVec __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t UintVec __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t HalfVec __attribute__((vector_size(2 * kLanes)));
// The same types where memory is not aligned and may hold another type.
typedef float LooseVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef std::uint32_t LooseUintVec __attribute__((vector_size(4 * kLanes), aligned(2), may_alias));
typedef std::uint16_t LooseHalfVec __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

template <class T>
constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T larger(T a, T b) {
  return a < b ? b : a;
}
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

inline Vec splat(float value) { return value - Vec{}; }

inline UintVec bits_of(Vec v) { return (UintVec)v; }
inline Vec float_of(UintVec bits) { return (Vec)bits; }

inline Vec widen(HalfVec half) { return (Vec)(__builtin_convertvector(half, UintVec) << 16); }

// Round to nearest even; a NaN stays a quiet NaN.
inline HalfVec narrow(Vec v) {
#if defined(SOFTMOE_ISA_AVX512BF16) || (defined(SOFTMOE_ISA_AMX) && !defined(SOFTMOE_EMULATE_AMX))
  // The instruction takes subnormal numbers for 0.
  constexpr int kSubnormal = 0x20;
  if (__builtin_expect(_mm512_fpclass_ps_mask((__m512)v, kSubnormal) == 0, 1)) {
    return (HalfVec)_mm512_cvtneps_pbh((__m512)v);
  }
#endif
  const UintVec bits = bits_of(v);
  const UintVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const UintVec quiet = (bits >> 16) | 0x40u;
  return __builtin_convertvector((UintVec)(v == v ? (IntVec)rounded : (IntVec)quiet), HalfVec);
}

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float result;
  __builtin_memcpy(&result, &bits, sizeof result);
  return result;
}
inline BFloat16 to_bfloat16(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  if (value != value) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
template <class T>
inline T from_float(float value) {
  if constexpr (sizeof(T) == 4) {
    return value;
  } else {
    return to_bfloat16(value);
  }
}

inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline Vec load(const BFloat16* p) { return widen(*reinterpret_cast<const LooseHalfVec*>(p)); }
inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
inline void store(BFloat16* p, Vec v) { *reinterpret_cast<LooseHalfVec*>(p) = narrow(v); }

// Stores past the caches, for results larger than them: memory is then written without being read first. `p`
// is aligned to the vector. Call finish_streaming() before another thread may read them.
inline void stream(float* p, Vec v) {
#if defined(SOFTMOE_WIDE_VECTORS)
  _mm512_stream_ps(p, (__m512)v);
#elif defined(SOFTMOE_ISA_AVX2)
  _mm256_stream_ps(p, (__m256)v);
#elif defined(SOFTMOE_ISA_SSE4)
  _mm_stream_ps(p, (__m128)v);
#else
  store(p, v);
#endif
}
inline void finish_streaming() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// The first `count` < kLanes elements; the other lanes are zero. Nothing beyond them is touched.
template <class T>
inline Vec load_partial(const T* p, std::int64_t count) {
  alignas(64) T lanes[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <class T>
inline void store_partial(T* p, Vec v, std::int64_t count) {
  alignas(64) T lanes[kLanes];
  store(lanes, v);
  for (std::int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}
#ifdef SOFTMOE_WIDE_VECTORS
inline Vec load_partial(const float* p, std::int64_t count) {
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
inline void store_partial(float* p, Vec v, std::int64_t count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
}
#endif

// `count` may be anything up to kLanes.
template <class T>
inline Vec load_some(const T* p, std::int64_t count) {
  return count >= kLanes ? load(p) : load_partial(p, count);
}
template <class T>
inline void store_some(T* p, Vec v, std::int64_t count) {
  if (count >= kLanes) {
    store(p, v);
  } else {
    store_partial(p, v, count);
  }
}

// Where one is NaN the result is b.
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline Vec abs(Vec v) { return float_of(bits_of(v) & 0x7fffffffu); }
// Elementwise square root; the compiler turns the loop into one instruction.
inline Vec sqrt(Vec v) {
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
}

template <int kDistance, std::size_t... kLane>
inline void exchange_lanes(UintVec& a, UintVec& b, std::index_sequence<kLane...>) {
#if defined(__clang__)
  const UintVec low =
      __builtin_shufflevector(a, b, ((kLane & kDistance) ? kLanes + kLane - kDistance : kLane)...);
  const UintVec high =
      __builtin_shufflevector(a, b, ((kLane & kDistance) ? kLanes + kLane : kLane + kDistance)...);
#else
  const UintVec low =
      __builtin_shuffle(a, b, UintVec{((kLane & kDistance) ? kLanes + kLane - kDistance : kLane)...});
  const UintVec high =
      __builtin_shuffle(a, b, UintVec{((kLane & kDistance) ? kLanes + kLane : kLane + kDistance)...});
#endif
  a = low;
  b = high;
}

// Exchanges blocks of kDistance lanes between rows kDistance apart; all distances together transpose.
template <int kDistance>
inline void transpose_step(UintVec (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kDistance) == 0) {
      exchange_lanes<kDistance>(rows[i], rows[i + kDistance], std::make_index_sequence<kLanes>());
    }
  }
}

// Lane j of rows[i] and lane i of rows[j] change places.
inline void transpose(UintVec (&rows)[kLanes]) {
  transpose_step<1>(rows);
  transpose_step<2>(rows);
  if constexpr (kLanes > 4) transpose_step<4>(rows);
  if constexpr (kLanes > 8) transpose_step<8>(rows);
}

// Lane 0, 1, 2 … as integers.
inline IntVec lane_indices() {
  IntVec lanes{};
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}
// Lanes at or beyond `count` become `other`.
inline Vec keep_first(Vec v, std::int64_t count, float other) {
  return lane_indices() < static_cast<std::int32_t>(count) ? v : splat(other);
}

// Sums and maxima over the lanes, always in the same (pairwise) order.
inline float sum_lanes(Vec v) {
  alignas(64) float lanes[kLanes];
  store(lanes, v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}
inline float max_lanes(Vec v) {
  alignas(64) float lanes[kLanes];
  store(lanes, v);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] < lanes[i + half] ? lanes[i + half] : lanes[i];
  }
  return lanes[0];
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
