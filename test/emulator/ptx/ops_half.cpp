// Arithmetic of f16 and bf16, alone and in pairs. Values are widened to float, computed there, and rounded
// once more. For add, sub and mul the float result has more than twice the bits of the format, which makes
// the second rounding harmless; fma goes through a rounding to odd.
#include <cmath>

#include "elementwise.h"
#include "rounding.h"

namespace ptxemu {
namespace {

// A float that rounds to any narrower format as the double does: inexact results get an odd last bit.
inline float toFloatOdd(double value) {
  const float near = static_cast<float>(value);
  const double back = near;
  uint32_t bits = bitCast<uint32_t>(near);
  if (back == value || (bits & 1) || std::isnan(value)) return near;
  if (std::isinf(near)) return std::isinf(value) ? near : bitCast<float>((bits & 0x80000000u) | 0x7f7fffffu);
  const bool outwards = std::fabs(value) > std::fabs(back);
  bits += outwards ? 1 : -1;
  return bitCast<float>(bits);
}

struct F16 {
  static float widen(uint16_t x) { return _cvtsh_ss(x); }
  static uint16_t narrow(float x) { return std::isnan(x) ? 0x7fff : static_cast<uint16_t>(_cvtss_sh(x, 0)); }
  static uint16_t flush(uint16_t x) { return (x & 0x7c00) == 0 ? x & 0x8000 : x; }
};
struct Bf16 {
  static float widen(uint16_t x) { return bitCast<float>(uint32_t(x) << 16); }
  static uint16_t narrow(float x) {
    if (std::isnan(x)) return 0x7fff;
    const uint32_t bits = bitCast<uint32_t>(x);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  static uint16_t flush(uint16_t x) { return (x & 0x7f80) == 0 ? x & 0x8000 : x; }
};

enum class After : uint8_t { nothing, saturate, relu };

template <class T, bool kFlush, After kAfter>
uint16_t finish(float value) {
  if constexpr (kAfter == After::saturate) value = value > 0.0f ? (value < 1.0f ? value : 1.0f) : 0.0f;
  if constexpr (kAfter == After::relu) value = value < 0.0f ? 0.0f : value;
  uint16_t bits = T::narrow(value);
  if constexpr (kFlush) bits = T::flush(bits);
  return bits;
}

template <class T, bool kFlush>
float widened(uint16_t bits) {
  return T::widen(kFlush ? T::flush(bits) : bits);
}

// Both halves of a packed operation are the operation of one.
template <class F>
Form single1(F function) {
  static const F apply = function;
  return elementwise<uint16_t, uint16_t>([](uint16_t a) { return apply(a); });
}
template <class F>
Form single2(F function) {
  static const F apply = function;
  return elementwise<uint16_t, uint16_t, uint16_t>([](uint16_t a, uint16_t b) { return apply(a, b); });
}
template <class F>
Form single3(F function) {
  static const F apply = function;
  return elementwise<uint16_t, uint16_t, uint16_t, uint16_t>(
      [](uint16_t a, uint16_t b, uint16_t c) { return apply(a, b, c); });
}
uint32_t join(uint16_t low, uint16_t high) { return low | uint32_t(high) << 16; }
uint16_t low(uint32_t x) { return static_cast<uint16_t>(x); }
uint16_t high(uint32_t x) { return static_cast<uint16_t>(x >> 16); }
template <class F>
Form packed1(F function) {
  static const F apply = function;
  return elementwise<uint32_t, uint32_t>([](uint32_t a) { return join(apply(low(a)), apply(high(a))); });
}
template <class F>
Form packed2(F function) {
  static const F apply = function;
  return elementwise<uint32_t, uint32_t, uint32_t>(
      [](uint32_t a, uint32_t b) { return join(apply(low(a), low(b)), apply(high(a), high(b))); });
}
template <class F>
Form packed3(F function) {
  static const F apply = function;
  return elementwise<uint32_t, uint32_t, uint32_t, uint32_t>([](uint32_t a, uint32_t b, uint32_t c) {
    return join(apply(low(a), low(b), low(c)), apply(high(a), high(b), high(c)));
  });
}

struct Adder {
  FormTable& table;
  std::string type;
  template <class F>
  void unary(const std::string& name, F f) const {
    add(name, single1(f), packed1(f));
  }
  template <class F>
  void binary(const std::string& name, F f) const {
    add(name, single2(f), packed2(f));
  }
  template <class F>
  void ternary(const std::string& name, F f) const {
    add(name, single3(f), packed3(f));
  }
  void add(const std::string& name, Form single, Form packed) const {
    table.add(name + "." + type, Category::floatingPoint, std::move(single));
    table.add(name + "." + type + "x2", Category::floatingPoint, std::move(packed));
  }
};

template <class T, bool kFlush, After kAfter>
void addArithmetic(Adder add, const std::string& suffix) {
  for (const std::string mode : {"", ".rn"}) {
    add.binary("add" + mode + suffix, [](uint16_t a, uint16_t b) {
      return finish<T, kFlush, kAfter>(widened<T, kFlush>(a) + widened<T, kFlush>(b));
    });
    add.binary("sub" + mode + suffix, [](uint16_t a, uint16_t b) {
      return finish<T, kFlush, kAfter>(widened<T, kFlush>(a) - widened<T, kFlush>(b));
    });
    add.binary("mul" + mode + suffix, [](uint16_t a, uint16_t b) {
      // Through double: the product of two bfloats may be subnormal as a float.
      return finish<T, kFlush, kAfter>(toFloatOdd(double(widened<T, kFlush>(a)) * widened<T, kFlush>(b)));
    });
  }
}

template <class T, bool kFlush, After kAfter>
void addFma(Adder add, const std::string& suffix) {
  add.ternary("fma.rn" + suffix, [](uint16_t a, uint16_t b, uint16_t c) {
    return finish<T, kFlush, kAfter>(
        toFloatOdd(fmaToOdd(widened<T, kFlush>(a), widened<T, kFlush>(b), widened<T, kFlush>(c))));
  });
}

template <class T, bool kFlush, bool kNan>
void addMinMax(Adder add, const std::string& suffix) {
  add.binary("min" + suffix, [](uint16_t x, uint16_t y) -> uint16_t {
    const uint16_t a = kFlush ? T::flush(x) : x, b = kFlush ? T::flush(y) : y;
    const float wideA = T::widen(a), wideB = T::widen(b);
    if (std::isnan(wideA) || std::isnan(wideB)) {
      if (kNan || (std::isnan(wideA) && std::isnan(wideB))) return 0x7fff;
      return std::isnan(wideA) ? b : a;
    }
    return wideA == wideB ? a | b : wideA < wideB ? a : b;
  });
  add.binary("max" + suffix, [](uint16_t x, uint16_t y) -> uint16_t {
    const uint16_t a = kFlush ? T::flush(x) : x, b = kFlush ? T::flush(y) : y;
    const float wideA = T::widen(a), wideB = T::widen(b);
    if (std::isnan(wideA) || std::isnan(wideB)) {
      if (kNan || (std::isnan(wideA) && std::isnan(wideB))) return 0x7fff;
      return std::isnan(wideA) ? b : a;
    }
    return wideA == wideB ? a & b : wideA > wideB ? a : b;
  });
}

template <class T>
void addCommon(Adder add) {
  addArithmetic<T, false, After::nothing>(add, "");
  addArithmetic<T, false, After::saturate>(add, ".sat");
  addFma<T, false, After::nothing>(add, "");
  addFma<T, false, After::saturate>(add, ".sat");
  addFma<T, false, After::relu>(add, ".relu");
  addMinMax<T, false, false>(add, "");
  addMinMax<T, false, true>(add, ".NaN");
  add.unary("abs", [](uint16_t a) { return static_cast<uint16_t>(a & 0x7fff); });
  add.unary("neg", [](uint16_t a) { return static_cast<uint16_t>(a ^ 0x8000); });
  add.unary("tanh.approx", [](uint16_t a) { return T::narrow(std::tanh(T::widen(a))); });
}

}  // namespace

void addHalfForms(FormTable& table) {
  const Adder half{table, "f16"}, bfloat{table, "bf16"};
  addCommon<F16>(half);
  addCommon<Bf16>(bfloat);
  addArithmetic<F16, true, After::nothing>(half, ".ftz");
  addArithmetic<F16, true, After::saturate>(half, ".ftz.sat");
  addFma<F16, true, After::nothing>(half, ".ftz");
  addFma<F16, true, After::saturate>(half, ".ftz.sat");
  addFma<F16, true, After::relu>(half, ".ftz.relu");
  addMinMax<F16, true, false>(half, ".ftz");
  addMinMax<F16, true, true>(half, ".ftz.NaN");
  half.unary("abs.ftz", [](uint16_t a) { return static_cast<uint16_t>(F16::flush(a) & 0x7fff); });
  half.unary("neg.ftz", [](uint16_t a) { return static_cast<uint16_t>(F16::flush(a) ^ 0x8000); });
  half.unary("ex2.approx", [](uint16_t a) { return F16::narrow(std::exp2(F16::widen(a))); });
  bfloat.unary("ex2.approx.ftz",
               [](uint16_t a) { return Bf16::flush(Bf16::narrow(std::exp2(Bf16::widen(Bf16::flush(a))))); });
}

}  // namespace ptxemu
