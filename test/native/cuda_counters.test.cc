// What the kernels of a layer do to memory, as the emulated driver counts it: no bank conflicts in shared
// memory, whole sectors of global memory, no local memory, each byte of the experts' weights read once (the
// bytes of all kernels: cuda_memory.test.cc); and that its bits depend on no order. Silent on other drivers.
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "cases.h"

namespace softmoe::testing {
namespace {

// One Soft MoE layer of a narrow ViT, forward and backward, bfloat16 or float32; only in a process of its
// own.
void run_layer(DType dtype) {
  Kernels& kernels = cuda_kernels();
  Random random(1);
  SoftRoutingShape shape;
  shape.batch = 2, shape.tokens = 196, shape.dim = 128, shape.experts = 8, shape.slots_per_expert = 8;
  const std::int64_t rows = shape.batch * shape.tokens, slots = shape.slots(),
                     slot_rows = shape.batch * slots;
  const std::int64_t dim = shape.dim, hidden = 512;
  const Values x = random.values(dtype, rows * dim), phi = random.values(DType::kFloat32, dim * slots);
  const Values scale(DType::kFloat32, std::vector<double>{1}), token_norm(DType::kFloat32, rows);
  const Values slot_norm(DType::kFloat32, slots), logits(DType::kFloat32, rows * slots);
  const Values dispatch_lse(DType::kFloat32, shape.batch * slots), combine_lse(DType::kFloat32, rows);
  const Values xs(dtype, slot_rows * dim), ys(dtype, slot_rows * dim), y(dtype, rows * dim);
  const Values pre(dtype, slot_rows * hidden), w1 = random.values(dtype, shape.experts * dim * hidden, 0.1);
  const Values w2 = random.values(dtype, shape.experts * hidden * dim, 0.1);
  const Values b1 = random.values(DType::kFloat32, shape.experts * hidden);
  const Values b2 = random.values(DType::kFloat32, shape.experts * dim);

  SoftLogitsForward soft;
  soft.routing.shape = shape, soft.routing.logits = logits.buffer();
  soft.routing.dispatch_lse = dispatch_lse.buffer(), soft.routing.combine_lse = combine_lse.buffer();
  soft.x = x.buffer(), soft.phi = phi.buffer(), soft.scale = scale.buffer();
  soft.token_norm = token_norm.buffer(), soft.slot_norm = slot_norm.buffer();
  kernels.run(soft);
  TokensToSlots dispatch;
  dispatch.routing = soft.routing, dispatch.x = x.buffer(), dispatch.slots = xs.buffer();
  kernels.run(dispatch);
  ExpertsForward forward;
  forward.rows.num_experts = shape.experts;
  forward.rows.rows_per_expert = shape.batch * shape.slots_per_expert;
  forward.rows.max_rows = slot_rows;
  forward.x = xs.buffer(), forward.w1 = w1.buffer(), forward.b1 = b1.buffer(), forward.w2 = w2.buffer();
  forward.b2 = b2.buffer(), forward.pre = pre.buffer(), forward.y = ys.buffer();
  forward.dim = dim, forward.hidden = hidden, forward.out = dim;
  kernels.run(forward);
  SlotsToTokens combine;
  combine.routing = soft.routing, combine.slots = ys.buffer(), combine.y = y.buffer();
  kernels.run(combine);

  const Values dy = random.values(dtype, rows * dim), dx(dtype, rows * dim), dxs(dtype, slot_rows * dim);
  const Values dys(dtype, slot_rows * dim), dlogits(DType::kFloat32, rows * slots);
  const Values dphi(DType::kFloat32, dim * slots), dscale(DType::kFloat32, 1);
  const Values dw1(DType::kFloat32, w1.count()), db1(DType::kFloat32, b1.count());
  const Values dw2(DType::kFloat32, w2.count()), db2(DType::kFloat32, b2.count());
  dispatch.side = RoutingSide::kCombine, dispatch.x = dy.buffer(), dispatch.slots = dys.buffer();
  kernels.run(dispatch);
  ExpertsBackward backward;
  backward.rows = forward.rows, backward.x = xs.buffer(), backward.w1 = w1.buffer();
  backward.w2 = w2.buffer(), backward.pre = pre.buffer(), backward.dy = dys.buffer();
  backward.dx = dxs.buffer(), backward.dw1 = dw1.buffer(), backward.db1 = db1.buffer();
  backward.dw2 = dw2.buffer(), backward.db2 = db2.buffer();
  backward.dim = dim, backward.hidden = hidden, backward.out = dim;
  kernels.run(backward);
  SoftLogitsGradient gradient;
  gradient.routing = soft.routing, gradient.x = x.buffer(), gradient.slots_in = xs.buffer();
  gradient.dslots_in = dxs.buffer(), gradient.dy = dy.buffer(), gradient.y = y.buffer();
  gradient.slots_out = ys.buffer(), gradient.dlogits = dlogits.buffer();
  kernels.run(gradient);
  combine.side = RoutingSide::kDispatch, combine.slots = dxs.buffer(), combine.y = dx.buffer();
  kernels.run(combine);
  SoftLogitsBackward router;
  router.shape = shape, router.x = x.buffer(), router.phi = phi.buffer(), router.scale = scale.buffer();
  router.token_norm = token_norm.buffer(), router.slot_norm = slot_norm.buffer();
  router.dlogits = dlogits.buffer(), router.dx = dx.buffer(), router.dphi = dphi.buffer();
  router.dscale = dscale.buffer(), router.accumulate_dx = true;
  kernels.run(router);

  // FNV-1a over the bits of everything that was made.
  std::uint64_t hash = 14695981039346656037u;
  for (const Values* values : {&logits, &dispatch_lse, &combine_lse, &xs, &pre, &ys, &y, &dys, &dxs, &dw1,
                               &db1, &dw2, &db2, &dlogits, &dx, &dphi, &dscale}) {
    const Buffer buffer = values->buffer();
    for (std::size_t i = 0; i < static_cast<std::size_t>(values->count()) * size_of(buffer.dtype); ++i) {
      hash = (hash ^ buffer.as<const unsigned char>()[i]) * 1099511628211u;
    }
  }
  std::printf("bits %016llx\n", static_cast<unsigned long long>(hash));
}

TEST(cuda_counted_layer) {
  const char* name = std::getenv("SOFTMOE_TEST_COUNTED_LAYER");
  if (name) run_layer(std::string(name) == "float32" ? DType::kFloat32 : DType::kBFloat16);
}

double counter(const std::string& line, const std::string& name) {
  const std::size_t at = line.find("\"" + name + "\":");
  return at == std::string::npos ? 0 : std::strtod(line.c_str() + at + name.size() + 3, nullptr);
}

void check_counters(const std::string& dtype) {
  std::array<char, 4096> path{};
  CHECK(::readlink("/proc/self/exe", path.data(), path.size() - 1) > 0);
  const std::string file = "/tmp/softmoe-counters-" + std::to_string(::getpid());
  const std::string command = "env SOFTMOE_TEST_COUNTED_LAYER=" + dtype +
                              " SOFTMOE_EMULATOR_COUNTERS=" + file + " " + path.data() +
                              " cuda_counted_layer > /dev/null 2>&1";
  CHECK_EQUAL(std::system(command.c_str()), 0);
  std::ifstream lines(file);
  std::remove(file.c_str());
  std::string line;
  int launches = 0;
  double weights_read = 0;
  while (std::getline(lines, line)) {
    const std::size_t begin = line.find("\"kernel\":\"") + 10;
    const std::string kernel = line.substr(begin, line.find('"', begin) - begin);
    const Context context(kernel);
    ++launches;
    const auto at_most = [&](const std::string& what, double value, double limit) {
      const Context numbers(what + " " + std::to_string(value) + " limit " + std::to_string(limit));
      CHECK(value <= limit);
    };
    at_most("wavefronts", counter(line, "sharedWavefronts"), 1.05 * counter(line, "sharedIdealWavefronts"));
    at_most("local", counter(line, "localRequests"), 0);
    at_most("atomics", counter(line, "globalAtomics"), 0);
    // A few scalars (norms, sums of rows) come alone; the rest is whole sectors.
    at_most("read", 32 * counter(line, "globalLoadSectors"), 1.15 * counter(line, "globalLoadBytes") + 65536);
    at_most("written", 32 * counter(line, "globalStoreSectors"),
            1.1 * counter(line, "globalStoreBytes") + 65536);
    if (kernel.rfind("row_product_nn", 0) == 0) weights_read += counter(line, "globalLoadBytes");
  }
  if (launches == 0) return;  // a driver that does not count
  CHECK(launches > 20);
  // Both expert products: the weights once, and 16 rows for each 128 columns.
  const double size = dtype == "float32" ? 4 : 2, experts = 8, dim = 128, hidden = 512, rows = 16;
  const double minimum = experts * (2 * dim * hidden + rows * (dim + hidden)) * size;
  const Context context("weights " + std::to_string(weights_read) + " of " + std::to_string(minimum));
  CHECK(weights_read <= 1.15 * minimum);
}

std::string bits_of_layer(const std::string& environment) {
  std::array<char, 4096> path{};
  CHECK(::readlink("/proc/self/exe", path.data(), path.size() - 1) > 0);
  const std::string command = "env " + environment + " " + path.data() + " cuda_counted_layer 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  CHECK(pipe != nullptr);
  std::string bits = "none";
  std::array<char, 4096> line{};
  while (std::fgets(line.data(), line.size(), pipe)) {
    if (std::string(line.data()).rfind("bits ", 0) == 0) bits = line.data();
  }
  CHECK_EQUAL(::pclose(pipe), 0);
  return bits;
}

// Neither the order of blocks and warps nor the tiles that suit another number of multiprocessors change a
// bit.
TEST(cuda_results_do_not_depend_on_the_order_of_blocks_or_the_size_of_the_gpu) {
  if (!tests_cuda()) return;
  for (const char* dtype : {"bfloat16", "float32"}) {
    const std::string layer = std::string("SOFTMOE_TEST_COUNTED_LAYER=") + dtype;
    const std::string first = bits_of_layer(layer);
    CHECK(first.rfind("bits ", 0) == 0);
    for (const char* other : {"SOFTMOE_EMULATOR_SEED=1", "SOFTMOE_EMULATOR_SEED=2", "SOFTMOE_EMULATOR_SEED=3",
                              "SOFTMOE_EMULATOR_SEED=4 SOFTMOE_EMULATOR_MULTIPROCESSORS=1"}) {
      CHECK_EQUAL(bits_of_layer(layer + " " + other), first);
    }
  }
}

TEST(cuda_kernels_use_memory_well) {
  if (!tests_cuda()) return;
  check_counters("bfloat16");
  check_counters("float32");
}

}  // namespace
}  // namespace softmoe::testing
