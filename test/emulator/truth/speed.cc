// How fast the emulator runs: lane instructions a second of three kernels, on two host threads, with all
// checkers off and with all of them on. Not a test; `build-emulator/emulator_speed`.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>

#include "number_formats.h"
#include "random_values.h"
#include "session.h"

using namespace truth;

namespace {

// Launches a kernel on arrays that live as long as this does.
struct Work {
  std::function<CUresult()> launch;
};

struct Bench {
  const char* name;
  std::function<Work(const Program&)> prepare;
  const char* fatbin;
};

std::vector<std::uint16_t> randomBfloats(std::size_t count, std::uint64_t seed) {
  RandomValues random(seed);
  std::vector<std::uint16_t> values(count);
  for (std::uint16_t& value : values) value = toBfloat16(random.uniform(-1, 1));
  return values;
}

Work softmaxStatistics(const Program& program) {
  constexpr int batch = 32, rows = 196, columns = 197;
  constexpr unsigned tiles = (rows + 31) / 32;
  const auto logits =
      std::make_shared<DeviceArray<float>>(RandomValues(1).floats(batch * rows * columns, -8, 8));
  const auto ofRows = std::make_shared<DeviceArray<double>>(batch * rows);
  const auto ofColumns = std::make_shared<DeviceArray<double>>(batch * tiles * columns);
  const CUfunction kernel = program.function("softmax_statistics");
  return {[=] {
    return run(kernel, {tiles, batch, 1, 256, 0}, logits->address(), ofRows->address(), ofColumns->address(),
               rows, columns);
  }};
}

Work gemm(const Program& program) {
  constexpr unsigned batch = 4, shared = 3 * (128 * 32 + 32 * 128) * 2;
  constexpr int rows = 512, columns = 1536, depth = 384;
  const auto a = std::make_shared<DeviceArray<std::uint16_t>>(randomBfloats(batch * rows * depth, 2));
  const auto b = std::make_shared<DeviceArray<std::uint16_t>>(randomBfloats(batch * depth * columns, 3));
  const auto bias = std::make_shared<DeviceArray<float>>(RandomValues(4).floats(batch * columns, -1, 1));
  const auto c = std::make_shared<DeviceArray<std::uint16_t>>(batch * rows * columns);
  const CUfunction kernel = program.function("gemm_gelu");
  SUCCEED(cuFuncSetAttribute(kernel, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared));
  return {[=] {
    return run(kernel, {columns / 128, rows / 128, batch, 256, shared}, a->address(), b->address(),
               bias->address(), c->address(), rows, columns, depth);
  }};
}

Work capacityTop(const Program& program) {
  constexpr int experts = 128, tokens = 777, capacity = 100;
  const auto scores = std::make_shared<DeviceArray<float>>(RandomValues(5).floats(experts * tokens, -1, 1));
  const auto chosen = std::make_shared<DeviceArray<int>>(experts * capacity);
  const auto places = std::make_shared<DeviceArray<int>>(experts * tokens);
  const auto total = std::make_shared<DeviceArray<int>>(std::vector<int>{0});
  const CUfunction kernel = program.function("capacity_top");
  return {[=] {
    return run(kernel, {experts, 128}, scores->address(), tokens, capacity, chosen->address(),
               places->address(), total->address());
  }};
}

const Bench benches[] = {{"softmax statistics", softmaxStatistics, "softmax_statistics.fatbin"},
                         {"bf16 GEMM", gemm, "gemm_gelu.fatbin"},
                         {"capacity top-k", capacityTop, "capacity_top.fatbin"}};

double laneInstructions(const Bench& bench) {
  const Session session(Environment{{"CHECKS", "none"}, {"THREADS", "2"}});
  const Program program = Program::fromFile(bench.fatbin);
  const Work work = bench.prepare(program);
  SUCCEED(work.launch());
  return session.counters().back().number("laneInstructions");
}

// Of several launches, the median.
double seconds(const Bench& bench, const char* checks, int launches) {
  const Session session(Environment{{"CHECKS", checks}, {"THREADS", "2"}, {"COUNTERS", "off"}});
  const Program program = Program::fromFile(bench.fatbin);
  const Work work = bench.prepare(program);
  std::vector<double> times;
  for (int i = 0; i < launches; ++i) {
    const auto start = std::chrono::steady_clock::now();
    SUCCEED(work.launch());
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace

int main() {
  std::printf("%-20s %10s %12s %12s\n", "kernel", "lane instr", "no checks", "all checks");
  for (const Bench& bench : benches) {
    const double count = laneInstructions(bench);
    const double free = seconds(bench, "none", 7), checked = seconds(bench, "all", 5);
    std::printf("%-20s %8.0f M %8.2f G/s %8.2f G/s\n", bench.name, count / 1e6, count / free / 1e9,
                count / checked / 1e9);
  }
}
