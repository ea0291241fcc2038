#include "testing.h"

#include <cstdio>
#include <cstring>
#include <exception>

#include "cpu/isa_detect.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

#if defined(SOFTMOE_HAVE_EMULATED_AMX)
namespace softmoe::cpu {
std::unique_ptr<Kernels> make_kernels_emulated_amx(ThreadPool& pool, Scratch& scratch);
}
#endif

namespace softmoe::testing {
namespace {

std::vector<std::string>& contexts() {
  static std::vector<std::string> words;
  return words;
}

}  // namespace

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

void fail(const char* file, int line, const std::string& text) {
  std::string message = std::string(file) + ":" + std::to_string(line) + ": " + text;
  for (const std::string& words : contexts()) message += " [" + words + "]";
  throw Failure(message);
}

void check_close(const std::vector<double>& a, const std::vector<double>& b, double tolerance,
                 const char* file, int line, const char* text) {
  if (a.size() != b.size()) fail(file, line, std::string(text) + ": the lengths differ");
  double largest = 1e-30, worst = 0;
  std::size_t where = 0;
  for (const double value : b) {
    if (std::isfinite(value)) largest = std::max(largest, std::fabs(value));
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool agree = std::isfinite(b[i]) ? std::isfinite(a[i])
                       : std::isnan(b[i])  ? std::isnan(a[i])
                                           : a[i] == b[i];
    const double error = agree ? (std::isfinite(b[i]) ? std::fabs(a[i] - b[i]) : 0) : HUGE_VAL;
    if (error > worst) {
      worst = error;
      where = i;
    }
  }
  if (worst <= tolerance * largest) return;
  std::ostringstream out;
  out.precision(9);
  out << text << ": error " << worst << " of " << largest << " at " << where << ": " << a[where] << " for "
      << b[where];
  fail(file, line, out.str());
}

Context::Context(const std::string& words) { contexts().push_back(words); }
Context::~Context() {
  // Kept while a failure passes, so that the report can name it.
  if (std::uncaught_exceptions() == 0) contexts().pop_back();
}

void for_each_instruction_set(const std::function<void(Kernels&)>& body) {
  if (tests_cuda()) {
    body(cuda_kernels());
    return;
  }
  for (const std::string& name : cpu::available_instruction_sets()) {
    const Context context(name);
    cpu::Scratch scratch;
    const std::unique_ptr<Kernels> kernels = cpu::make_kernels(name, cpu::ThreadPool::instance(), scratch);
    body(*kernels);
#if defined(SOFTMOE_HAVE_EMULATED_AMX)
    if (name == "avx512bf16") {
      const Context emulated("emulated tiles");
      body(*cpu::make_kernels_emulated_amx(cpu::ThreadPool::instance(), scratch));
    }
#endif
  }
}

float to_float(bfloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

bfloat16 to_bfloat16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return static_cast<bfloat16>(bits >> 16 | 0x40);
  bits += 0x7fff + (bits >> 16 & 1);
  return static_cast<bfloat16>(bits >> 16);
}

Values::Values(DType dtype, const std::vector<double>& values)
    : Values(dtype, static_cast<std::int64_t>(values.size())) {
  for (std::int64_t i = 0; i < count_; ++i) set(i, values[static_cast<std::size_t>(i)]);
}

double Values::operator[](std::int64_t index) const {
  if (dtype_ == DType::kFloat32) return buffer().as<float>()[index];
  if (dtype_ == DType::kInt32) return buffer().as<std::int32_t>()[index];
  return to_float(buffer().as<bfloat16>()[index]);
}

void Values::set(std::int64_t index, double value) {
  if (dtype_ == DType::kFloat32) {
    buffer().as<float>()[index] = static_cast<float>(value);
  } else if (dtype_ == DType::kInt32) {
    buffer().as<std::int32_t>()[index] = static_cast<std::int32_t>(value);
  } else {
    buffer().as<bfloat16>()[index] = to_bfloat16(static_cast<float>(value));
  }
}

std::vector<double> Values::doubles() const {
  std::vector<double> result(static_cast<std::size_t>(count_));
  for (std::int64_t i = 0; i < count_; ++i) result[static_cast<std::size_t>(i)] = (*this)[i];
  return result;
}

bool Values::same_bits(const Values& other) const {
  return count_ == other.count_ && dtype_ == other.dtype_ &&
         std::memcmp(bytes_.data(), other.bytes_.data(),
                     static_cast<std::size_t>(count_) * size_of(dtype_)) == 0;
}

std::vector<double> normals(std::int64_t count, std::uint32_t seed, double scale) {
  std::mt19937 generator(seed);
  const auto draw = [&] { return (generator() + 0.5) / 4294967296.0; };
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values)
    value = scale * std::sqrt(-2 * std::log(draw())) * std::cos(6.283185307179586 * draw());
  return values;
}

std::vector<double> rounded(DType dtype, const std::vector<double>& values) {
  return Values(dtype, values).doubles();
}

}  // namespace softmoe::testing

int main(int count, char** words) {
  int run = 0, failed = 0;
  for (const softmoe::testing::Test& test : softmoe::testing::tests()) {
    bool wanted = count < 2;
    for (int i = 1; i < count; ++i) wanted = wanted || std::strstr(test.name, words[i]);
    if (!wanted) continue;
    ++run;
    softmoe::testing::contexts().clear();
    try {
      test.body();
      std::printf("ok      %s\n", test.name);
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED  %s\n        %s\n", test.name, error.what());
    }
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed\n", run - failed, failed);
  return failed || run == 0 ? 1 : 0;
}
