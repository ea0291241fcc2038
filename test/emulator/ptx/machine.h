// What runs: decoded instructions, the rows that hold a warp's registers, warps and blocks.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine.h"
#include "syntax.h"

namespace ptxemu {

constexpr int kLanes = 32;
constexpr uint32_t kNone = ~0u;
using Mask = uint32_t;
constexpr Mask kAllLanes = ~0u;

// Generic addresses above the host's own 47 bits.
constexpr uint64_t kSharedWindow = 1ull << 56;
constexpr uint64_t kLocalWindow = 2ull << 56;
constexpr uint64_t kParamWindow = 3ull << 56;
constexpr uint64_t kFunctionWindow = 4ull << 56;
constexpr uint64_t kWindowMask = 0xffull << 56;

// Inst::flag and Inst::immediate of bar.*.
enum BarrierKind : uint8_t { kBarrierSync, kBarrierArrive, kBarrierPopc, kBarrierAnd, kBarrierOr };
enum BarrierOption : uint8_t { kBarrierHasCount = 1, kBarrierAligned = 2, kBarrierNegated = 4 };

struct Inst;
struct Warp;
struct FlyingProducts;
class Block;
using Execute = void (*)(Warp&, const Inst&, Mask);

enum class Kind : uint8_t {
  plain,
  branch,
  branchTable,
  exit,
  barrier,       // bar.*: may wait for other warps
  convergeHere,  // needs the lanes of a member mask at this very instruction
  convergeWarp,  // bar.warp.sync: needs them at any bar.warp.sync
  yielding       // may ask to run later: polls and sleeps
};

enum class Category : uint8_t { integer, floatingPoint, conversion, control, memory, warpLevel, other };

// How undefined bytes travel through an instruction when any are about.
using Propagate = void (*)(Warp&, const Inst&, Mask);

struct Inst {
  Execute execute = nullptr;
  Propagate propagate = nullptr;
  const uint32_t* op = nullptr;  // offsets of rows: destinations, then sources
  int64_t immediate = 0;         // an address offset or a small constant of the form
  uint32_t predicate = kNone;
  int32_t target = -1;
  uint32_t index = 0;
  Kind kind = Kind::plain;
  Category category = Category::other;
  bool predicateNegated = false;
  uint8_t destinations = 0, sources = 0;
  // Of memory instructions.
  Space space = Space::global;
  uint8_t vector = 1;
  uint8_t elementBytes = 0;
  uint8_t address = 0;       // which of op is the address row
  uint8_t addressBytes = 8;  // of that row
  bool strong = false;       // atomic, volatile or with an ordering: synchronises instead of racing
  uint8_t order = 0;         // 1 acquire, 2 release, 3 both
  uint8_t flag = 0;          // of the form
  bool writesLater = false;  // its destinations are written when something waits for it
  uint8_t member = 255;      // of converging kinds: which of op is the member mask; 255: the whole warp
};

// A row is 32 lanes of 2, 4, 8 or 16 bytes, or one 32-bit mask for a predicate, at a multiple of 64 bytes.
// Beside each row lie 32 bytes of shadow, at half its offset: bit k of lane l is set when byte k of its value
// is undefined.
struct ConstantRow {
  uint32_t offset = 0;
  uint8_t bytes = 0;
  uint64_t bits = 0;
};

enum class Special : uint8_t {
  tidX,
  tidY,
  tidZ,
  ntidX,
  ntidY,
  ntidZ,
  ctaidX,
  ctaidY,
  ctaidZ,
  nctaidX,
  nctaidY,
  nctaidZ,
  laneid,
  warpid,
  nwarpid,
  smid,
  nsmid,
  gridid,
  maskEq,
  maskLt,
  maskLe,
  maskGt,
  maskGe,
  dynamicShared,
  totalShared,
  clusterOne,
  zero,
  gridWorkspaceHigh,
  gridWorkspaceLow,
  none
};

struct SpecialRow {
  uint32_t offset = 0;
  uint8_t bytes = 4;
  Special which = Special::zero;
};

struct SourcePosition {
  int ptxLine = 0, file = 0, line = 0;
};

struct Program {
  std::string name;
  std::vector<Inst> code;
  std::vector<uint32_t> operands;  // what Inst::op points into
  std::vector<std::vector<int32_t>> branchTables;
  std::vector<SourcePosition> positions;
  std::vector<std::string> opcodes;
  std::map<int, std::string> files;
  std::vector<ConstantRow> constants;
  std::vector<SpecialRow> specials;
  std::vector<uint32_t> undefinedAtEntry;  // rows read on some path before they are written
  uint32_t rowBytes = 0;
  uint32_t paramBytes = 0, localBytes = 0, sharedBytes = 0;
  uint32_t sharedGranule = 4;  // the smallest access to shared memory, at most 4
  bool usesDynamicShared = false;
};

struct Group {
  enum class State : uint8_t { ready, atBarrier, converging };
  int32_t pc = 0;
  Mask mask = 0;
  State state = State::ready;
  int barrier = -1;
};

// One cp.async of a warp, on its way.
struct AsyncCopy {
  Mask lanes = 0;
  uint32_t bytes = 0;
  uint32_t group = 0;
  uint64_t number = 0;  // counts the warp's copies
  uint32_t inst = 0;
  std::array<uint32_t, kLanes> destination;
  std::array<uint64_t, kLanes> source;
  std::array<uint8_t, kLanes> sourceBytes;
};

struct InstCounters {
  uint64_t executions = 0, lanes = 0, requests = 0, sectors = 0, wavefronts = 0, idealWavefronts = 0,
           bytes = 0;
};

constexpr uint64_t kNeverPolled = 1ull << 62;

struct Warp {
  uint8_t* rows = nullptr;
  uint8_t* shadows = nullptr;
  uint8_t* local = nullptr;        // localBytes per lane
  uint8_t* localShadow = nullptr;  // 1: undefined
  Block* block = nullptr;
  const Program* program = nullptr;
  int id = 0;
  Mask alive = 0, launched = 0;
  bool checking = false;  // any checker or the counters
  bool definedness = false;
  bool tainted = false;       // some row may hold undefined bytes
  bool yield = false;         // set by instructions that poll
  bool pollsBarrier = false;  // and what they poll is an mbarrier
  std::vector<Group> groups;
  std::vector<AsyncCopy> copies;
  uint64_t copiesIssued = 0;
  std::array<uint32_t, kLanes> committed{};
  std::shared_ptr<FlyingProducts> products;  // of wgmma
  uint64_t sincePoll = kNeverPolled;         // instructions since it last polled an mbarrier in vain
  uint64_t spin = 0;  // instructions since all lanes were together or a starving group ran

  template <class T>
  T* row(uint32_t offset) {
    return static_cast<T*>(__builtin_assume_aligned(rows + offset, 64));
  }
  uint8_t* shadow(uint32_t offset) { return shadows + offset / 2; }
  Mask predicate(uint32_t offset) { return *row<Mask>(offset); }
  void setPredicate(uint32_t offset, Mask value, Mask lanes) {
    Mask& row = *this->row<Mask>(offset);
    row = (row & ~lanes) | (value & lanes);
  }
  void report(const char* kind, const Inst& inst, int lane, uint64_t address, const std::string& message);
  // Reports and ends the launch.
  void fault(Fault fault, const char* kind, const Inst& inst, int lane, uint64_t address,
             const std::string& message);
};

template <class Visit>
inline void forLanes(Mask mask, Visit visit) {
  for (; mask; mask &= mask - 1) visit(__builtin_ctz(mask));
}

inline int firstLane(Mask mask) { return __builtin_ctz(mask); }

}  // namespace ptxemu
