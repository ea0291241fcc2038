// A SIMT engine that runs PTX text on the CPU, with checkers and counters.
//
// A module is parsed once and decoded into one function pointer per instruction. A warp is 32 lanes in lock
// step under a mask; a register is a row of 32 values. Blocks run on several host threads. Device addresses
// are real host pointers, so the host side can read and write device memory directly; shared, local and
// parameter memory have windows of their own in the generic address space.
//
// The engine needs AVX2, FMA and F16C (x86-64-v3).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace ptxemu {

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t(x) * y * z; }
};

// Which checkers run. With all of them off the engine only computes: an illegal access is then undefined
// behaviour of this process, as nothing looks at addresses.
struct CheckOptions {
  bool bounds = true;       // global, shared, local and parameter accesses stay inside their allocation
  bool definedness = true;  // a value never written reaches a global store, a branch, an address or a barrier
  bool races = true;        // unordered accesses of two warps, one of them a write; barrier divergence
  bool alignment = true;    // an access of n bytes is at a multiple of n
  bool counters = true;     // fill Counters and LaunchResult::lines

  static CheckOptions none() { return {false, false, false, false, false}; }
  static CheckOptions all() { return {}; }
};

// What a launch did. A request is one memory instruction of one warp. A sector is 32 bytes of global memory.
// A wavefront is one pass over the 32 banks of shared memory; "ideal" wavefronts are those the same bytes
// would need without bank conflicts.
struct Counters {
  uint64_t warpInstructions = 0, laneInstructions = 0;
  uint64_t integer = 0, floatingPoint = 0, conversion = 0, control = 0, memory = 0, warpLevel = 0, other = 0;
  uint64_t mma = 0, mmaFlops = 0;  // warp-level matrix instructions and their multiply-adds times two
  uint64_t globalLoadRequests = 0, globalLoadSectors = 0, globalLoadBytes = 0;
  uint64_t globalStoreRequests = 0, globalStoreSectors = 0, globalStoreBytes = 0;
  uint64_t sharedRequests = 0, sharedWavefronts = 0, sharedIdealWavefronts = 0;
  uint64_t localRequests = 0;
  uint64_t globalAtomics = 0, sharedAtomics = 0;  // lanes, not requests
  uint64_t asyncCopies = 0;                       // requests; their bytes count as global loads
  uint64_t tensorCopies = 0;                      // TMA tiles; their bytes count as global loads
  uint64_t barriers = 0;                          // warps that arrived
  uint64_t divergentBranches = 0;

  // Calls visit(name, value) for every counter, in the order above.
  template <class Visit>
  void forEach(Visit visit) {
    visitAll(*this, visit);
  }
  template <class Visit>
  void forEach(Visit visit) const {
    visitAll(*this, visit);
  }
  Counters& operator+=(const Counters& other);

 private:
  template <class Self, class Visit>
  static void visitAll(Self& s, Visit& visit) {
    visit("warpInstructions", s.warpInstructions), visit("laneInstructions", s.laneInstructions);
    visit("integer", s.integer), visit("floatingPoint", s.floatingPoint), visit("conversion", s.conversion);
    visit("control", s.control), visit("memory", s.memory), visit("warpLevel", s.warpLevel);
    visit("other", s.other), visit("mma", s.mma), visit("mmaFlops", s.mmaFlops);
    visit("globalLoadRequests", s.globalLoadRequests), visit("globalLoadSectors", s.globalLoadSectors);
    visit("globalLoadBytes", s.globalLoadBytes), visit("globalStoreRequests", s.globalStoreRequests);
    visit("globalStoreSectors", s.globalStoreSectors), visit("globalStoreBytes", s.globalStoreBytes);
    visit("sharedRequests", s.sharedRequests), visit("sharedWavefronts", s.sharedWavefronts);
    visit("sharedIdealWavefronts", s.sharedIdealWavefronts), visit("localRequests", s.localRequests);
    visit("globalAtomics", s.globalAtomics), visit("sharedAtomics", s.sharedAtomics);
    visit("asyncCopies", s.asyncCopies), visit("tensorCopies", s.tensorCopies);
    visit("barriers", s.barriers), visit("divergentBranches", s.divergentBranches);
  }
};

// The memory behaviour of one source line: where bank conflicts and scattered accesses come from.
struct LineCounters {
  std::string file;  // empty without -lineinfo
  int line = 0;      // of the .cu file; 0 without -lineinfo
  int ptxLine = 0;   // the first PTX line that belongs to it
  uint64_t warpInstructions = 0, globalRequests = 0, globalSectors = 0;
  uint64_t sharedRequests = 0, sharedWavefronts = 0, sharedIdealWavefronts = 0;
};

// kind is one of:
//   "global-bounds" "shared-bounds" "local-bounds" "param-bounds" "misaligned"     these end the launch
//   "trap" "assert" "deadlock" "hang" "unsupported"                                these end the launch
//   "undefined-value" "race" "barrier-divergence" "inactive-lane" "bad-operand"    the launch goes on
struct Report {
  std::string kind, kernel, message;
  Dim3 block{0, 0, 0};
  int warp = 0, lane = 0;
  int ptxLine = 0;
  std::string file;  // from .loc: what nvcc -lineinfo writes
  int line = 0;
  uint64_t address = 0;
  uint64_t count = 1;  // how often this kind was seen at this instruction

  std::string text() const;  // one line for people
};

enum class Fault { none, illegalAddress, misalignedAddress, trap, assertion, deadlock };

// Device memory. Addresses are host pointers. Not to be used by the host while a launch runs, but for
// launches themselves, which may use it from several threads.
class Memory {
 public:
  enum class FreeStatus { ok, notAnAllocation, alreadyFreed };
  struct Allocation {
    uint64_t address = 0;
    size_t bytes = 0;
  };

  Memory();
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // 512-byte aligned, with a guard zone that belongs to no allocation. Content is 0xff bytes, counted as
  // undefined unless `initialised`. Returns 0 when the host has no memory.
  uint64_t allocate(size_t bytes, bool initialised = false);
  // Makes host memory of the caller (pinned or managed) visible to kernels as defined bytes.
  void adopt(void* host, size_t bytes);
  FreeStatus free(uint64_t address);

  // Host-side access. All return false, touching nothing, unless the range lies in one allocation.
  bool write(uint64_t destination, const void* source, size_t bytes);
  bool read(void* destination, uint64_t source, size_t bytes) const;
  bool fill(uint64_t destination, uint32_t pattern, size_t patternBytes,
            size_t count);                                         // pattern of 1, 2, 4 bytes
  bool copy(uint64_t destination, uint64_t source, size_t bytes);  // definedness travels with the bytes

  bool contains(uint64_t address, size_t bytes) const;
  // How many of the bytes no one ever wrote; for "copied undefined bytes to the host" reports.
  size_t undefinedBytes(uint64_t address, size_t bytes) const;
  // The live allocation that holds the address, or the freed one that last did.
  std::optional<Allocation> find(uint64_t address) const;
  std::optional<Allocation> findFreed(uint64_t address) const;
  std::vector<Allocation> allocations() const;  // live ones, without module globals and adopted ranges
  size_t bytesInUse() const;

  class State;
  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

class ParseError : public std::runtime_error {
 public:
  ParseError(int ptxLine, const std::string& what);
  int ptxLine() const { return ptxLine_; }

 private:
  int ptxLine_;
};

struct Parameter {
  uint32_t offset = 0, bytes = 0;
};

struct Program;  // decoded instructions

struct Kernel {
  std::string name;
  std::vector<Parameter> params;
  uint32_t paramBytes = 0;
  uint32_t staticShared = 0;  // bytes a block needs before its dynamic shared memory
  uint32_t maxThreads = 0;    // .maxntid as a product, 0 if not given
  uint32_t registers = 0;     // most 32-bit values alive at once: what a register allocator needs at least
  uint32_t localBytes = 0;    // per thread
  uint32_t constantBytes = 0;
  std::shared_ptr<const Program> program;
};

class Module {
 public:
  // Throws ParseError, naming the form and its PTX line, for text that is not PTX or uses what the engine
  // lacks.
  static std::unique_ptr<Module> parse(const std::string& ptx, Memory& memory);
  ~Module();

  const Kernel* kernel(const std::string& name) const;  // nullptr if there is none
  std::vector<const Kernel*> kernels() const;
  const Memory::Allocation* global(const std::string& name) const;  // .global and .const variables
  int smVersion() const;                                            // 80 for ".target sm_80"

 private:
  Module();
  struct State;
  std::unique_ptr<State> state_;
};

struct LaunchConfig {
  Dim3 grid, block;
  uint32_t dynamicShared = 0;
  const void* paramBuffer = nullptr;  // kernel.paramBytes bytes, laid out by kernel.params
  // 0: blocks and warps run in ascending order, a warp until it must wait. Else a shuffled order of blocks
  // and warps, with warps interrupted at random points.
  uint64_t orderSeed = 0;
  int threads = 1;
  CheckOptions checks;
  bool cooperative = false;                // all blocks are resident at once, so they may wait for each other
  uint64_t instructionLimit = 1ull << 36;  // warp instructions of one block; more is a hang
  size_t maxReports = 64;  // distinct ones; further ones only count in LaunchResult::totalReports
};

struct LaunchResult {
  bool ok = true;  // false after a fault
  Fault fault = Fault::none;
  std::vector<Report> reports;
  uint64_t totalReports = 0;
  Counters counters;
  std::vector<LineCounters> lines;  // lines with memory requests, most shared wavefronts first
};

LaunchResult launch(const Kernel& kernel, Memory& memory, const LaunchConfig& config);

// Every instruction form the engine can decode, for documentation and for tests that cover each of them.
// Memory and conversion instructions, whose modifiers combine freely, are listed by family.
std::vector<std::string> supportedForms();

}  // namespace ptxemu
