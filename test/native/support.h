// What the native tests share: random data, bfloat16, one set of kernels for each instruction set of this machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/kernels.h"
#include "cpu/isa_detect.h"

namespace softmoe::test {

inline int failures = 0;
inline int checks = 0;

inline float bfloat16_value(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

inline std::uint16_t bfloat16_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// An operand in one dtype, with its values in double. Memory has guard bytes on both sides; `intact` checks them.
class Operand {
 public:
  Operand() = default;
  Operand(DType dtype, std::int64_t count) : dtype_(dtype), count_(count) {
    bytes_.assign(static_cast<std::size_t>(count) * size_of(dtype) + 2 * kGuard, kFill);
    // Results start as NaN, so that an element never written shows.
    for (std::int64_t i = 0; i < count; ++i) set(i, std::numeric_limits<float>::quiet_NaN());
  }
  Operand(DType dtype, const std::vector<double>& values) : Operand(dtype, static_cast<std::int64_t>(values.size())) {
    for (std::int64_t i = 0; i < count_; ++i) set(i, static_cast<float>(values[static_cast<std::size_t>(i)]));
  }

  Buffer buffer() { return {data(), dtype_}; }
  std::int64_t count() const { return count_; }
  unsigned char* data() { return bytes_.data() + kGuard; }
  const unsigned char* data() const { return bytes_.data() + kGuard; }
  double at(std::int64_t i) const {
    if (dtype_ == DType::kBFloat16) {
      std::uint16_t bits;
      std::memcpy(&bits, data() + 2 * i, 2);
      return static_cast<double>(bfloat16_value(bits));
    }
    float value;
    std::memcpy(&value, data() + 4 * i, 4);
    return static_cast<double>(value);
  }
  void set(std::int64_t i, float value) {
    if (dtype_ == DType::kBFloat16) {
      const std::uint16_t bits = std::isnan(value) ? std::uint16_t{0x7fc0} : bfloat16_bits(value);
      std::memcpy(data() + 2 * i, &bits, 2);
    } else {
      std::memcpy(data() + 4 * i, &value, 4);
    }
  }
  bool intact() const {
    for (std::size_t i = 0; i < kGuard; ++i) {
      if (bytes_[i] != kFill || bytes_[bytes_.size() - 1 - i] != kFill) return false;
    }
    return true;
  }
  bool same_bits(const Operand& other) const {
    return bytes_.size() == other.bytes_.size() && std::memcmp(data(), other.data(), bytes_.size() - 2 * kGuard) == 0;
  }
  DType dtype() const { return dtype_; }

 private:
  static constexpr std::size_t kGuard = 64;
  static constexpr unsigned char kFill = 0xa5;
  DType dtype_ = DType::kFloat32;
  std::int64_t count_ = 0;
  std::vector<unsigned char> bytes_;
};

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }
  double normal() { return std::normal_distribution<double>()(engine_); }
  template <class T>
  T choose(std::initializer_list<T> options) {
    return *(options.begin() + integer(0, static_cast<std::int64_t>(options.size()) - 1));
  }
  Operand values(DType dtype, std::int64_t count, double scale = 1) {
    Operand operand(dtype, count);
    for (std::int64_t i = 0; i < count; ++i) operand.set(i, static_cast<float>(scale * normal()));
    return operand;
  }

 private:
  std::mt19937 engine_;
};

inline void check(bool holds, const std::string& what) {
  ++checks;
  if (!holds) {
    ++failures;
    if (failures <= 50) std::printf("FAILED %s\n", what.c_str());
  }
}

// |got - wanted| <= tolerance * (largest |wanted| + floor), everywhere, and the guards hold.
inline void check_close(const Operand& got, const std::vector<double>& wanted, double tolerance,
                        const std::string& what, double floor = 1e-30) {
  double largest = floor, worst = 0;
  std::size_t where = 0;
  for (double value : wanted) largest = std::fmax(largest, std::fabs(value));
  bool finite = true;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double error = std::fabs(got.at(static_cast<std::int64_t>(i)) - wanted[i]);
    if (!(error <= worst)) {
      if (std::isnan(error)) finite = false;
      worst = error;
      where = i;
    }
    if (!finite) break;
  }
  const bool fits = got.count() == static_cast<std::int64_t>(wanted.size());
  check(fits && finite && worst <= tolerance * largest,
        what + ": error " + std::to_string(worst / largest) + " of the largest element, at " + std::to_string(where) +
            " got " + std::to_string(where < wanted.size() ? got.at(static_cast<std::int64_t>(where)) : 0) +
            " wanted " + std::to_string(where < wanted.size() ? wanted[where] : 0));
  check(got.intact(), what + ": wrote out of bounds");
}

inline double float32_tolerance(DType dtype) { return dtype == DType::kBFloat16 ? 1.2e-2 : 2e-5; }

// The kernels of one instruction set with scratch of their own.
class Machine {
 public:
  explicit Machine(const std::string& isa) : name(isa), kernels_(cpu::make_kernels(isa, pool(), scratch_)) {}
  static cpu::ThreadPool& pool() { return cpu::ThreadPool::instance(); }
  template <class Args>
  void run(const Args& args) {
    kernels_->run(args);
  }
  std::string name;

 private:
  cpu::Scratch scratch_;
  std::unique_ptr<Kernels> kernels_;
};

inline double activation_value(Activation activation, double x) {
  const double u = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
  switch (activation) {
    case Activation::kGeluTanh: return 0.5 * x * (1 + std::tanh(u));
    case Activation::kGeluErf: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kTanh: return std::tanh(x);
    case Activation::kNone: break;
  }
  return x;
}
inline double activation_slope(Activation activation, double x) {
  const double h = 1e-5;
  return (activation_value(activation, x + h) - activation_value(activation, x - h)) / (2 * h);
}

void test_linear(Machine& machine, std::uint32_t seed);
void test_experts(Machine& machine, std::uint32_t seed);
void test_attention(Machine& machine, std::uint32_t seed);
void test_soft_routing(Machine& machine, std::uint32_t seed);

}  // namespace softmoe::test
