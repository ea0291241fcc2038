// The products of compute capability 9.0 (SOFTMOE_CUDA_WGMMA=1): the expert MLP against loops in double and
// against the products that all devices have, and what the emulated driver counts. They are run on the
// emulated driver only so far.
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "cases.h"
#include "cuda/cuda_device.h"

namespace softmoe::testing {
namespace {

using Doubles = std::vector<double>;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

// A device of its own, with the products on or off whatever the environment says.
std::shared_ptr<cuda::CudaDevice> open_device(bool wgmma) {
  const char* before = std::getenv("SOFTMOE_CUDA_WGMMA");
  const std::string kept = before ? before : "";
  ::setenv("SOFTMOE_CUDA_WGMMA", wgmma ? "1" : "0", 1);
  std::shared_ptr<cuda::CudaDevice> device = cuda::CudaDevice::open(0);
  if (before) {
    ::setenv("SOFTMOE_CUDA_WGMMA", kept.c_str(), 1);
  } else {
    ::unsetenv("SOFTMOE_CUDA_WGMMA");
  }
  return device;
}

struct Layer {
  std::int64_t experts, rows, dim, hidden, out;
};

void check_layer(const Layer& c, Activation activation, double dropout) {
  const Context context("experts " + std::to_string(c.experts) + " rows " + std::to_string(c.rows) + " dim " +
                        std::to_string(c.dim) + " hidden " + std::to_string(c.hidden) + " out " +
                        std::to_string(c.out));
  const DType dtype = DType::kBFloat16;
  Random random(11);
  const std::int64_t total = c.experts * c.rows;
  const Values x = random.values(dtype, total * c.dim);
  const Values w1 = random.values(dtype, c.experts * c.dim * c.hidden, 0.1);
  const Values w2 = random.values(dtype, c.experts * c.hidden * c.out, 0.1);
  const Values b1 = random.values(DType::kFloat32, c.experts * c.hidden);
  const Values b2 = random.values(DType::kFloat32, c.experts * c.out);
  const Values dy = random.values(dtype, total * c.out);
  struct Results {
    Values pre, y, dx;
  };
  const auto run = [&](bool wgmma) {
    Results results{Values(DType::kBFloat16, total * c.hidden), Values(DType::kBFloat16, total * c.out),
                    Values(DType::kBFloat16, total * c.dim)};
    const std::shared_ptr<cuda::CudaDevice> device = open_device(wgmma);
    ExpertsForward forward;
    forward.rows.num_experts = c.experts, forward.rows.rows_per_expert = c.rows,
    forward.rows.max_rows = total;
    forward.x = x.buffer(), forward.w1 = w1.buffer(), forward.b1 = b1.buffer();
    forward.w2 = w2.buffer(), forward.b2 = b2.buffer();
    forward.pre = results.pre.buffer(), forward.y = results.y.buffer();
    forward.dim = c.dim, forward.hidden = c.hidden, forward.out = c.out;
    forward.activation = activation, forward.dropout_rate = dropout, forward.key = {5, 6};
    device->launch(forward);
    ExpertsBackward backward;
    backward.rows = forward.rows, backward.x = x.buffer(), backward.w1 = w1.buffer();
    backward.w2 = w2.buffer(), backward.pre = results.pre.buffer(), backward.dy = dy.buffer();
    backward.dx = results.dx.buffer();
    backward.dim = c.dim, backward.hidden = c.hidden, backward.out = c.out;
    backward.activation = activation, backward.dropout_rate = dropout, backward.key = forward.key;
    device->launch(backward);
    device->synchronize();
    return results;
  };
  const Results wide = run(true), usual = run(false);
  CHECK_CLOSE(wide.pre, usual.pre.doubles(), 1e-2);
  CHECK_CLOSE(wide.y, usual.y.doubles(), 1e-2);
  CHECK_CLOSE(wide.dx, usual.dx.doubles(), 1e-2);

  Doubles pre(at(total * c.hidden)), activated(pre.size()), y(at(total * c.out));
  for (std::int64_t r = 0; r < total; ++r) {
    const std::int64_t e = r / c.rows;
    for (std::int64_t h = 0; h < c.hidden; ++h) {
      double sum = b1[e * c.hidden + h];
      for (std::int64_t d = 0; d < c.dim; ++d) sum += x[r * c.dim + d] * w1[(e * c.dim + d) * c.hidden + h];
      pre[at(r * c.hidden + h)] = sum;
      activated[at(r * c.hidden + h)] = activation_value(activation, sum);
    }
  }
  CHECK_CLOSE(wide.pre, pre, 1e-2);
  if (dropout > 0) return;
  activated = rounded(dtype, activated);
  for (std::int64_t r = 0; r < total; ++r) {
    const std::int64_t e = r / c.rows;
    for (std::int64_t o = 0; o < c.out; ++o) {
      double sum = b2[e * c.out + o];
      for (std::int64_t h = 0; h < c.hidden; ++h)
        sum += activated[at(r * c.hidden + h)] * w2[(e * c.hidden + h) * c.out + o];
      y[at(r * c.out + o)] = sum;
    }
  }
  CHECK_CLOSE(wide.y, y, 1e-2);
}

bool is_emulated() {
  const char* driver = std::getenv("SOFTMOE_CUDA_DRIVER");
  return driver && std::string(driver).find("libcuda_emulated") != std::string::npos;
}

TEST(cuda_wide_products) {
  if (!tests_cuda()) return;
  // Ragged edges in every direction; then whole tiles, and more slices than the ring has stages.
  check_layer({2, 136, 72, 200, 88}, Activation::kGeluTanh, 0);
  check_layer({1, 257, 40, 136, 40}, Activation::kGeluErf, 0.3);
  check_layer({1, 128, 448, 128, 64}, Activation::kNone, 0);
}

// In a process of its own: two products with a whole number of tiles.
TEST(cuda_wide_counted) {
  if (!std::getenv("SOFTMOE_TEST_WIDE_COUNTED")) return;
  check_layer({2, 256, 128, 256, 128}, Activation::kGeluTanh, 0);
}

double counter(const std::string& line, const std::string& name) {
  const std::size_t found = line.find("\"" + name + "\":");
  return found == std::string::npos ? 0 : std::strtod(line.c_str() + found + name.size() + 3, nullptr);
}

TEST(cuda_wide_counters) {
  if (!tests_cuda() || !is_emulated()) return;
  std::array<char, 4096> path{};
  CHECK(::readlink("/proc/self/exe", path.data(), path.size() - 1) > 0);
  const std::string file = "/tmp/softmoe-wide-counters-" + std::to_string(::getpid());
  const std::string command = "env SOFTMOE_TEST_WIDE_COUNTED=1 SOFTMOE_EMULATOR_COUNTERS=" + file + " " +
                              path.data() + " cuda_wide_counted > /dev/null 2>&1";
  CHECK_EQUAL(std::system(command.c_str()), 0);
  std::ifstream lines(file);
  std::remove(file.c_str());
  std::string line;
  double tensor_work = 0;
  int launches = 0;
  while (std::getline(lines, line)) {
    if (line.find("\"kernel\":\"wide_row_product_") == std::string::npos) continue;
    ++launches;
    tensor_work += counter(line, "mmaFlops");
    CHECK_EQUAL(counter(line, "localRequests"), 0.0);
    CHECK(counter(line, "tensorCopies") > 0);
    CHECK(counter(line, "sharedWavefronts") <= 1.05 * counter(line, "sharedIdealWavefronts"));
  }
  // Up and down, and both products backward to the input.
  CHECK_EQUAL(launches, 4);
  CHECK_EQUAL(tensor_work, 4 * 2.0 * 2 * 256 * 128 * 256);
}

}  // namespace
}  // namespace softmoe::testing
