// Device memory with a cache: released blocks are kept by size and used again, so that a repeated step asks
// nothing of the driver. All work runs on one in-order stream, so a block may be handed out again at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "cuda/driver.h"

namespace softmoe::cuda {

// Blocks that a captured graph writes on every replay; they return to the cache with the graph.
using GraphBlocks = std::vector<void*>;

class DeviceMemory {
 public:
  explicit DeviceMemory(const Driver& driver) : driver_(driver) {}
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // A block of at least `bytes`, 512-byte aligned. The caller's context is current. Throws ERR_OUT_OF_MEMORY.
  void* allocate(std::size_t bytes);
  void release(void* data, std::size_t bytes) noexcept;
  // Frees the cached blocks. The stream must be idle.
  void empty_cache() noexcept;

  // Between the two calls released blocks are kept apart from the cache.
  void begin_capture();
  GraphBlocks end_capture();
  void release_graph(const GraphBlocks& blocks) noexcept;

  std::int64_t cached_bytes() const;
  std::int64_t driver_allocations() const;

 private:
  struct Owned {
    std::size_t bytes = 0;
    bool released = false;
  };

  void* allocate_from_driver(std::size_t bytes);
  void empty_cache_locked() noexcept;

  const Driver& driver_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> cache_;
  std::unordered_map<void*, Owned> graph_owned_;
  std::map<std::size_t, std::vector<void*>> capture_cache_;
  GraphBlocks captured_;
  bool capturing_ = false;
  std::int64_t cached_bytes_ = 0;
  std::int64_t driver_allocations_ = 0;
};

// Bytes of the block that serves a request: multiples of 512 up to 1 MiB, then eight sizes an octave, so that
// at most an eighth is lost and slightly different shapes share blocks.
std::size_t block_bytes(std::size_t bytes);

}  // namespace softmoe::cuda
