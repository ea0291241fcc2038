// What every kernel does to memory, as the emulated driver counts it: at most 1.15 times the bytes of
// cuda_memory_budgets.cc, in whole sectors, without bank conflicts and without local memory. Each element
// type is run in a process of its own; silent on other drivers. SOFTMOE_TEST_PRINT_MEMORY=1 prints the
// numbers.
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include "cuda/fatbin.h"
#include "cuda_memory_budgets.h"
#include "cuda_memory_cases.h"

namespace softmoe::testing {
namespace {

constexpr double kMostOfLeast = 1.15;
constexpr double kScalars = 512;  // norms, factors and offsets that come alone

struct Counts {
  double sectors = 0, wavefronts = 0, ideal_wavefronts = 0, local = 0;
};

double counter(const std::string& line, const std::string& name) {
  const std::size_t at = line.find("\"" + name + "\":");
  CHECK(at != std::string::npos);
  return std::strtod(line.c_str() + at + name.size() + 3, nullptr);
}

// Sums by kernel of what was counted since the last call.
std::map<std::string, Counts> new_counts(std::ifstream& file) {
  std::map<std::string, Counts> counts;
  file.clear();
  for (std::string line; std::getline(file, line);) {
    const std::size_t begin = line.find("\"kernel\":\"") + 10;
    Counts& sum = counts[line.substr(begin, line.find('"', begin) - begin)];
    sum.sectors += counter(line, "globalLoadSectors") + counter(line, "globalStoreSectors");
    sum.wavefronts += counter(line, "sharedWavefronts");
    sum.ideal_wavefronts += counter(line, "sharedIdealWavefronts");
    sum.local += counter(line, "localRequests");
  }
  return counts;
}

std::string kernel_name(const MemoryBudget& budget, DType dtype) {
  std::string name = budget.kernel;
  const std::size_t star = name.find('*');
  if (star != std::string::npos) name.replace(star, 1, name_of(dtype));
  return name;
}

// Prints a line a kernel: name, bytes, least bytes (0: unbounded), wavefronts, ideal wavefronts, how many
// times as many are allowed, local accesses.
void count_workloads(const char* counters, DType dtype) {
  std::ofstream(counters).close();
  std::ifstream file(counters);
  for (const MemoryWorkload& workload : memory_workloads()) {
    workload.run(dtype);
    const std::map<std::string, Counts> counts = new_counts(file);
    for (const MemoryBudget& budget : workload.budgets) {
      const auto found = counts.find(kernel_name(budget, dtype));
      if (found == counts.end()) continue;
      const Counts& count = found->second;
      const auto size = static_cast<std::int64_t>(size_of(dtype));
      const std::int64_t least = budget.least_bytes ? budget.least_bytes(size) : 0;
      std::printf("kernel %s %.0f %.0f %.0f %.0f %.2f %.0f\n", found->first.c_str(), 32 * count.sectors,
                  static_cast<double>(least), count.wavefronts, count.ideal_wavefronts,
                  budget.most_wavefronts, count.local);
    }
  }
}

TEST(cuda_counted_workloads) {
  const char* dtype = std::getenv("SOFTMOE_TEST_COUNTED_WORKLOADS");
  if (!dtype) return;
  count_workloads(std::getenv("SOFTMOE_EMULATOR_COUNTERS"),
                  std::strcmp(dtype, "float32") == 0 ? DType::kFloat32 : DType::kBFloat16);
}

// Names of the entries in the PTX of all embedded kernels.
std::set<std::string> embedded_kernels() {
  std::set<std::string> names;
  const std::string entry = ".entry ";
  for (const SoftmoeFatbin* fatbin = softmoe_fatbins; fatbin->name; ++fatbin) {
    const std::string text(fatbin->begin, fatbin->end);
    for (std::size_t at = 0; (at = text.find(entry, at)) != std::string::npos;) {
      at += entry.size();
      names.insert(text.substr(at, text.find('(', at) - at));
    }
  }
  return names;
}

// Returns the lines of the kernels that do worse.
std::string check_workloads(DType dtype, std::set<std::string>& seen) {
  std::array<char, 4096> path{};
  CHECK(::readlink("/proc/self/exe", path.data(), path.size() - 1) > 0);
  const std::string file = "/tmp/softmoe-workloads-" + std::to_string(::getpid());
  // Few multiprocessors, so that small shapes are large enough for the larger tiles.
  const std::string command = std::string("env SOFTMOE_TEST_COUNTED_WORKLOADS=") + name_of(dtype) +
                              " SOFTMOE_EMULATOR_MULTIPROCESSORS=4 SOFTMOE_EMULATOR_COUNTERS=" + file + " " +
                              path.data() + " cuda_counted_workloads 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  CHECK(pipe != nullptr);
  const char* prints = std::getenv("SOFTMOE_TEST_PRINT_MEMORY");
  std::string failures;
  std::array<char, 4096> line{};
  while (std::fgets(line.data(), line.size(), pipe)) {
    std::array<char, 256> name{};
    double bytes = 0, least = 0, wavefronts = 0, ideal = 0, most_wavefronts = 0, local = 0;
    if (std::sscanf(line.data(), "kernel %255s %lf %lf %lf %lf %lf %lf", name.data(), &bytes, &least,
                    &wavefronts, &ideal, &most_wavefronts, &local) != 7) {
      continue;
    }
    seen.insert(name.data());
    const double ratio = least > 0 ? bytes / least : 0, conflicts = ideal > 0 ? wavefronts / ideal : 1;
    std::array<char, 256> row{};
    std::snprintf(row.data(), row.size(), "%-8s %-42s %9.0f bytes, %5.2f of the least, %5.2f wavefronts\n",
                  name_of(dtype), name.data(), bytes, ratio, conflicts);
    if (prints) std::fputs(row.data(), stdout);
    if (bytes > kMostOfLeast * (least > 0 ? least : bytes) + kScalars || conflicts > most_wavefronts ||
        local > 0) {
      failures += row.data();
    }
  }
  CHECK_EQUAL(::pclose(pipe), 0);
  std::remove(file.c_str());
  return failures;
}

TEST(cuda_kernels_move_no_more_than_they_must) {
  if (!tests_cuda()) return;
  std::set<std::string> seen;
  std::string failures;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) failures += check_workloads(dtype, seen);
  if (seen.empty()) return;  // a driver that does not count
  for (const std::string& kernel : embedded_kernels()) {
    if (seen.count(kernel) == 0)
      failures += kernel + " has no row in cuda_memory_budgets.cc, or is not launched\n";
  }
  if (!failures.empty()) fail(__FILE__, __LINE__, "\n" + failures);
}

}  // namespace
}  // namespace softmoe::testing
