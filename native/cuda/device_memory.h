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

// Blocks that a captured graph may read or write on every replay; they return to the cache after the graph.
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

  // A graph keeps the addresses that it was captured with. So it holds what is allocated between the two
  // calls, and whatever was in use before, which it may read: the release of a held block takes effect when
  // no graph holds it any more.
  void begin_capture();
  GraphBlocks end_capture();
  void release_graph(const GraphBlocks& blocks) noexcept;

  // Bytes that were released and are kept: for reuse, or by a graph.
  std::int64_t cached_bytes() const;
  std::int64_t driver_allocations() const;

 private:
  struct Block {
    std::size_t bytes = 0;
    int graphs = 0;  // that hold it
    bool released = false;
    bool captured = false;  // allocated by the graph that is being captured
  };

  void* allocate_from_driver(std::size_t bytes);
  void cache(void* data, std::size_t bytes);
  void empty_cache_locked() noexcept;

  const Driver& driver_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> cache_;
  std::unordered_map<void*, Block> blocks_;  // in use, or held by a graph
  std::map<std::size_t, std::vector<void*>> capture_cache_;
  GraphBlocks held_;  // by the graph that is being captured
  bool capturing_ = false;
  std::int64_t cached_bytes_ = 0, held_bytes_ = 0;
  std::int64_t driver_allocations_ = 0;
};

// Bytes of the block that serves a request: multiples of 512 up to 1 MiB, then eight sizes an octave, so that
// at most an eighth is lost and slightly different shapes share blocks.
std::size_t block_bytes(std::size_t bytes);

}  // namespace softmoe::cuda
