// Models of f32, f64, f16 and bf16 forms. Exact values are computed in 113-bit floats and rounded by the
// functions of numbers.h.
#include <cmath>

#include "forms.h"
#include "numbers.h"

namespace ptxtest {
namespace {

const std::pair<const char*, Toward> kModes[] = {
    {".rn", Toward::nearest}, {".rz", Toward::zero}, {".rm", Toward::down}, {".rp", Toward::up}};

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
float clampUnit(float x) { return std::isnan(x) || x <= 0 ? 0.0f : x > 1 ? 1.0f : x; }

bool special(double x) { return std::isnan(x) || std::isinf(x); }

// A sum, product or quotient in every mode; non-finite cases and signed zeros as the plain operation gives
// them.
template <class T>
T inMode(Toward mode, Wide exact, T plain, Wide lost = 0) {
  if (std::isnan(plain) || exact != exact || exact == Wide(INFINITY) || exact == -Wide(INFINITY))
    return plain;
  if (exact == 0) return plain;
  return roundWide<T>(exact, mode, lost);
}
// x + y that cancels is -0 when rounding down.
template <class T>
T sum(Toward mode, T x, T y) {
  const T plain = x + y;
  if (special(x) || special(y)) return plain;
  if (Wide(x) + y == 0 && mode == Toward::down &&
      !(x == 0 && y == 0 && !std::signbit(x) && !std::signbit(y))) {
    return static_cast<T>(-0.0);
  }
  return inMode<T>(mode, Wide(x) + y, plain, lostIn(Wide(x) + y, x, y));
}
template <class T>
T product(Toward mode, T x, T y) {
  const T plain = x * y;
  return special(x) || special(y) ? plain : inMode<T>(mode, Wide(x) * y, plain);
}
template <class T>
T quotient(Toward mode, T x, T y) {
  const T plain = x / y;
  return special(x) || special(y) || y == 0 ? plain : inMode<T>(mode, Wide(x) / y, plain);
}
template <class T>
T root(Toward mode, T x) {
  const T near = std::sqrt(x);
  if (special(near) || mode == Toward::nearest || near == 0) return near;
  const Wide square = Wide(near) * near;
  if (mode == Toward::up) return square < x ? std::nextafter(near, static_cast<T>(INFINITY)) : near;
  return square > x ? std::nextafter(near, static_cast<T>(0)) : near;
}
template <class T>
T fused(Toward mode, T x, T y, T z) {
  const T plain = std::fma(x, y, z);
  if (special(x) || special(y) || special(z)) return plain;
  const Wide exact = Wide(x) * y + z;
  if (exact == 0) {
    const bool bothNegative = (std::signbit(x) != std::signbit(y)) && std::signbit(z);
    const bool bothPositive = (std::signbit(x) == std::signbit(y)) && !std::signbit(z);
    if (bothNegative || bothPositive) return bothNegative ? static_cast<T>(-0.0) : static_cast<T>(0.0);
    return mode == Toward::down ? static_cast<T>(-0.0) : static_cast<T>(0.0);
  }
  return inMode<T>(mode, exact, plain, lostIn(exact, Wide(x) * y, z));
}

using Scalar = std::function<float(float, float, float)>;

// name{.ftz}{.sat}.f32
void checkSingle(const std::string& name, bool saturates, Compare compare, const Scalar& scalar) {
  for (const bool ftz : {false, true}) {
    for (const bool sat : {false, true}) {
      if (sat && !saturates) continue;
      checkForm(name + (ftz ? ".ftz" : "") + (sat ? ".sat" : "") + ".f32", compare, Draw::single,
                [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
                  auto in = [&](uint64_t x) { return ftz ? flushed(f32(x)) : f32(x); };
                  float value = scalar(in(a), in(b), in(c));
                  if (ftz) value = flushed(value);
                  return bits(sat ? clampUnit(value) : value);
                });
    }
  }
}

float lesser(float a, float b) {
  if (std::isnan(a)) return b;
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
float greater(float a, float b) {
  if (std::isnan(a)) return b;
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}
float orNan(float a, float b, float value) { return std::isnan(a) || std::isnan(b) ? NAN : value; }

const Test singles("f32 forms", [] {
  for (const auto& [suffix, toward] : kModes) {
    const Toward mode = toward;
    const std::string dot = suffix;
    checkSingle("add" + dot, true, Compare::float32,
                [=](float a, float b, float) { return sum(mode, a, b); });
    checkSingle("sub" + dot, true, Compare::float32,
                [=](float a, float b, float) { return sum(mode, a, -b); });
    checkSingle("mul" + dot, true, Compare::float32,
                [=](float a, float b, float) { return product(mode, a, b); });
    checkSingle("fma" + dot, true, Compare::float32,
                [=](float a, float b, float c) { return fused(mode, a, b, c); });
    checkSingle("div" + dot, false, Compare::float32,
                [=](float a, float b, float) { return quotient(mode, a, b); });
    checkSingle("rcp" + dot, false, Compare::float32,
                [=](float a, float, float) { return quotient(mode, 1.0f, a); });
    checkSingle("sqrt" + dot, false, Compare::float32, [=](float a, float, float) { return root(mode, a); });
  }
  const Toward rn = Toward::nearest;
  checkSingle("add", true, Compare::float32, [=](float a, float b, float) { return sum(rn, a, b); });
  checkSingle("sub", true, Compare::float32, [=](float a, float b, float) { return sum(rn, a, -b); });
  checkSingle("mul", true, Compare::float32, [=](float a, float b, float) { return product(rn, a, b); });
  checkSingle("mad.rn", true, Compare::float32,
              [=](float a, float b, float c) { return fused(rn, a, b, c); });
  for (const std::string kind : {".approx", ".full"}) {
    checkSingle("div" + kind, false, Compare::close32,
                [=](float a, float b, float) { return quotient(rn, a, b); });
  }
  checkSingle("rcp.approx", false, Compare::close32,
              [=](float a, float, float) { return quotient(rn, 1.0f, a); });
  checkSingle("sqrt.approx", false, Compare::close32, [](float a, float, float) { return std::sqrt(a); });
  checkSingle("rsqrt.approx", false, Compare::close32,
              [](float a, float, float) { return static_cast<float>(1 / std::sqrt(double(a))); });
  checkSingle("ex2.approx", false, Compare::close32,
              [](float a, float, float) { return static_cast<float>(std::exp2(double(a))); });
  checkSingle("lg2.approx", false, Compare::close32,
              [](float a, float, float) { return static_cast<float>(std::log2(double(a))); });
  checkSingle("sin.approx", false, Compare::close32,
              [](float a, float, float) { return static_cast<float>(std::sin(double(a))); });
  checkSingle("cos.approx", false, Compare::close32,
              [](float a, float, float) { return static_cast<float>(std::cos(double(a))); });
  checkForm("tanh.approx.f32", Compare::close32, Draw::single, [](uint64_t a, uint64_t, uint64_t, uint64_t) {
    return bits(static_cast<float>(std::tanh(double(f32(a)))));
  });
  checkSingle("abs", false, Compare::float32, [](float a, float, float) { return std::fabs(a); });
  checkSingle("neg", false, Compare::float32, [](float a, float, float) { return -a; });
  checkSingle("min", false, Compare::float32, [](float a, float b, float) { return lesser(a, b); });
  checkSingle("max", false, Compare::float32, [](float a, float b, float) { return greater(a, b); });
  for (const bool ftz : {false, true}) {
    for (const bool isMin : {false, true}) {
      checkForm(std::string(isMin ? "min" : "max") + (ftz ? ".ftz" : "") + ".NaN.f32", Compare::float32,
                Draw::single, [=](uint64_t x, uint64_t y, uint64_t, uint64_t) {
                  const float a = ftz ? flushed(f32(x)) : f32(x), b = ftz ? flushed(f32(y)) : f32(y);
                  return bits(orNan(a, b, isMin ? lesser(a, b) : greater(a, b)));
                });
    }
  }
  checkForm("copysign.f32", Compare::bits, Draw::single,
            [](uint64_t a, uint64_t b, uint64_t, uint64_t) { return (a & 0x80000000) | (b & 0x7fffffff); });
});

const Test doubles("f64 forms", [] {
  auto form = [](const std::string& name, Compare compare,
                 const std::function<double(double, double, double)>& scalar) {
    checkForm(name + ".f64", compare, Draw::wide, [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
      return bits(scalar(f64(a), f64(b), f64(c)));
    });
  };
  for (const auto& [suffix, toward] : kModes) {
    const Toward mode = toward;
    const std::string dot = suffix;
    form("add" + dot, Compare::float64, [=](double a, double b, double) { return sum(mode, a, b); });
    form("sub" + dot, Compare::float64, [=](double a, double b, double) { return sum(mode, a, -b); });
    form("mul" + dot, Compare::float64, [=](double a, double b, double) { return product(mode, a, b); });
    form("div" + dot, Compare::float64, [=](double a, double b, double) { return quotient(mode, a, b); });
    form("rcp" + dot, Compare::float64, [=](double a, double, double) { return quotient(mode, 1.0, a); });
    form("sqrt" + dot, Compare::float64, [=](double a, double, double) { return root(mode, a); });
  }
  for (const auto& [suffix, toward] : kModes) {
    const Toward mode = toward;
    form(std::string("fma") + suffix, Compare::float64,
         [=](double a, double b, double c) { return fused(mode, a, b, c); });
  }
  form("mad.rn", Compare::float64, [](double a, double b, double c) { return std::fma(a, b, c); });
  form("add", Compare::float64, [](double a, double b, double) { return a + b; });
  form("sub", Compare::float64, [](double a, double b, double) { return a - b; });
  form("mul", Compare::float64, [](double a, double b, double) { return a * b; });
  form("abs", Compare::bits, [](double a, double, double) { return std::fabs(a); });
  form("neg", Compare::bits, [](double a, double, double) { return -a; });
  form("min", Compare::float64, [](double a, double b, double) {
    return std::isnan(a) ? b : std::isnan(b) ? a : a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
  });
  form("max", Compare::float64, [](double a, double b, double) {
    return std::isnan(a) ? b : std::isnan(b) ? a : a == b ? (std::signbit(a) ? b : a) : a > b ? a : b;
  });
  checkForm("copysign.f64", Compare::bits, Draw::wide, [](uint64_t a, uint64_t b, uint64_t, uint64_t) {
    return (a & 1ull << 63) | (b & ~(1ull << 63));
  });
  auto flushedWide = [](double x) { return std::fabs(x) < 0x1p-1022 ? std::copysign(0.0, x) : x; };
  static const auto flush = flushedWide;
  form("rcp.approx.ftz", Compare::close64, [](double a, double, double) { return flush(1 / flush(a)); });
  form("rsqrt.approx.ftz", Compare::close64,
       [](double a, double, double) { return 1 / std::sqrt(flush(a)); });
  form("rsqrt.approx", Compare::close64, [](double a, double, double) { return 1 / std::sqrt(flush(a)); });
});

const Test floatComparisons("float setp forms", [] {
  const std::pair<const char*, std::function<bool(int)>> operators[] = {
      // -1 less, 0 equal, 1 greater, 2 unordered
      {"eq", [](int o) { return o == 0; }},
      {"ne", [](int o) { return o == -1 || o == 1; }},
      {"lt", [](int o) { return o == -1; }},
      {"le", [](int o) { return o <= 0; }},
      {"gt", [](int o) { return o == 1; }},
      {"ge", [](int o) { return o == 0 || o == 1; }},
      {"equ", [](int o) { return o == 0 || o == 2; }},
      {"neu", [](int o) { return o != 0; }},
      {"ltu", [](int o) { return o == -1 || o == 2; }},
      {"leu", [](int o) { return o != 1; }},
      {"gtu", [](int o) { return o >= 1; }},
      {"geu", [](int o) { return o != -1; }},
      {"num", [](int o) { return o != 2; }},
      {"nan", [](int o) { return o == 2; }}};
  auto outcome = [](double a, double b) {
    return std::isnan(a) || std::isnan(b) ? 2 : a < b ? -1 : a > b ? 1 : 0;
  };
  for (const auto& [name, holds] : operators) {
    const auto& accepted = holds;
    checkForm(std::string("setp.") + name + ".f32", Compare::bits, Draw::single,
              [&](uint64_t a, uint64_t b, uint64_t, uint64_t) {
                return uint64_t(accepted(outcome(f32(a), f32(b))));
              });
    checkForm(std::string("setp.") + name + ".f64", Compare::bits, Draw::wide,
              [&](uint64_t a, uint64_t b, uint64_t, uint64_t) {
                return uint64_t(accepted(outcome(f64(a), f64(b))));
              });
  }
});

// -- narrow formats
// -------------------------------------------------------------------------------------------------

struct Narrow {
  std::string type;
  bool isHalf;
  double valueOf(uint64_t bits) const {
    return isHalf ? halfValue(static_cast<uint16_t>(bits)) : bfloatValue(static_cast<uint16_t>(bits));
  }
  uint16_t round(Wide value, Wide lost = 0) const {
    return isHalf ? toHalfModel(value, Toward::nearest, lost) : toBfloatModel(value, Toward::nearest, lost);
  }
  uint16_t flush(uint64_t bits) const {
    const uint16_t exponent = isHalf ? 0x7c00 : 0x7f80;
    return static_cast<uint16_t>((bits & exponent) == 0 ? bits & 0x8000 : bits);
  }
  Compare compare() const { return isHalf ? Compare::float16 : Compare::bfloat16; }
  Draw draw() const { return isHalf ? Draw::half : Draw::bfloat; }
};

using Scalar16 = std::function<uint16_t(uint16_t, uint16_t, uint16_t)>;

void checkBoth(const Narrow& format, const std::string& name, Compare compare, const Scalar16& scalar) {
  checkForm(
      name + "." + format.type, compare, format.draw(), [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
        return uint64_t(scalar(static_cast<uint16_t>(a), static_cast<uint16_t>(b), static_cast<uint16_t>(c)));
      });
  checkForm(name + "." + format.type + "x2", compare, format.draw(),
            [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
              const uint64_t low =
                  scalar(static_cast<uint16_t>(a), static_cast<uint16_t>(b), static_cast<uint16_t>(c));
              const uint64_t high = scalar(static_cast<uint16_t>(a >> 16), static_cast<uint16_t>(b >> 16),
                                           static_cast<uint16_t>(c >> 16));
              return high << 16 | low;
            });
}

enum class After { nothing, saturate, relu };

uint16_t finished(const Narrow& format, Wide exact, Wide lost, double plain, After after, bool ftz) {
  // `plain` has the right class (NaN, infinity, signed zero) when the exact value is none of a finite
  // non-zero number.
  const bool odd = plain != plain || exact != exact || exact == 0;
  if (plain != plain) return after == After::saturate ? 0 : 0x7fff;
  Wide value = odd ? Wide(plain) : exact;
  if (after == After::saturate) {
    if (value < 0 || (value == 0)) return 0;
    if (value >= 1) value = 1, lost = 0;
  }
  if (after == After::relu && value < 0) return 0;
  if (value == 0) return std::signbit(plain) ? 0x8000 : 0;
  const uint16_t bits = format.round(value, lost);
  return ftz ? format.flush(bits) : bits;
}

void checkArithmetic(const Narrow& format, const std::string& suffix, bool ftz, After after, bool fmaOnly) {
  auto in = [&](uint16_t x) { return format.valueOf(ftz ? format.flush(x) : x); };
  for (const std::string mode : {"", ".rn"}) {
    if (fmaOnly) break;
    checkBoth(format, "add" + mode + suffix, format.compare(), [&](uint16_t a, uint16_t b, uint16_t) {
      return finished(format, Wide(in(a)) + in(b), 0, in(a) + in(b), after, ftz);
    });
    checkBoth(format, "sub" + mode + suffix, format.compare(), [&](uint16_t a, uint16_t b, uint16_t) {
      return finished(format, Wide(in(a)) - in(b), 0, in(a)-in(b), after, ftz);
    });
    checkBoth(format, "mul" + mode + suffix, format.compare(), [&](uint16_t a, uint16_t b, uint16_t) {
      return finished(format, Wide(in(a)) * in(b), 0, in(a)*in(b), after, ftz);
    });
  }
  checkBoth(format, "fma.rn" + suffix, format.compare(), [&](uint16_t a, uint16_t b, uint16_t c) {
    const Wide factor = Wide(in(a)) * in(b), exact = factor + in(c);
    const Wide lost =
        special(in(a)) || special(in(b)) || special(in(c)) ? Wide(0) : lostIn(exact, factor, in(c));
    return finished(format, exact, lost, std::fma(in(a), in(b), in(c)), after, ftz);
  });
}

void checkMinMax(const Narrow& format, const std::string& suffix, bool ftz, bool nan) {
  for (const bool isMin : {true, false}) {
    checkBoth(format, (isMin ? "min" : "max") + suffix, format.compare(),
              [&](uint16_t x, uint16_t y, uint16_t) -> uint16_t {
                const uint16_t a = ftz ? format.flush(x) : x, b = ftz ? format.flush(y) : y;
                const double valueA = format.valueOf(a), valueB = format.valueOf(b);
                if (nan && (std::isnan(valueA) || std::isnan(valueB))) return 0x7fff;
                if (std::isnan(valueA)) return b;
                if (std::isnan(valueB)) return a;
                if (valueA == valueB) return (a >> 15) == (isMin ? 1 : 0) ? a : b;
                return (valueA < valueB) == isMin ? a : b;
              });
  }
}

void checkFormat(const Narrow& format) {
  checkArithmetic(format, "", false, After::nothing, false);
  checkArithmetic(format, ".sat", false, After::saturate, false);
  checkArithmetic(format, ".relu", false, After::relu, true);
  checkMinMax(format, "", false, false);
  checkMinMax(format, ".NaN", false, true);
  checkBoth(format, "abs", format.compare(),
            [](uint16_t a, uint16_t, uint16_t) { return static_cast<uint16_t>(a & 0x7fff); });
  checkBoth(format, "neg", format.compare(),
            [](uint16_t a, uint16_t, uint16_t) { return static_cast<uint16_t>(a ^ 0x8000); });
  const Compare close = format.isHalf ? Compare::close16 : Compare::closeBf16;
  checkBoth(format, "tanh.approx", close,
            [&](uint16_t a, uint16_t, uint16_t) { return format.round(std::tanh(format.valueOf(a))); });
}

const Test halves("f16 forms", [] {
  const Narrow half{"f16", true};
  checkFormat(half);
  checkArithmetic(half, ".ftz", true, After::nothing, false);
  checkArithmetic(half, ".ftz.sat", true, After::saturate, false);
  checkArithmetic(half, ".ftz.relu", true, After::relu, true);
  checkMinMax(half, ".ftz", true, false);
  checkMinMax(half, ".ftz.NaN", true, true);
  checkBoth(half, "abs.ftz", Compare::float16,
            [&](uint16_t a, uint16_t, uint16_t) { return static_cast<uint16_t>(half.flush(a) & 0x7fff); });
  checkBoth(half, "neg.ftz", Compare::float16,
            [&](uint16_t a, uint16_t, uint16_t) { return static_cast<uint16_t>(half.flush(a) ^ 0x8000); });
  checkBoth(half, "ex2.approx", Compare::close16,
            [&](uint16_t a, uint16_t, uint16_t) { return half.round(std::exp2(half.valueOf(a))); });
});

const Test bfloats("bf16 forms", [] {
  const Narrow bfloat{"bf16", false};
  checkFormat(bfloat);
  checkBoth(bfloat, "ex2.approx.ftz", Compare::closeBf16, [&](uint16_t a, uint16_t, uint16_t) {
    return bfloat.flush(bfloat.round(std::exp2(bfloat.valueOf(bfloat.flush(a)))));
  });
});

}  // namespace
}  // namespace ptxtest
