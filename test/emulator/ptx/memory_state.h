// Device memory from the inside: allocations, the shadow that says which bytes were written, cells for race
// checks.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "engine.h"

namespace ptxemu {

// Zeroed address space that costs physical memory only where it is touched.
class LazyRegion {
 public:
  LazyRegion() = default;
  explicit LazyRegion(size_t bytes);
  ~LazyRegion();
  LazyRegion(LazyRegion&& other) noexcept;
  LazyRegion& operator=(LazyRegion&& other) noexcept;
  uint8_t* data() const { return data_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

// One allocation with its shadow. Definedness is kept by page where a page is uniform, by byte where it is
// not, so that large weights cost nothing. During a launch bytes only ever go from undefined to defined.
class DeviceAllocation {
 public:
  static constexpr size_t kPage = 4096;

  DeviceAllocation(uint64_t address, size_t bytes, LazyRegion storage, bool initialised, bool listed);

  uint64_t begin() const { return begin_; }
  uint64_t end() const { return begin_ + bytes_; }
  size_t bytes() const { return bytes_; }
  bool listed() const {
    return listed_;
  }  // an allocation of the user, not a module's variable or adopted memory
  bool contains(uint64_t address, size_t bytes) const {
    return address >= begin_ && address + bytes <= end() && address + bytes >= address;
  }

  // Bit k: byte address + k was never written. At most 16 bytes.
  uint32_t undefinedMask(uint64_t address, uint32_t bytes) const {
    const size_t first = (address - begin_) / kPage, last = (address + bytes - 1 - begin_) / kPage;
    if ((pages_[first].load(std::memory_order_relaxed) | pages_[last].load(std::memory_order_relaxed)) ==
        kDefined) {
      return 0;
    }
    return undefinedMaskSlow(address, bytes);
  }
  void markDefined(uint64_t address, uint32_t bytes) {
    const size_t first = (address - begin_) / kPage, last = (address + bytes - 1 - begin_) / kPage;
    if ((pages_[first].load(std::memory_order_relaxed) | pages_[last].load(std::memory_order_relaxed)) ==
        kDefined) {
      return;
    }
    markDefinedSlow(address, bytes);
  }
  // For the host side, of any size.
  void setRange(uint64_t address, size_t bytes, bool defined);
  size_t countUndefined(uint64_t address, size_t bytes) const;

  // Two 32-bit cells (last writer, last reader) for each 4 bytes; made at the first launch that checks races.
  uint64_t* raceCells() const { return reinterpret_cast<uint64_t*>(races_.data()); }
  void prepareRaceCells();
  void dropRaceCells() { races_ = LazyRegion(); }

 private:
  enum PageState : uint8_t { kDefined = 0, kMixed = 1, kUndefined = 2 };

  uint32_t undefinedMaskSlow(uint64_t address, uint32_t bytes) const;
  void markDefinedSlow(uint64_t address, uint32_t bytes);
  void makeMixed(size_t page);
  size_t pageCount() const { return (bytes_ + kPage - 1) / kPage; }

  uint64_t begin_;
  size_t bytes_;
  bool listed_;
  LazyRegion storage_, shadow_, races_;
  std::unique_ptr<std::atomic<uint8_t>[]> pages_;
  std::mutex mutex_;
};

class Memory::State {
 public:
  uint64_t allocate(size_t bytes, bool initialised, bool listed);
  void adopt(void* host, size_t bytes);
  FreeStatus free(uint64_t address);
  DeviceAllocation* find(uint64_t address) const;
  DeviceAllocation* containing(uint64_t address, size_t bytes) const;
  const Memory::Allocation* findFreed(uint64_t address) const;
  const std::map<uint64_t, std::unique_ptr<DeviceAllocation>>& all() const { return allocations_; }
  size_t bytesInUse() const { return bytesInUse_; }

  // Numbers for race cells: a segment is a stretch of one warp's execution between two synchronisations. They
  // only grow, so cells of earlier launches need no clearing.
  std::atomic<uint32_t> nextSegment{1};
  void renewRaceCells();

 private:
  std::map<uint64_t, std::unique_ptr<DeviceAllocation>> allocations_;
  std::map<uint64_t, Memory::Allocation> freed_;
  size_t bytesInUse_ = 0;
};

}  // namespace ptxemu
