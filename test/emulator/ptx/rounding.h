// Scalar float arithmetic in each rounding mode, and the narrow formats. Round-to-nearest needs none of this.
#pragma once

#include <cstdint>

namespace ptxemu {

enum class Rounding : uint8_t { nearestEven, zero, down, up, nearestAway };

// Sets the mode of this thread's float unit for a scope.
class RoundingScope {
 public:
  explicit RoundingScope(Rounding mode);
  ~RoundingScope();
  RoundingScope(const RoundingScope&) = delete;
  RoundingScope& operator=(const RoundingScope&) = delete;

 private:
  unsigned saved_;
};

// Compiled apart, so that no operation moves out of its scope.
enum class Operation : uint8_t { add, sub, mul, fma, div, sqrt };
float rounded(Operation operation, Rounding mode, float a, float b, float c);
double rounded(Operation operation, Rounding mode, double a, double b, double c);

// A binary format with `exponentBits` and `fractionBits`, at most 32 bits in all, from a double with one
// rounding. `saturate` replaces overflow by the largest finite value.
uint32_t toNarrow(double value, int exponentBits, int fractionBits, Rounding mode, bool saturate);
inline uint16_t toHalf(double value, Rounding mode = Rounding::nearestEven) {
  return static_cast<uint16_t>(toNarrow(value, 5, 10, mode, false));
}
inline uint16_t toBfloat(double value, Rounding mode = Rounding::nearestEven) {
  return static_cast<uint16_t>(toNarrow(value, 8, 7, mode, false));
}
float fromHalf(uint16_t bits);
float fromBfloat(uint16_t bits);

// a * b + c to a precision from which rounding once more to a narrow format gives the correctly rounded
// result.
double fmaToOdd(double a, double b, double c);

}  // namespace ptxemu
