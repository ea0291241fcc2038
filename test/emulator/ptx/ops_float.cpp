// Arithmetic of f32. The approximations (ex2, sin, ...) are computed more precisely than hardware does.
#include <cmath>

#include "elementwise.h"
#include "rounding.h"

namespace ptxemu {
namespace {

inline float flushed(float x) {
  const uint32_t bits = bitCast<uint32_t>(x);
  return bitCast<float>((bits & 0x7f800000u) == 0 ? bits & 0x80000000u : bits);
}
template <bool kFlush>
inline float in(float x) {
  if constexpr (kFlush)
    return flushed(x);
  else
    return x;
}
template <bool kFlush, bool kSaturate>
inline float out(float x) {
  if constexpr (kFlush) x = flushed(x);
  if constexpr (kSaturate) x = x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;  // NaN becomes 0
  return x;
}

template <bool kFlush, bool kSaturate, class F>
Form unary(F function) {
  static const F apply = function;
  return elementwise<float, float>([](float a) { return out<kFlush, kSaturate>(apply(in<kFlush>(a))); });
}
template <bool kFlush, bool kSaturate, class F>
Form binary(F function) {
  static const F apply = function;
  return elementwise<float, float, float>(
      [](float a, float b) { return out<kFlush, kSaturate>(apply(in<kFlush>(a), in<kFlush>(b))); });
}
template <bool kFlush, bool kSaturate, class F>
Form ternary(F function) {
  static const F apply = function;
  return elementwise<float, float, float, float>([](float a, float b, float c) {
    return out<kFlush, kSaturate>(apply(in<kFlush>(a), in<kFlush>(b), in<kFlush>(c)));
  });
}

struct Adder {
  FormTable& table;
  void operator()(const std::string& spelling, Form form) const {
    table.add(spelling, Category::floatingPoint, std::move(form));
  }
};

// name{.mode}{.ftz}{.sat}.f32
template <class F>
void addUnary(Adder add, const std::string& name, F f) {
  add(name + ".f32", unary<false, false>(f));
  add(name + ".ftz.f32", unary<true, false>(f));
}
template <class F>
void addBinary(Adder add, const std::string& name, F f) {
  add(name + ".f32", binary<false, false>(f));
  add(name + ".ftz.f32", binary<true, false>(f));
}
template <class F>
void addBinarySaturating(Adder add, const std::string& name, F f) {
  addBinary(add, name, f);
  add(name + ".sat.f32", binary<false, true>(f));
  add(name + ".ftz.sat.f32", binary<true, true>(f));
}
template <class F>
void addTernarySaturating(Adder add, const std::string& name, F f) {
  add(name + ".f32", ternary<false, false>(f));
  add(name + ".ftz.f32", ternary<true, false>(f));
  add(name + ".sat.f32", ternary<false, true>(f));
  add(name + ".ftz.sat.f32", ternary<true, true>(f));
}

template <Rounding kMode>
void addDirected(Adder add, const std::string& mode) {
  addBinarySaturating(add, "add" + mode,
                      [](float a, float b) { return rounded(Operation::add, kMode, a, b, 0.0f); });
  addBinarySaturating(add, "sub" + mode,
                      [](float a, float b) { return rounded(Operation::sub, kMode, a, b, 0.0f); });
  addBinarySaturating(add, "mul" + mode,
                      [](float a, float b) { return rounded(Operation::mul, kMode, a, b, 0.0f); });
  addTernarySaturating(add, "fma" + mode,
                       [](float a, float b, float c) { return rounded(Operation::fma, kMode, a, b, c); });
  addBinary(add, "div" + mode, [](float a, float b) { return rounded(Operation::div, kMode, a, b, 0.0f); });
  addUnary(add, "rcp" + mode, [](float a) { return rounded(Operation::div, kMode, 1.0f, a, 0.0f); });
  addUnary(add, "sqrt" + mode, [](float a) { return rounded(Operation::sqrt, kMode, a, 0.0f, 0.0f); });
}

// The lesser by IEEE 754-2019 minimumNumber: -0 is below +0, a NaN loses against a number.
inline float lesser(float a, float b) {
  const float equal = bitCast<float>(bitCast<uint32_t>(a) | bitCast<uint32_t>(b));
  const float least = a < b ? a : (a == b ? equal : b);
  return std::isnan(b) ? (std::isnan(a) ? bitCast<float>(0x7fffffffu) : a) : least;
}
inline float greater(float a, float b) {
  const float equal = bitCast<float>(bitCast<uint32_t>(a) & bitCast<uint32_t>(b));
  const float most = a > b ? a : (a == b ? equal : b);
  return std::isnan(b) ? (std::isnan(a) ? bitCast<float>(0x7fffffffu) : a) : most;
}
inline float orNan(float a, float b, float value) {
  return std::isnan(a) || std::isnan(b) ? bitCast<float>(0x7fffffffu) : value;
}

}  // namespace

void addFloatForms(FormTable& table) {
  const Adder add{table};
  for (const std::string mode : {"", ".rn"}) {
    addBinarySaturating(add, "add" + mode, [](float a, float b) { return a + b; });
    addBinarySaturating(add, "sub" + mode, [](float a, float b) { return a - b; });
    addBinarySaturating(add, "mul" + mode, [](float a, float b) { return a * b; });
  }
  addTernarySaturating(add, "fma.rn", [](float a, float b, float c) { return __builtin_fmaf(a, b, c); });
  addTernarySaturating(add, "mad.rn", [](float a, float b, float c) { return __builtin_fmaf(a, b, c); });
  for (const std::string mode : {".rn", ".approx", ".full"}) {
    addBinary(add, "div" + mode, [](float a, float b) { return a / b; });
  }
  for (const std::string mode : {".rn", ".approx"}) {
    addUnary(add, "rcp" + mode, [](float a) { return 1.0f / a; });
    addUnary(add, "sqrt" + mode, [](float a) { return __builtin_sqrtf(a); });
  }
  addDirected<Rounding::zero>(add, ".rz");
  addDirected<Rounding::down>(add, ".rm");
  addDirected<Rounding::up>(add, ".rp");
  addUnary(add, "rsqrt.approx",
           [](float a) { return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(a))); });
  addUnary(add, "sin.approx", [](float a) { return std::sin(a); });
  addUnary(add, "cos.approx", [](float a) { return std::cos(a); });
  addUnary(add, "lg2.approx", [](float a) { return std::log2(a); });
  addUnary(add, "ex2.approx", [](float a) { return std::exp2(a); });
  add("tanh.approx.f32", elementwise<float, float>([](float a) { return std::tanh(a); }));

  addUnary(add, "abs", [](float a) { return bitCast<float>(bitCast<uint32_t>(a) & 0x7fffffffu); });
  addUnary(add, "neg", [](float a) { return bitCast<float>(bitCast<uint32_t>(a) ^ 0x80000000u); });
  add("min.f32", binary<false, false>([](float a, float b) { return lesser(a, b); }));
  add("max.f32", binary<false, false>([](float a, float b) { return greater(a, b); }));
  add("min.ftz.f32", binary<true, false>([](float a, float b) { return lesser(a, b); }));
  add("max.ftz.f32", binary<true, false>([](float a, float b) { return greater(a, b); }));
  add("min.NaN.f32", binary<false, false>([](float a, float b) { return orNan(a, b, lesser(a, b)); }));
  add("max.NaN.f32", binary<false, false>([](float a, float b) { return orNan(a, b, greater(a, b)); }));
  add("min.ftz.NaN.f32", binary<true, false>([](float a, float b) { return orNan(a, b, lesser(a, b)); }));
  add("max.ftz.NaN.f32", binary<true, false>([](float a, float b) { return orNan(a, b, greater(a, b)); }));
  add("copysign.f32", elementwise<uint32_t, uint32_t, uint32_t>(
                          [](uint32_t a, uint32_t b) { return (a & 0x80000000u) | (b & 0x7fffffffu); }));
}

}  // namespace ptxemu
