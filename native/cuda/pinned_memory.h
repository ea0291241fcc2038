// Page-locked host memory, which the GPU copies to and from while the host goes on. Blocks are reused by
// size.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <vector>

#include "cuda/driver.h"

namespace softmoe::cuda {

struct PinnedBlock {
  void* data = nullptr;
  std::size_t bytes = 0;

  explicit operator bool() const { return data != nullptr; }
};

class PinnedMemory {
 public:
  explicit PinnedMemory(const Driver& driver) : driver_(driver) {}
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  // A null block when the system has no page-locked memory left.
  PinnedBlock acquire(std::size_t bytes);
  void release(PinnedBlock block) noexcept;
  // Frees the blocks that are not in use. The context is current.
  void clear() noexcept;

 private:
  const Driver& driver_;
  std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> free_;
  std::size_t free_bytes_ = 0;
};

}  // namespace softmoe::cuda
