// A small test runner: TEST(name) { … CHECK(…); }. The program takes words; it runs the tests whose names
// contain one.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/kernels.h"
#include "cuda_under_test.h"

namespace softmoe::testing {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Test {
  const char* name;
  void (*body)();
};
std::vector<Test>& tests();
struct Registration {
  Registration(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

#define TEST(name)                                                                       \
  static void test_##name();                                                             \
  static const ::softmoe::testing::Registration registration_##name(#name, test_##name); \
  static void test_##name()

// Text of the failure: what was wanted, where, and the circumstances that CONTEXT added.
[[noreturn]] void fail(const char* file, int line, const std::string& text);

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) ::softmoe::testing::fail(__FILE__, __LINE__, #condition); \
  } while (false)

template <class A, class B>
void check_equal(const A& a, const B& b, const char* file, int line, const char* text) {
  if (a == b) return;
  std::ostringstream out;
  out << text << ": " << a << " and " << b;
  fail(file, line, out.str());
}
#define CHECK_EQUAL(a, b) ::softmoe::testing::check_equal(a, b, __FILE__, __LINE__, #a " == " #b)

// Fails unless the largest |a - b| is at most tolerance * max(1e-30, largest |b|). NaN and infinity must
// agree.
void check_close(const std::vector<double>& a, const std::vector<double>& b, double tolerance,
                 const char* file, int line, const char* text);
#define CHECK_CLOSE(a, b, tolerance)                                                                         \
  ::softmoe::testing::check_close(::softmoe::testing::doubles(a), ::softmoe::testing::doubles(b), tolerance, \
                                  __FILE__, __LINE__, #a " ~ " #b)

// Adds words to the failures of this scope.
class Context {
 public:
  explicit Context(const std::string& words);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
};

// Calls `body` with the kernels of each instruction set that this machine has, or with those of a CUDA device
// (SOFTMOE_TEST_DEVICE=cuda).
void for_each_instruction_set(const std::function<void(Kernels&)>& body);

using bfloat16 = std::uint16_t;
float to_float(bfloat16 value);
bfloat16 to_bfloat16(float value);  // nearest, ties to even

// Host memory with a dtype, read and written as double.
class Values {
 public:
  Values(DType dtype, std::int64_t count) : dtype_(dtype), count_(count), bytes_(bytes_of(dtype, count)) {}
  Values(DType dtype, const std::vector<double>& values);
  double operator[](std::int64_t index) const;
  void set(std::int64_t index, double value);
  std::int64_t count() const { return count_; }
  Buffer buffer() const { return {const_cast<std::uint64_t*>(bytes_.data()), dtype_}; }
  std::vector<double> doubles() const;
  bool same_bits(const Values& other) const;

 private:
  // Filled with a pattern that no kernel makes, so that what it leaves out shows.
  using Words = std::vector<std::uint64_t, OperandAllocator<std::uint64_t>>;
  static Words bytes_of(DType dtype, std::int64_t count) {
    return Words((static_cast<std::size_t>(count) * size_of(dtype) + 15) / 8, 0x7fc1'dead'7fc1'deadULL);
  }
  DType dtype_;
  std::int64_t count_;
  Words bytes_;
};
inline std::vector<double> doubles(const Values& values) { return values.doubles(); }
inline std::vector<double> doubles(const std::vector<double>& values) { return values; }

// Standard normal numbers, the same for the same seed on every machine.
std::vector<double> normals(std::int64_t count, std::uint32_t seed, double scale = 1);
// What `values` become when stored with `dtype`.
std::vector<double> rounded(DType dtype, const std::vector<double>& values);

}  // namespace softmoe::testing
