#include "races.h"

#include <algorithm>

#include "memory_state.h"

namespace ptxemu {

// -- segments
// -------------------------------------------------------------------------------------------------------

SegmentTable::SegmentTable(uint32_t first) : first_(first), next_(first + 1) {
  for (auto& chunk : chunks_) chunk.store(nullptr, std::memory_order_relaxed);
}
SegmentTable::~SegmentTable() {
  for (auto& chunk : chunks_) std::unique_ptr<Segment[]>(chunk.load());
}

uint32_t SegmentTable::add(const Segment& segment) {
  const uint32_t number = next_.fetch_add(1);
  if (number >= kLimit) return 0;
  std::atomic<Segment*>& slot = chunks_[number / kChunk];
  Segment* chunk = slot.load(std::memory_order_acquire);
  if (!chunk) {
    auto fresh = std::make_unique<Segment[]>(kChunk);
    if (slot.compare_exchange_strong(chunk, fresh.get())) chunk = fresh.release();
  }
  chunk[number % kChunk] = segment;
  return number;
}

Segment SegmentTable::at(uint32_t number) const {
  return chunks_[number / kChunk].load(std::memory_order_acquire)[number % kChunk];
}

// -- clocks
// ---------------------------------------------------------------------------------------------------------

void BlockRaces::configure(int warps, size_t sharedBytes, uint32_t granule) {
  warps_ = warps;
  granule_ = granule;
  const size_t cells = (sharedBytes + granule - 1) / granule + 16;
  writeClock_.assign(cells, 0);
  writer_.assign(cells, 0);
  readClock_.assign(cells * warps, 0);
  clocks_.assign(size_t(warps) * warps, 0);
  segment_.assign(warps, 0);
  known_.assign(warps, {});
  fenced_.assign(warps, {});
  fencedClocks_.assign(warps, {});
  base_ = 0;
}

void BlockRaces::start(uint64_t block) {
  if (warps_ == 0) return;
  block_ = block;
  base_ = *std::max_element(clocks_.begin(), clocks_.end());
  if (base_ > 0xf0000000u) configure(warps_, (writeClock_.size() - 16) * granule_, granule_);
  for (int warp = 0; warp < warps_; warp++) {
    for (int other = 0; other < warps_; other++) clockOf(warp, other) = warp == other ? base_ + 1 : base_;
    segment_[warp] = 0;
    known_[warp].clear();
    fenced_[warp].clear();
    fencedClocks_[warp].clear();
  }
  for (uint8_t& writer : writer_) writer &= ~kInFlight;
}

void BlockRaces::tick(int warp) {
  clockOf(warp, warp)++;
  segment_[warp] = 0;
}

namespace {
void join(VectorClock& into, const uint32_t* from, size_t count) {
  into.resize(std::max(into.size(), count));
  for (size_t i = 0; i < count; i++) into[i] = std::max(into[i], from[i]);
}
void join(Knowledge& into, const Knowledge& from) {
  for (const auto& [block, clock] : from) join(into[block], clock.data(), clock.size());
}
}  // namespace

void BlockRaces::arrive(int warp, SyncClock& sync) {
  join(sync.clock, &clockOf(warp, 0), warps_);
  join(sync.known, known_[warp]);
  join(sync.fenced, fenced_[warp]);
  if (!fencedClocks_[warp].empty()) join(sync.fencedClock, fencedClocks_[warp].data(), warps_);
  tick(warp);
}

void BlockRaces::leave(int warp, const SyncClock& sync) {
  for (size_t other = 0; other < sync.clock.size(); other++) {
    if (static_cast<int>(other) != warp)
      clockOf(warp, other) = std::max(clockOf(warp, other), sync.clock[other]);
  }
  join(known_[warp], sync.known);
  join(fenced_[warp], sync.fenced);
  if (!sync.fencedClock.empty()) join(fencedClocks_[warp], sync.fencedClock.data(), sync.fencedClock.size());
}

// -- shared memory
// --------------------------------------------------------------------------------------------------

int BlockRaces::readShared(int warp, uint32_t address, uint32_t bytes) {
  const uint32_t* clocks = &clockOf(warp, 0);
  const uint32_t now = clocks[warp];
  int other = -1;
  for (uint32_t cell = address / granule_; cell <= (address + bytes - 1) / granule_; cell++) {
    const uint8_t writer = writer_[cell];
    if (writeClock_[cell] > clocks[writer & ~kInFlight] || (writer & kInFlight)) {
      // A warp's own ticks never exceed its own clock, so a later one is another warp's.
      other = writer & ~kInFlight;
    }
    readClock_[size_t(cell) * warps_ + warp] = now;
  }
  return other;
}

int BlockRaces::writeShared(int warp, uint32_t address, uint32_t bytes) {
  const uint32_t* clocks = &clockOf(warp, 0);
  int other = -1;
  for (uint32_t cell = address / granule_; cell <= (address + bytes - 1) / granule_; cell++) {
    const uint8_t writer = writer_[cell];
    if (writeClock_[cell] > clocks[writer & ~kInFlight] || (writer & kInFlight)) other = writer & ~kInFlight;
    const uint32_t* reads = &readClock_[size_t(cell) * warps_];
    bool unordered = false;
    for (int reader = 0; reader < warps_; reader++) unordered |= reads[reader] > clocks[reader];
    if (unordered) {
      for (int reader = 0; reader < warps_; reader++) other = reads[reader] > clocks[reader] ? reader : other;
    }
    writeClock_[cell] = clocks[warp];
    writer_[cell] = static_cast<uint8_t>(warp);
  }
  return other;
}

int BlockRaces::beginCopy(int warp, uint32_t address, uint32_t bytes) {
  const int other = writeShared(warp, address, bytes);
  for (uint32_t cell = address / granule_; cell <= (address + bytes - 1) / granule_; cell++) {
    writer_[cell] = static_cast<uint8_t>(warp | kInFlight);
  }
  return other;
}

void BlockRaces::endCopyAt(int warp, uint32_t address, uint32_t bytes, uint32_t clock) {
  for (uint32_t cell = address / granule_; cell <= (address + bytes - 1) / granule_; cell++) {
    writeClock_[cell] = clock;
    writer_[cell] = static_cast<uint8_t>(warp);
  }
}

void BlockRaces::publish(int warp, uint32_t clock, SyncClock& sync) const {
  sync.clock.resize(warps_);
  sync.clock[warp] = std::max(sync.clock[warp], clock);
}

// -- global memory
// --------------------------------------------------------------------------------------------------

namespace {

// A race cell is two halves: the last writer and the last reader, each a segment number and a mask of four
// bytes.
uint32_t packed(uint32_t segment, uint32_t byteMask) { return segment << 4 | byteMask; }
uint32_t segmentIn(uint32_t half) { return half >> 4; }
uint32_t bytesIn(uint32_t half) { return half & 15; }

uint32_t* halves(DeviceAllocation& allocation, uint64_t word) {
  return reinterpret_cast<uint32_t*>(allocation.raceCells() + (word - allocation.begin() / 4));
}

uint32_t byteMaskIn(uint64_t word, uint64_t address, uint32_t bytes) {
  const uint64_t from = std::max(word * 4, address), to = std::min(word * 4 + 4, address + bytes);
  return ((1u << (to - from)) - 1) << (from - word * 4);
}

}  // namespace

bool BlockRaces::isKnown(int warp, const Segment& segment) const {
  if (segment.block == block_) return segment.clock <= clocks_[size_t(warp) * warps_ + segment.warp];
  const auto found = known_[warp].find(segment.block);
  return found != known_[warp].end() && segment.clock <= found->second[segment.warp];
}

uint32_t BlockRaces::segmentOf(SegmentTable& segments, int warp) {
  if (segment_[warp] == 0) {
    segment_[warp] = segments.add({block_, clockOf(warp, warp), static_cast<uint8_t>(warp)});
  }
  return segment_[warp];
}

BlockRaces::Conflict BlockRaces::readGlobal(SegmentTable& segments, DeviceAllocation& allocation, int warp,
                                            uint64_t address, uint32_t bytes) {
  Conflict conflict;
  const uint32_t self = segmentOf(segments, warp);
  if (self == 0) return conflict;
  for (uint64_t word = address / 4; word <= (address + bytes - 1) / 4; word++) {
    uint32_t* cell = halves(allocation, word);
    const uint32_t writer = __atomic_load_n(&cell[0], __ATOMIC_RELAXED);
    const uint32_t reader = __atomic_load_n(&cell[1], __ATOMIC_RELAXED);
    const uint32_t mask = byteMaskIn(word, address, bytes);
    if (segmentIn(writer) > segments.first() && segmentIn(writer) != self && (bytesIn(writer) & mask)) {
      const Segment other = segments.at(segmentIn(writer));
      if (!isKnown(warp, other)) conflict = {other.block, other.warp, false, "reads what was written"};
    }
    uint32_t next = packed(self, mask);
    if (segmentIn(reader) >= segments.first() && segmentIn(reader) != self) {
      const bool several = segmentIn(reader) == segments.severalReaders();
      if (several || segments.at(segmentIn(reader)).block != block_) {
        next = packed(segments.severalReaders(), mask | bytesIn(reader));
      }
    } else if (segmentIn(reader) == self) {
      next |= bytesIn(reader);
    }
    if (next != reader) __atomic_store_n(&cell[1], next, __ATOMIC_RELAXED);
  }
  return conflict;
}

BlockRaces::Conflict BlockRaces::writeGlobal(SegmentTable& segments, DeviceAllocation& allocation, int warp,
                                             uint64_t address, uint32_t bytes) {
  Conflict conflict;
  const uint32_t self = segmentOf(segments, warp);
  if (self == 0) return conflict;
  for (uint64_t word = address / 4; word <= (address + bytes - 1) / 4; word++) {
    uint32_t* cell = halves(allocation, word);
    const uint32_t mask = byteMaskIn(word, address, bytes);
    uint32_t next = packed(self, mask);
    const uint32_t seen = __atomic_load_n(&cell[0], __ATOMIC_RELAXED);
    if (segmentIn(seen) == self) next |= bytesIn(seen);
    const uint32_t writer = __atomic_exchange_n(&cell[0], next, __ATOMIC_ACQ_REL);
    const uint32_t reader = __atomic_load_n(&cell[1], __ATOMIC_RELAXED);
    if (segmentIn(writer) > segments.first() && segmentIn(writer) != self && (bytesIn(writer) & mask)) {
      const Segment other = segments.at(segmentIn(writer));
      if (!isKnown(warp, other)) conflict = {other.block, other.warp, false, "writes what was written"};
    }
    if (segmentIn(reader) >= segments.first() && segmentIn(reader) != self && (bytesIn(reader) & mask)) {
      if (segmentIn(reader) == segments.severalReaders()) {
        // Which blocks read is not known, so a warp that synchronised with others gets the benefit of the
        // doubt; so does a write of a part of the word, whose own block may be the one that read that part.
        if (known_[warp].empty() && mask == 15) conflict = {0, 0, true, "writes what was read"};
      } else {
        const Segment other = segments.at(segmentIn(reader));
        if (!isKnown(warp, other)) conflict = {other.block, other.warp, false, "writes what was read"};
      }
    }
  }
  return conflict;
}

void BlockRaces::fence(int warp) {
  fencedClocks_[warp].assign(&clockOf(warp, 0), &clockOf(warp, 0) + warps_);
  fenced_[warp] = known_[warp];
  tick(warp);
}

void BlockRaces::releaseTo(GlobalSync& sync, int warp, uint64_t address, bool withFence) {
  if (withFence) fence(warp);
  if (fencedClocks_[warp].empty() && fenced_[warp].empty()) return;
  std::lock_guard<std::mutex> lock(sync.mutex);
  Knowledge& at = sync.byAddress[address];
  join(at, fenced_[warp]);
  if (!fencedClocks_[warp].empty()) join(at[block_], fencedClocks_[warp].data(), warps_);
  sync.used.store(true, std::memory_order_relaxed);
}

void BlockRaces::acquireFrom(GlobalSync& sync, int warp, uint64_t address) {
  if (!sync.used.load(std::memory_order_relaxed)) return;
  std::lock_guard<std::mutex> lock(sync.mutex);
  const auto found = sync.byAddress.find(address);
  if (found == sync.byAddress.end()) return;
  for (const auto& [block, clock] : found->second) {
    if (block == block_) {
      for (int other = 0; other < warps_; other++) {
        if (other != warp) clockOf(warp, other) = std::max(clockOf(warp, other), clock[other]);
      }
    } else {
      join(known_[warp][block], clock.data(), clock.size());
    }
  }
}

}  // namespace ptxemu
