// Narrow formats for the models, by search among all their values: slow, plain, and nothing like the engine's
// way.
#pragma once

#include <cmath>
#include <cstdint>

namespace ptxtest {

using Wide = __float128;

inline double halfValue(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}
inline double bfloatValue(uint16_t bits) {
  const int exponent = bits >> 7 & 255, fraction = bits & 127;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 255) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(128 + fraction, exponent - 134) : std::ldexp(fraction, -133));
}

enum class Toward : uint8_t { nearest, nearestAway, zero, down, up };

// The 16-bit pattern that `value + lost` rounds to, where `lost` is too small to change value but breaks
// ties.
template <class ValueOf>
uint16_t roundTo16(Wide value, Wide lost, Toward mode, uint16_t infinity, ValueOf valueOf) {
  if (value != value) return infinity | 1;
  const bool negative = value < 0 || (value == 0 && std::signbit(static_cast<double>(value)));
  const uint16_t sign = negative ? 0x8000 : 0;
  if (negative) value = -value, lost = -lost;
  // The largest pattern whose value is not above.
  uint16_t low = 0, high = infinity;
  while (low + 1 < high) {
    const uint16_t middle = static_cast<uint16_t>((low + high) / 2);
    if (Wide(valueOf(middle)) < value || (Wide(valueOf(middle)) == value && lost >= 0))
      low = middle;
    else
      high = middle;
  }
  const Wide below = valueOf(low);
  if (below == value && lost == 0) return sign | low;
  if (value == Wide(INFINITY)) return sign | infinity;
  if (mode == Toward::zero || (mode == Toward::down && !negative) || (mode == Toward::up && negative))
    return sign | low;
  if (mode == Toward::down || mode == Toward::up) return sign | high;
  // Infinity stands for the next power of two.
  const Wide above = high == infinity ? 2 * below - Wide(valueOf(low - 1)) : Wide(valueOf(high));
  const Wide distance = (value - below) - (above - value);
  const bool up = distance > 0 ||
                  (distance == 0 && (lost > 0 || (lost == 0 && (mode == Toward::nearestAway || low % 2))));
  return sign | (up ? high : low);
}

inline uint16_t toHalfModel(Wide value, Toward mode = Toward::nearest, Wide lost = 0) {
  return roundTo16(value, lost, mode, 0x7c00, halfValue);
}
inline uint16_t toBfloatModel(Wide value, Toward mode = Toward::nearest, Wide lost = 0) {
  return roundTo16(value, lost, mode, 0x7f80, bfloatValue);
}

// What a sum of two wide numbers loses to rounding.
inline Wide lostIn(Wide sum, Wide a, Wide b) {
  const Wide back = sum - a;
  return (a - (sum - back)) + (b - back);
}

// The float or double that `exact + lost` rounds to, where `lost` is too small to show in the sum.
template <class T>
T roundWide(Wide exact, Toward mode, Wide lost = 0) {
  const T near = static_cast<T>(exact);
  if (mode == Toward::nearest || near != near || exact == Wide(INFINITY) || exact == -Wide(INFINITY))
    return near;
  const Wide above =
      Wide(near) == exact ? -lost : Wide(near) - exact;  // how far near lies above the exact value
  const bool negative = exact < 0;
  const bool wantsDown = mode == Toward::down || (mode == Toward::zero && !negative);
  if (wantsDown && above > 0) return std::nextafter(near, -static_cast<T>(INFINITY));
  if (!wantsDown && above < 0) return std::nextafter(near, static_cast<T>(INFINITY));
  return near;
}

}  // namespace ptxtest
