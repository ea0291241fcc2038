// A block of threads while it runs, and the launch it belongs to.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "machine.h"
#include "memory_state.h"
#include "races.h"

namespace ptxemu {

// Shared by all host threads of one launch.
class LaunchState {
 public:
  LaunchState(const Kernel& kernel, Memory::State& memory, const LaunchConfig& config);
  ~LaunchState();

  const Kernel& kernel;
  const Program& program;
  Memory::State& memory;
  const LaunchConfig& config;
  const uint32_t sharedBytes;
  uint64_t gridWorkspace = 0;  // what grid-wide barriers count in, of cooperative launches
  SegmentTable segments;
  GlobalSync globalSync;
  std::atomic<bool> stopped{false};

  void report(const char* kind, const Inst& inst, const Dim3& block, int warp, int lane, uint64_t address,
              const std::string& message);
  void stop(Fault fault);
  void merge(const Counters& counters, const std::vector<InstCounters>& instCounters);
  LaunchResult result();
  std::mutex& atomicMutex(uint64_t address) { return atomicMutexes_[address / 16 % kMutexes]; }

 private:
  static constexpr size_t kMutexes = 64;
  void sumLines(LaunchResult& result) const;

  std::mutex mutex_;
  std::map<std::pair<std::string, uint32_t>, Report> reports_;
  std::vector<std::pair<std::string, uint32_t>> reportOrder_;
  uint64_t totalReports_ = 0;
  Fault fault_ = Fault::none;
  Counters counters_;
  std::vector<InstCounters> instCounters_;
  std::array<std::mutex, kMutexes> atomicMutexes_;
};

struct NamedBarrier {
  uint32_t arrived = 0, expected = 0;  // expected 0: all threads of the block
  uint32_t trueCount = 0;              // lanes whose predicate holds, for bar.red
  uint32_t voters = 0;
  SyncClock clock;
};

class MBarrierSet;

class Block {
 public:
  enum class Status { finished, yielded };

  explicit Block(LaunchState& launch);
  ~Block();
  void start(uint64_t linearIndex);
  // Runs until the block is done or, when it only polls for others, for a while.
  Status run();
  void collect();  // gives the counters to the launch

  LaunchState& launch;
  const Program& program;
  const CheckOptions checks;
  Dim3 index;
  uint64_t linearIndex = 0;
  std::vector<Warp> warps;

  std::vector<uint8_t> shared, sharedUndefined;
  const uint8_t* params = nullptr;
  BlockRaces races;
  Counters counters;
  std::vector<InstCounters> instCounters;
  std::vector<DeviceAllocation*> lastAllocation;  // by instruction

  MBarrierSet& mbarriers();

 private:
  void setSpecials(Warp& warp, bool first);
  uint64_t specialValue(Special which, const Warp& warp, int lane) const;
  // Runs one warp until it waits, ends or used up its slice.
  template <bool kChecking>
  void runWarp(Warp& warp);
  int pickGroup(Warp& warp) const;
  bool hasReadyGroup(const Warp& warp) const;
  void checkGuard(Warp& warp, const Inst& inst, Mask mask);
  // Both say whether the group may go on.
  bool arriveAtBarrier(Warp& warp, const Inst& inst, Mask mask);
  bool convergeWarp(Warp& warp, int32_t pc, Mask mask, Mask wanted);
  void release(int barrier);
  void releaseCompleted();
  void exitLanes(Warp& warp, Mask lanes);
  void reportDeadlock();
  uint64_t slice();
  Mask memberMask(Warp& warp, const Inst& inst, Mask mask) const;
  Mask sameMembers(Warp& warp, const Inst& inst, Mask mask) const;

  std::vector<uint8_t> rows_;
  uint8_t* rowsAligned_ = nullptr;
  std::vector<uint8_t> local_, localShadow_;
  std::map<int, NamedBarrier> barriers_;
  std::unique_ptr<MBarrierSet> mbarriers_;
  uint32_t aliveThreads_ = 0;
  uint64_t executed_ = 0;
  std::mt19937_64 random_;
  std::vector<int> order_;
  bool specialsSet_ = false;
  int idleRounds_ = 0;  // in which warps did nothing but poll mbarriers
};

}  // namespace ptxemu
