// Races by vector clocks. Each warp has a clock; it ticks whenever the warp releases (arrives at a barrier,
// fences). A warp knows of every other warp up to which tick that one's accesses happened before its own. Two
// accesses of different warps race when one of them is a write and neither is known to the other.
//
// Shared memory is checked exactly, per granule: the last write and the last read of every warp. Global
// memory keeps one writer and one reader per four bytes; readers of several blocks are kept as "several".
// That never raises a false alarm but can miss a race of more than two warps inside one block.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace ptxemu {

struct Inst;
struct Warp;
class DeviceAllocation;

using VectorClock = std::vector<uint32_t>;

// What is known of other blocks through atomics and fences: block -> clocks of its warps.
using Knowledge = std::map<uint64_t, VectorClock>;

// What a synchronisation object passes on from those who arrive to those who leave.
struct SyncClock {
  VectorClock clock, fencedClock;
  Knowledge known, fenced;
};

// A stretch of one warp's execution between two ticks of its clock.
struct Segment {
  uint64_t block = 0;
  uint32_t clock = 0;
  uint8_t warp = 0;
};

// Segments of one launch by number; many host threads add to it.
class SegmentTable {
 public:
  explicit SegmentTable(uint32_t first);
  ~SegmentTable();
  uint32_t add(const Segment& segment);  // 0 when the numbers are used up
  Segment at(uint32_t number) const;
  uint32_t first() const { return first_; }
  uint32_t next() const { return next_.load(); }
  uint32_t severalReaders() const { return first_; }  // stands for readers of several blocks
  static constexpr uint32_t kLimit = 1u << 28;

 private:
  static constexpr uint32_t kChunk = 1u << 14;
  const uint32_t first_;
  std::atomic<uint32_t> next_;
  std::array<std::atomic<Segment*>, kLimit / kChunk + 1> chunks_;
};

// Objects in global memory that blocks synchronise through, of one launch.
class GlobalSync {
 public:
  std::mutex mutex;
  std::map<uint64_t, Knowledge> byAddress;
  std::atomic<bool> used{false};
};

class BlockRaces {
 public:
  void configure(int warps, size_t sharedBytes, uint32_t granule);
  void start(uint64_t block);

  // -- order between the warps of the block
  void arrive(int warp, SyncClock& sync);       // release into sync, then tick
  void leave(int warp, const SyncClock& sync);  // acquire from sync
  void tick(int warp);

  // -- shared memory: both return the other warp of a race, or -1
  int readShared(int warp, uint32_t address, uint32_t bytes);
  int writeShared(int warp, uint32_t address, uint32_t bytes);
  // An asynchronous copy is on its way into these bytes: nobody may touch them.
  int beginCopy(int warp, uint32_t address, uint32_t bytes);
  void endCopy(int warp, uint32_t address, uint32_t bytes) { endCopyAt(warp, address, bytes, now(warp)); }
  // The same as of an earlier tick of the warp, which others learn of through `publish`.
  void endCopyAt(int warp, uint32_t address, uint32_t bytes, uint32_t clock);
  void publish(int warp, uint32_t clock, SyncClock& sync) const;
  uint32_t now(int warp) const { return clocks_[size_t(warp) * warps_ + warp]; }

  // -- global memory
  struct Conflict {
    uint64_t block = 0;
    int warp = 0;
    bool several = false;
    const char* kind = nullptr;  // nullptr: no race
  };
  Conflict readGlobal(SegmentTable& segments, DeviceAllocation& allocation, int warp, uint64_t address,
                      uint32_t bytes);
  Conflict writeGlobal(SegmentTable& segments, DeviceAllocation& allocation, int warp, uint64_t address,
                       uint32_t bytes);
  // A fence makes all that the warp knows visible to those who later see its atomics.
  void fence(int warp);
  void releaseTo(GlobalSync& sync, int warp, uint64_t address, bool withFence);
  void acquireFrom(GlobalSync& sync, int warp, uint64_t address);

 private:
  static constexpr uint8_t kInFlight = 0x80;

  uint32_t& clockOf(int warp, int other) { return clocks_[size_t(warp) * warps_ + other]; }
  bool isKnown(int warp, const Segment& segment) const;
  uint32_t segmentOf(SegmentTable& segments, int warp);

  int warps_ = 0;
  uint32_t granule_ = 4;
  uint64_t block_ = 0;
  uint32_t base_ = 0;  // every tick of earlier blocks on this object is at most this
  std::vector<uint32_t> clocks_;
  std::vector<uint32_t> writeClock_, readClock_;  // by granule; by granule and warp
  std::vector<uint8_t> writer_;
  std::vector<uint32_t> segment_;  // of each warp, 0 if it has none since its last tick
  std::vector<Knowledge> known_, fenced_;
  std::vector<VectorClock> fencedClocks_;
};

}  // namespace ptxemu
