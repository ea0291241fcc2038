// Tests of element-wise forms: the engine's result for many operands against a scalar model of the form.
#pragma once

#include <map>
#include <string>

#include "harness.h"

namespace ptxtest {

// Bits in, bits out; predicates are 0 or 1. Unused operands are 0.
using Model = std::function<uint64_t(uint64_t a, uint64_t b, uint64_t c, uint64_t d)>;

enum class Compare : uint8_t {
  bits,     // every bit
  float16,  // every bit, but any NaN equals any other; pairs compare half by half
  bfloat16,
  float32,
  float64,
  close32,  // f32 approximations: relative error
  close16,
  closeBf16,
  close64
};

// What the operands of a source are drawn from, besides random bits.
enum class Draw : uint8_t { integer, half, bfloat, single, wide, small };

// Says how the form must behave and checks it at once on random and edge operands.
void checkForm(const std::string& spelling, Compare compare, Draw draw, const Model& model);

// Forms that were checked so far; a last test compares them with all the engine has.
const std::map<std::string, bool>& checkedForms();
void markChecked(const std::string& spelling);

// Casts between bits and values.
template <class To, class From>
To as(From from) {
  To to{};
  std::memcpy(&to, &from, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
  return to;
}
inline float f32(uint64_t bits) { return as<float>(static_cast<uint32_t>(bits)); }
inline double f64(uint64_t bits) { return as<double>(bits); }
inline uint64_t bits(float value) { return as<uint32_t>(value); }
inline uint64_t bits(double value) { return as<uint64_t>(value); }

}  // namespace ptxtest
