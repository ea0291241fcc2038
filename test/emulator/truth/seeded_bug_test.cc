// Every checker catches the mistake it is for, with its kind and the line of the .cu file, and is silent on
// the right version of the kernel.
#include <cstring>
#include <fstream>
#include <set>

#include "random_values.h"
#include "session.h"

using namespace truth;

namespace {

constexpr unsigned threads = 128;

// The line of seeded_bugs.cu that bears `// BUG name`.
int lineOf(const std::string& name) {
  std::ifstream file(SEEDED_BUG_SOURCE);
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    const std::size_t at = line.find("// BUG " + name);
    if (at != std::string::npos && at + 7 + name.size() == line.size()) return number;
  }
  throw Failure("no line with BUG " + name);
}

// The launch is caught: it ends with the result, and a report has the kind, the kernel and the marked line.
void expectCaught(const Session& session, CUresult got, CUresult wanted, const std::string& kind,
                  const std::string& kernel, const std::string& bug) {
  EXPECT_EQUAL(got, wanted);
  std::string seen;
  for (const JournalLine& report : session.reports()) {
    seen += "\n       " + report.text;
    const std::string file = report.string("file");
    const bool placed = bug.empty() || (report.number("line") == lineOf(bug) && file.size() >= 14 &&
                                        file.substr(file.size() - 14) == "seeded_bugs.cu");
    if (report.string("kind") == kind && report.string("kernel") == kernel && placed) return;
  }
  throw Failure("no report of " + kind + " in " + kernel +
                (bug.empty() ? "" : " at line " + std::to_string(lineOf(bug))) + ", but" +
                (seen.empty() ? " none" : seen));
}

void expectSilent(const Session& session, CUresult got) {
  for (const JournalLine& report : session.reports()) throw Failure("unexpected: " + report.text);
  SUCCEED(got);
}

// A kernel of (const float* in, float* out) with `count` elements each.
CUresult runFloats(const Program& program, const char* kernel, std::size_t count,
                   std::vector<float>* result = nullptr) {
  const DeviceArray<float> input(RandomValues(3).floats(count, -1, 1));
  const DeviceArray<float> output(std::vector<float>(count, 0.f));
  const CUresult outcome = run(program.function(kernel), {1, threads}, input.address(), output.address());
  if (outcome == CUDA_SUCCESS && result) *result = output.download();
  return outcome;
}

Program kernels() { return Program::fromFile("seeded_bugs.fatbin"); }

}  // namespace

TEST("a missing barrier is a race or a read of what is not yet written, whatever the order") {
  for (const char* const seed : {"0", "1", "2", "3"}) {
    const Environment order{{"SEED", seed}};
    {
      const Session session(order);
      expectSilent(session, runFloats(kernels(), "reverse_right", threads));
    }
    const Session session(order);
    expectCaught(session, runFloats(kernels(), "reverse_wrong", threads), CUDA_ERROR_LAUNCH_FAILED, "race",
                 "reverse_wrong", "missing barrier");
  }
}

TEST("a missing barrier before a buffer is used again is a race") {
  const auto runRows = [](const Program& program, const char* kernel) {
    const DeviceArray<float> input(RandomValues(4).floats(3 * threads, -1, 1));
    const DeviceArray<float> output(3 * threads);
    return run(program.function(kernel), {1, threads}, input.address(), output.address(), 3);
  };
  {
    const Session session;
    expectSilent(session, runRows(kernels(), "sum_rows_right"));
  }
  const Session session;
  expectCaught(session, runRows(kernels(), "sum_rows_wrong"), CUDA_ERROR_LAUNCH_FAILED, "race",
               "sum_rows_wrong", "");
}

TEST("with the race checker off the missing barrier passes unseen in the natural order") {
  const Session session(Environment{{"CHECKS", "bounds,alignment"}});
  expectSilent(session, runFloats(kernels(), "reverse_wrong", threads));
}

TEST("a wait that leaves the needed asynchronous copy on its way is caught") {
  {
    const Session session;
    expectSilent(session, runFloats(kernels(), "pipeline_right", 2 * threads));
  }
  const Session session;
  const CUresult outcome = runFloats(kernels(), "pipeline_wrong", 2 * threads);
  expectCaught(session, outcome, CUDA_ERROR_LAUNCH_FAILED, "undefined-value", "pipeline_wrong",
               "wrong wait count");
}

TEST("a missing guard is an access out of bounds, with its block and lane") {
  const unsigned count = 300;
  const auto runScale = [&](const Program& program, const char* kernel) {
    const DeviceArray<float> values(std::vector<float>(count, 1.f));
    return run(program.function(kernel), {3, threads}, values.address(), static_cast<int>(count));
  };
  {
    const Session session;
    expectSilent(session, runScale(kernels(), "scale_right"));
  }
  const Session session;
  expectCaught(session, runScale(kernels(), "scale_wrong"), CUDA_ERROR_ILLEGAL_ADDRESS, "global-bounds",
               "scale_wrong", "missing guard");
  const JournalLine report = session.reports()[0];
  EXPECT(report.text.find("\"block\":[2,0,0]") != std::string::npos);
  EXPECT_EQUAL(report.number("warp"), 1);
  EXPECT_EQUAL(report.number("lane"), 12);
}

TEST("a bank conflict leaves the result right and shows in the counters of its line") {
  const auto transposed = [](const char* kernel, double* wavefronts, double* ideal) {
    const Session session;
    const Program program = kernels();
    const std::vector<float> values = RandomValues(5).floats(1024, -1, 1);
    const DeviceArray<float> input(values);
    const DeviceArray<float> output(1024);
    void* parameters[2];
    CUdeviceptr in = input.address();
    CUdeviceptr out = output.address();
    parameters[0] = &in;
    parameters[1] = &out;
    SUCCEED(cuLaunchKernel(program.function(kernel), 1, 1, 1, 32, 4, 1, 0, nullptr, parameters, nullptr));
    const std::vector<float> got = output.download();
    for (std::size_t row = 0; row < 32; ++row)
      for (std::size_t column = 0; column < 32; ++column)
        EXPECT_EQUAL(got[row * 32 + column], values[column * 32 + row]);
    const JournalLine counters = session.counters().back();
    *wavefronts = counters.number("sharedWavefronts");
    *ideal = counters.number("sharedIdealWavefronts");
    return counters;
  };
  double wavefronts = 0;
  double ideal = 0;
  transposed("transpose_right", &wavefronts, &ideal);
  EXPECT_EQUAL(wavefronts, 64);
  EXPECT_EQUAL(ideal, 64);
  const JournalLine counters = transposed("transpose_wrong", &wavefronts, &ideal);
  EXPECT_EQUAL(wavefronts, 32 + 32 * 32);
  EXPECT_EQUAL(ideal, 64);
  // Lines come worst first.
  const std::size_t lines = counters.text.find("\"lines\":[");
  EXPECT_EQUAL(JournalLine{counters.text.substr(lines)}.number("line"), lineOf("bank conflict"));
}

TEST("shared memory that nobody wrote is caught where its value leaves the block, with its lane") {
  {
    const Session session;
    expectSilent(session, runFloats(kernels(), "shift_right", threads));
  }
  const Session session;
  expectCaught(session, runFloats(kernels(), "shift_wrong", threads), CUDA_ERROR_LAUNCH_FAILED,
               "undefined-value", "shift_wrong", "uninitialised read");
  EXPECT_EQUAL(session.reports()[0].number("warp"), 3);
  EXPECT_EQUAL(session.reports()[0].number("lane"), 31);
}

TEST("atomics on shared memory that nobody cleared are caught") {
  const auto runHistogram = [](const Program& program, const char* kernel) {
    const DeviceArray<int> values(RandomValues(6).integers(threads, 0, 100));
    const DeviceArray<int> counts(4);
    return run(program.function(kernel), {1, threads}, values.address(), counts.address());
  };
  {
    const Session session;
    expectSilent(session, runHistogram(kernels(), "histogram_right"));
  }
  const Session session;
  expectCaught(session, runHistogram(kernels(), "histogram_wrong"), CUDA_ERROR_LAUNCH_FAILED,
               "undefined-value", "histogram_wrong", "");
}

TEST("a branch on global memory that nobody wrote is caught") {
  const Session session;
  const Program program = kernels();
  const DeviceArray<float> values(threads);
  const DeviceArray<int> total(std::vector<int>{0});
  expectCaught(session,
               run(program.function("count_positive"), {1, threads}, values.address(), total.address()),
               CUDA_ERROR_LAUNCH_FAILED, "undefined-value", "count_positive", "uninitialised branch");
}

TEST("a sum whose order is left open has other bits in other orders; one in a fixed order has not") {
  const std::vector<float> values = RandomValues(7).floats(64 * threads, -1, 1);
  const auto bits = [&](const char* seed, bool right) {
    const Session session(Environment{{"SEED", seed}, {"THREADS", "1"}});
    const Program program = kernels();
    const DeviceArray<float> input(values);
    const DeviceArray<float> total(std::vector<float>{0.f});
    const CUresult outcome =
        right ? run(program.function("sum_right"), {1, threads}, input.address(), total.address(),
                    static_cast<int>(values.size()))
              : run(program.function("sum_wrong"), {64, threads}, input.address(), total.address());
    expectSilent(session, outcome);
    std::uint32_t result = 0;
    const float sum = total.download()[0];
    std::memcpy(&result, &sum, sizeof result);
    return result;
  };
  std::set<std::uint32_t> ordered;
  std::set<std::uint32_t> open;
  for (const char* const seed : {"0", "1", "2", "3", "4"}) {
    ordered.insert(bits(seed, true));
    open.insert(bits(seed, false));
  }
  EXPECT_EQUAL(ordered.size(), std::size_t{1});
  EXPECT(open.size() > 1);
}

TEST("a barrier that some lanes of a warp never reach is divergent") {
  const Session session;
  const CUresult outcome = runFloats(kernels(), "barrier_in_branch", threads);
  expectCaught(session, outcome, CUDA_ERROR_LAUNCH_FAILED, "barrier-divergence", "barrier_in_branch",
               "barrier in a branch");
}

TEST("threads that wait at different barriers are a deadlock") {
  const Session session;
  const Program program = kernels();
  const DeviceArray<int> result(threads);
  expectCaught(session, run(program.function("deadlock"), {1, threads}, result.address()),
               CUDA_ERROR_LAUNCH_TIMEOUT, "deadlock", "deadlock", "deadlock");
}

TEST("vector loads from odd places are misaligned") {
  const auto runOffset = [](const Program& program, int offset) {
    const DeviceArray<float> values(std::vector<float>(4 * threads + 4, 1.f));
    const DeviceArray<float> sums(threads);
    return run(program.function("load_vectors"), {1, threads}, values.address(), sums.address(), offset);
  };
  {
    const Session session;
    expectSilent(session, runOffset(kernels(), 4));
  }
  const Session session;
  expectCaught(session, runOffset(kernels(), 1), CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned", "load_vectors",
               "misaligned");
}

TEST("a trap ends the launch") {
  const Session session;
  const Program program = kernels();
  const DeviceArray<int> values(std::vector<int>(threads, 101));
  expectCaught(session, run(program.function("assert_small"), {1, threads}, values.address()),
               CUDA_ERROR_LAUNCH_FAILED, "trap", "assert_small", "trap");
}

TEST("reports do not fail a launch when strictness is off, faults still do") {
  {
    const Session session(Environment{{"STRICT", "0"}});
    SUCCEED(runFloats(kernels(), "reverse_wrong", threads));
    EXPECT(!session.reports().empty());
  }
  const Session session(Environment{{"STRICT", "0"}});
  const Program program = kernels();
  const DeviceArray<float> values(std::vector<float>(10, 1.f));
  EXPECT_EQUAL(run(program.function("scale_wrong"), {1, threads}, values.address(), 10),
               CUDA_ERROR_ILLEGAL_ADDRESS);
}
