// Plain conversions between float and the narrow formats, by arithmetic on bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace truth {

inline std::uint32_t bitsOf(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float fromBits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Round to nearest even on the upper 16 bits; finite values only.
inline std::uint16_t toBfloat16(float value) {
  const std::uint32_t bits = bitsOf(value);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float fromBfloat16(std::uint16_t bits) { return fromBits(static_cast<std::uint32_t>(bits) << 16); }

// Half precision of normal values: ten bits of fraction, round to nearest even by the C library.
inline std::uint16_t toHalf(float value) {
  if (std::fabs(value) < 6.103515625e-5f) return 0;  // what would be subnormal
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(static_cast<double>(value)), &exponent);
  const auto significand =
      static_cast<std::uint32_t>(std::nearbyint(std::ldexp(fraction, 11)));  // 2^10 … 2^11
  const std::uint32_t magnitude = (static_cast<std::uint32_t>(exponent + 14) << 10) + significand - 1024;
  return static_cast<std::uint16_t>((value < 0 ? 0x8000u : 0u) | magnitude);
}
inline float fromHalf(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  if (exponent == 0) return 0;
  const double magnitude = std::ldexp(1024.0 + (bits & 1023), exponent - 25);
  return static_cast<float>(bits & 0x8000 ? -magnitude : magnitude);
}

// tf32: ten bits of fraction, ties away from zero, as cvt.rna.tf32.f32 does.
inline float toTf32(float value) { return fromBits((bitsOf(value) + 0x1000) & ~0x1FFFu); }

}  // namespace truth
