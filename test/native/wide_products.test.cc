// The products of compute capability 9.0 (SOFTMOE_CUDA_WGMMA=1): the expert MLP against loops in double and
// against the products that all devices have, and what the emulated driver counts. They are run on the
// emulated driver only so far.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

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
  std::vector<std::int64_t> rows;  // of each expert
  std::int64_t dim, hidden, out;
  // Rows as a sparse router lists them: by offsets, with some that no expert owns at the end; and gathered.
  bool is_ragged = false, is_gathered = false;

  std::int64_t experts() const { return static_cast<std::int64_t>(rows.size()); }
};

class LayerRows {
 public:
  LayerRows(const Layer& layer, Random& random) {
    offsets_.push_back(0);
    for (const std::int64_t rows : layer.rows) {
      owners_.insert(owners_.end(), at(rows), static_cast<std::int64_t>(offsets_.size()) - 1);
      offsets_.push_back(offsets_.back() + static_cast<std::int32_t>(rows));
    }
    max_ = total() + (layer.is_ragged ? 5 : 0);
    tokens_ = layer.is_gathered ? 50 : max_;
    for (std::int64_t r = 0; layer.is_gathered && r < max_; ++r) {
      gather_.push_back(r < total() ? static_cast<std::int32_t>(random.integer(0, tokens_ - 1)) : -1);
    }
    rows_.num_experts = layer.experts(), rows_.max_rows = max_;
    if (layer.is_ragged) rows_.offsets = offsets_.data();
    if (!layer.is_ragged) rows_.rows_per_expert = layer.rows[0];
    if (layer.is_gathered) rows_.gather = gather_.data();
  }
  const ExpertRows& rows() const { return rows_; }
  std::int64_t total() const { return static_cast<std::int64_t>(owners_.size()); }
  std::int64_t max() const { return max_; }
  std::int64_t tokens() const { return tokens_; }
  std::int64_t expert(std::int64_t row) const { return owners_[at(row)]; }
  std::int64_t token(std::int64_t row) const { return gather_.empty() ? row : gather_[at(row)]; }

 private:
  std::vector<std::int32_t, OperandAllocator<std::int32_t>> offsets_, gather_;
  std::vector<std::int64_t> owners_;
  ExpertRows rows_;
  std::int64_t max_ = 0, tokens_ = 0;
};

// `wanted` [rows, columns] += left [rows, depth] right(expert, k, column), for the rows that experts own.
template <class Left, class Right>
void add_products(Doubles& wanted, const LayerRows& rows, std::int64_t depth, std::int64_t columns,
                  const Left& left, const Right& right) {
  for (std::int64_t r = 0; r < rows.total(); ++r) {
    for (std::int64_t k = 0; k < depth; ++k) {
      const double factor = left(r, k);
      for (std::int64_t c = 0; c < columns; ++c)
        wanted[at(r * columns + c)] += factor * right(rows.expert(r), k, c);
    }
  }
}

void check_layer(const Layer& c, Activation activation, double dropout) {
  Random random(11);
  const LayerRows rows(c, random);
  const Context context(std::to_string(c.experts()) + " experts, rows " + std::to_string(rows.total()) +
                        " dim " + std::to_string(c.dim) + " hidden " + std::to_string(c.hidden) + " out " +
                        std::to_string(c.out) + (c.is_ragged ? " ragged" : "") +
                        (c.is_gathered ? " gathered" : ""));
  const DType dtype = DType::kBFloat16;
  const std::int64_t experts = c.experts(), max_rows = rows.max();
  const Values x = random.values(dtype, rows.tokens() * c.dim);
  const Values w1 = random.values(dtype, experts * c.dim * c.hidden, 0.1);
  const Values w2 = random.values(dtype, experts * c.hidden * c.out, 0.1);
  const Values b1 = random.values(DType::kFloat32, experts * c.hidden);
  const Values b2 = random.values(DType::kFloat32, experts * c.out);
  const Values dy = random.values(dtype, max_rows * c.out);
  struct Results {
    Values pre, y, dx, dw1, db1, dw2, db2;
  };
  const auto run = [&](bool wgmma) {
    const auto of = [](DType type, std::int64_t count) { return Values(type, count); };
    const DType single = DType::kFloat32;
    Results results{of(dtype, max_rows * c.hidden), of(dtype, max_rows * c.out), of(dtype, max_rows * c.dim),
                    of(single, w1.count()),         of(single, b1.count()),      of(single, w2.count()),
                    of(single, b2.count())};
    const std::shared_ptr<cuda::CudaDevice> device = open_device(wgmma);
    ExpertsForward forward;
    forward.rows = rows.rows();
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
    backward.dw1 = results.dw1.buffer(), backward.db1 = results.db1.buffer();
    backward.dw2 = results.dw2.buffer(), backward.db2 = results.db2.buffer();
    backward.dim = c.dim, backward.hidden = c.hidden, backward.out = c.out;
    backward.activation = activation, backward.dropout_rate = dropout, backward.key = forward.key;
    device->launch(backward);
    device->synchronize();
    return results;
  };
  const Results wide = run(true), usual = run(false);
  const Values Results::*const all[] = {&Results::pre, &Results::y,   &Results::dx, &Results::dw1,
                                        &Results::db1, &Results::dw2, &Results::db2};
  for (const auto result : all) CHECK_CLOSE(wide.*result, (usual.*result).doubles(), 1e-2);

  // Rows past the last expert's keep what they held.
  const auto untouched = [&](std::int64_t columns) {
    Doubles values = Values(dtype, max_rows * columns).doubles();
    std::fill(values.begin(), values.begin() + rows.total() * columns, 0);
    return values;
  };
  Doubles pre = untouched(c.hidden);
  for (std::int64_t r = 0; r < rows.total(); ++r)
    for (std::int64_t h = 0; h < c.hidden; ++h) pre[at(r * c.hidden + h)] = b1[rows.expert(r) * c.hidden + h];
  const auto weight1 = [&](std::int64_t e, std::int64_t d, std::int64_t h) {
    return w1[(e * c.dim + d) * c.hidden + h];
  };
  const auto weight2 = [&](std::int64_t e, std::int64_t h, std::int64_t o) {
    return w2[(e * c.hidden + h) * c.out + o];
  };
  add_products(
      pre, rows, c.dim, c.hidden,
      [&](std::int64_t r, std::int64_t d) { return x[rows.token(r) * c.dim + d]; }, weight1);
  CHECK_CLOSE(wide.pre, pre, 1e-2);
  if (dropout > 0) return;

  Doubles activated(at(rows.total() * c.hidden)), y = untouched(c.out);
  for (std::size_t i = 0; i < activated.size(); ++i) activated[i] = activation_value(activation, pre[i]);
  activated = rounded(dtype, activated);
  for (std::int64_t r = 0; r < rows.total(); ++r)
    for (std::int64_t o = 0; o < c.out; ++o) y[at(r * c.out + o)] = b2[rows.expert(r) * c.out + o];
  add_products(
      y, rows, c.hidden, c.out,
      [&](std::int64_t r, std::int64_t h) { return activated[at(r * c.hidden + h)]; }, weight2);
  CHECK_CLOSE(wide.y, y, 1e-2);

  Doubles dpre(activated.size()), dx = untouched(c.dim);
  add_products(
      dpre, rows, c.out, c.hidden, [&](std::int64_t r, std::int64_t o) { return dy[r * c.out + o]; },
      [&](std::int64_t e, std::int64_t o, std::int64_t h) { return weight2(e, h, o); });
  for (std::size_t i = 0; i < dpre.size(); ++i) dpre[i] *= activation_slope(activation, pre[i]);
  add_products(
      dx, rows, c.hidden, c.dim, [&](std::int64_t r, std::int64_t h) { return dpre[at(r * c.hidden + h)]; },
      [&](std::int64_t e, std::int64_t h, std::int64_t d) { return weight1(e, d, h); });
  CHECK_CLOSE(wide.dx, dx, 2e-2);
  Doubles dw1(at(w1.count())), dw2(at(w2.count()));
  for (std::int64_t r = 0; r < rows.total(); ++r) {
    const std::int64_t e = rows.expert(r);
    for (std::int64_t h = 0; h < c.hidden; ++h) {
      for (std::int64_t d = 0; d < c.dim; ++d)
        dw1[at((e * c.dim + d) * c.hidden + h)] += x[rows.token(r) * c.dim + d] * dpre[at(r * c.hidden + h)];
      for (std::int64_t o = 0; o < c.out; ++o)
        dw2[at((e * c.hidden + h) * c.out + o)] += activated[at(r * c.hidden + h)] * dy[r * c.out + o];
    }
  }
  CHECK_CLOSE(wide.dw1, dw1, 1e-2);
  CHECK_CLOSE(wide.dw2, dw2, 1e-2);
}

bool is_emulated() {
  const char* driver = std::getenv("SOFTMOE_CUDA_DRIVER");
  return driver && std::string(driver).find("libcuda_emulated") != std::string::npos;
}

TEST(cuda_wide_products) {
  if (!tests_cuda()) return;
  // Ragged edges in every direction; then whole tiles, and more slices than the ring has stages.
  check_layer({{136, 136}, 72, 200, 88}, Activation::kGeluTanh, 0);
  check_layer({{257}, 40, 136, 40}, Activation::kGeluErf, 0.3);
  check_layer({{128}, 448, 128, 64}, Activation::kNone, 0);
  // More rows than the gradients of weights sum at once.
  check_layer({{2100}, 40, 72, 24}, Activation::kNone, 0);
}

// y (+)= alpha a^T b in each batch, with the result in bfloat16.
TEST(cuda_wide_matmul_of_a_transposed) {
  if (!tests_cuda()) return;
  const std::int64_t batch = 2, m = 72, n = 136, k = 200;
  Random random(3);
  const Values a = random.values(DType::kBFloat16, batch * k * m),
               b = random.values(DType::kBFloat16, batch * k * n);
  const Values y = random.values(DType::kBFloat16, batch * m * n);
  Doubles wanted = y.doubles();
  for (std::int64_t g = 0; g < batch; ++g)
    for (std::int64_t r = 0; r < k; ++r)
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < n; ++j)
          wanted[at((g * m + i) * n + j)] += 0.5 * a[(g * k + r) * m + i] * b[(g * k + r) * n + j];
  MatMul product;
  product.a = a.buffer(), product.b = b.buffer(), product.y = y.buffer();
  product.batch = batch, product.m = m, product.n = n, product.k = k;
  product.transpose_a = true, product.accumulate = true, product.alpha = 0.5;
  const std::shared_ptr<cuda::CudaDevice> device = open_device(true);
  device->launch(product);
  device->synchronize();
  CHECK_CLOSE(y, wanted, 1e-2);
}

TEST(cuda_wide_ragged_products) {
  if (!tests_cuda()) return;
  // Experts without rows, with fewer and with more than a tile of them; depths below a slice, below the
  // slices that are under way, and beyond the ring.
  check_layer({{300, 0, 1, 256, 127}, 72, 136, 40, true, true}, Activation::kGeluTanh, 0);
  check_layer({{129, 140}, 328, 64, 72, true, false}, Activation::kGeluErf, 0.3);
  check_layer({{130, 130}, 40, 72, 40, false, true}, Activation::kNone, 0);
}

// In a process of its own: two products with a whole number of tiles.
TEST(cuda_wide_counted) {
  if (!std::getenv("SOFTMOE_TEST_WIDE_COUNTED")) return;
  check_layer({{256, 256}, 128, 256, 128}, Activation::kGeluTanh, 0);
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
    if (line.find("\"kernel\":\"wide_") == std::string::npos) continue;
    ++launches;
    tensor_work += counter(line, "mmaFlops");
    CHECK_EQUAL(counter(line, "localRequests"), 0.0);
    CHECK(counter(line, "tensorCopies") > 0);
    CHECK(counter(line, "sharedWavefronts") <= 1.05 * counter(line, "sharedIdealWavefronts"));
  }
  // Up and down, both products backward to the input and both to the weights.
  CHECK_EQUAL(launches, 6);
  CHECK_EQUAL(tensor_work, 6 * 2.0 * 2 * 256 * 128 * 256);
}

}  // namespace
}  // namespace softmoe::testing
