#include "rounding.h"

#include <immintrin.h>

#include <cmath>
#include <cstring>

namespace ptxemu {

RoundingScope::RoundingScope(Rounding mode) : saved_(_mm_getcsr()) {
  unsigned bits = _MM_ROUND_NEAREST;
  if (mode == Rounding::zero) bits = _MM_ROUND_TOWARD_ZERO;
  if (mode == Rounding::down) bits = _MM_ROUND_DOWN;
  if (mode == Rounding::up) bits = _MM_ROUND_UP;
  _mm_setcsr((saved_ & ~_MM_ROUND_MASK) | bits);
}
RoundingScope::~RoundingScope() { _mm_setcsr(saved_); }

namespace {

// volatile keeps the compiler from moving the operation or folding it at compile time.
template <class T>
T apply(Operation operation, Rounding mode, T a, T b, T c) {
  volatile T x = a, y = b, z = c, result = 0;
  {
    const RoundingScope scope(mode);
    switch (operation) {
      case Operation::add:
        result = x + y;
        break;
      case Operation::sub:
        result = x - y;
        break;
      case Operation::mul:
        result = x * y;
        break;
      case Operation::fma:
        result = std::fma(x, y, z);
        break;
      case Operation::div:
        result = x / y;
        break;
      case Operation::sqrt:
        result = std::sqrt(static_cast<T>(x));
        break;
    }
  }
  return result;
}

}  // namespace

float rounded(Operation operation, Rounding mode, float a, float b, float c) {
  return apply(operation, mode, a, b, c);
}
double rounded(Operation operation, Rounding mode, double a, double b, double c) {
  return apply(operation, mode, a, b, c);
}

uint32_t toNarrow(double value, int exponentBits, int fractionBits, Rounding mode, bool saturate) {
  const uint32_t sign = std::signbit(value) ? 1u << (exponentBits + fractionBits) : 0;
  const uint32_t infinity = ((1u << exponentBits) - 1) << fractionBits;
  if (std::isnan(value))
    return infinity | ((1u << fractionBits) - 1);  // the canonical NaN of the hardware, positive
  const double magnitude = std::fabs(value);
  const bool up = (mode == Rounding::up && !sign) || (mode == Rounding::down && sign);
  const int bias = (1 << (exponentBits - 1)) - 1;
  if (std::isinf(magnitude)) return sign | (saturate ? infinity - 1 : infinity);
  if (magnitude == 0) return sign;
  int exponent = std::ilogb(magnitude);
  if (exponent < 1 - bias) exponent = 1 - bias;
  // The significand in units of the last place; exact, as it is a scaling by a power of two.
  const double scaled = std::ldexp(magnitude, fractionBits - exponent);
  double whole = std::floor(scaled);
  const double rest = scaled - whole;
  bool increment = false;
  switch (mode) {
    case Rounding::nearestEven:
      increment = rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2.0) != 0);
      break;
    case Rounding::nearestAway:
      increment = rest >= 0.5;
      break;
    case Rounding::zero:
      break;
    case Rounding::up:
    case Rounding::down:
      increment = up && rest > 0;
      break;
  }
  whole += increment;
  // Adding the significand to the exponent field carries into it as it should.
  const uint64_t bits =
      (static_cast<uint64_t>(exponent + bias - 1) << fractionBits) + static_cast<uint64_t>(whole);
  if (bits >= infinity) {
    const bool toInfinity = mode == Rounding::nearestEven || mode == Rounding::nearestAway || up;
    return sign | (saturate || !toInfinity ? infinity - 1 : infinity);
  }
  return sign | static_cast<uint32_t>(bits);
}

float fromHalf(uint16_t bits) { return _cvtsh_ss(bits); }

float fromBfloat(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

double fmaToOdd(double a, double b, double c) {
  const double product = a * b;  // exact for operands of at most 24 bits
  const double sum = product + c;
  if (!std::isfinite(sum)) return sum;
  const double back = sum - product;
  const double error = (product - (sum - back)) + (c - back);
  uint64_t bits;
  std::memcpy(&bits, &sum, 8);
  if (error == 0 || (bits & 1)) return sum;
  // Inexact with an even last bit: step towards the exact value, to the odd neighbour.
  const bool outwards = (error > 0) == !std::signbit(sum);
  bits += outwards ? 1 : -1;
  double odd;
  std::memcpy(&odd, &bits, 8);
  return odd;
}

}  // namespace ptxemu
