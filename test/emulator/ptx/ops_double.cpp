// Arithmetic of f64.
#include <cmath>

#include "elementwise.h"
#include "rounding.h"

namespace ptxemu {
namespace {

template <Rounding kMode>
void addDirected(FormTable& table, const std::string& mode) {
  const Category category = Category::floatingPoint;
  auto binary = [&](const std::string& name, auto tag) {
    static constexpr Operation kOperation = decltype(tag)::value;
    table.add(name + mode + ".f64", category, elementwise<double, double, double>([](double a, double b) {
                return rounded(kOperation, kMode, a, b, 0.0);
              }));
  };
  binary("add", std::integral_constant<Operation, Operation::add>());
  binary("sub", std::integral_constant<Operation, Operation::sub>());
  binary("mul", std::integral_constant<Operation, Operation::mul>());
  binary("div", std::integral_constant<Operation, Operation::div>());
  table.add("fma" + mode + ".f64", category,
            elementwise<double, double, double, double>(
                [](double a, double b, double c) { return rounded(Operation::fma, kMode, a, b, c); }));
  table.add("rcp" + mode + ".f64", category, elementwise<double, double>([](double a) {
              return rounded(Operation::div, kMode, 1.0, a, 0.0);
            }));
  table.add("sqrt" + mode + ".f64", category, elementwise<double, double>([](double a) {
              return rounded(Operation::sqrt, kMode, a, 0.0, 0.0);
            }));
}

inline double flushed(double x) {
  const uint64_t bits = bitCast<uint64_t>(x);
  return (bits & 0x7ff0000000000000ull) == 0 ? bitCast<double>(bits & (1ull << 63)) : x;
}

}  // namespace

void addDoubleForms(FormTable& table) {
  const Category category = Category::floatingPoint;
  for (const std::string mode : {"", ".rn"}) {
    table.add("add" + mode + ".f64", category,
              elementwise<double, double, double>([](double a, double b) { return a + b; }));
    table.add("sub" + mode + ".f64", category,
              elementwise<double, double, double>([](double a, double b) { return a - b; }));
    table.add("mul" + mode + ".f64", category,
              elementwise<double, double, double>([](double a, double b) { return a * b; }));
  }
  for (const std::string name : {"fma.rn.f64", "mad.rn.f64"}) {
    table.add(name, category, elementwise<double, double, double, double>([](double a, double b, double c) {
                return __builtin_fma(a, b, c);
              }));
  }
  table.add("div.rn.f64", category,
            elementwise<double, double, double>([](double a, double b) { return a / b; }));
  table.add("rcp.rn.f64", category, elementwise<double, double>([](double a) { return 1.0 / a; }));
  table.add("sqrt.rn.f64", category, elementwise<double, double>([](double a) { return __builtin_sqrt(a); }));
  addDirected<Rounding::zero>(table, ".rz");
  addDirected<Rounding::down>(table, ".rm");
  addDirected<Rounding::up>(table, ".rp");
  // Hardware gives the upper half of the result only; code that uses these refines by Newton steps.
  table.add("rcp.approx.ftz.f64", category, elementwise<double, double>([](double a) {
              return bitCast<double>(bitCast<uint64_t>(flushed(1.0 / flushed(a))) & 0xffffffff00000000ull);
            }));
  for (const std::string name : {"rsqrt.approx.ftz.f64", "rsqrt.approx.f64"}) {
    table.add(
        name, category, elementwise<double, double>([](double a) {
          return bitCast<double>(bitCast<uint64_t>(1.0 / __builtin_sqrt(flushed(a))) & 0xffffffff00000000ull);
        }));
  }
  table.add("abs.f64", category,
            elementwise<uint64_t, uint64_t>([](uint64_t a) { return a & ~(1ull << 63); }));
  table.add("neg.f64", category, elementwise<uint64_t, uint64_t>([](uint64_t a) { return a ^ 1ull << 63; }));
  table.add("copysign.f64", category, elementwise<uint64_t, uint64_t, uint64_t>([](uint64_t a, uint64_t b) {
              return (a & 1ull << 63) | (b & ~(1ull << 63));
            }));
  table.add("min.f64", category, elementwise<double, double, double>([](double a, double b) {
              const double equal = bitCast<double>(bitCast<uint64_t>(a) | bitCast<uint64_t>(b));
              return std::isnan(b) ? a : (std::isnan(a) || b < a) ? b : a == b ? equal : a;
            }));
  table.add("max.f64", category, elementwise<double, double, double>([](double a, double b) {
              const double equal = bitCast<double>(bitCast<uint64_t>(a) & bitCast<uint64_t>(b));
              return std::isnan(b) ? a : (std::isnan(a) || b > a) ? b : a == b ? equal : a;
            }));
}

}  // namespace ptxemu
