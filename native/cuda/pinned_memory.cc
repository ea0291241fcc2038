#include "cuda/pinned_memory.h"

#include <new>

namespace softmoe::cuda {

namespace {

constexpr std::size_t kSmallestBlock = std::size_t{1} << 16;
// Page-locked memory is taken from the whole system: no more than this is kept for reuse.
constexpr std::size_t kLargestCache = std::size_t{256} << 20;

std::size_t pinned_bytes(std::size_t bytes) {
  std::size_t rounded = kSmallestBlock;
  while (rounded < bytes) rounded *= 2;
  return rounded;
}

}  // namespace

PinnedBlock PinnedMemory::acquire(std::size_t requested) {
  const std::size_t bytes = pinned_bytes(requested);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<void*>& blocks = free_[bytes];
    if (!blocks.empty()) {
      void* data = blocks.back();
      blocks.pop_back();
      free_bytes_ -= bytes;
      return {data, bytes};
    }
  }
  void* data = nullptr;
  if (driver_.host_allocate(&data, bytes, 0) != kSuccess) return {};
  return {data, bytes};
}

void PinnedMemory::release(PinnedBlock block) noexcept {
  if (!block) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (free_bytes_ + block.bytes > kLargestCache) {
    driver_.host_free(block.data);
    return;
  }
  try {
    free_[block.bytes].push_back(block.data);
    free_bytes_ += block.bytes;
  } catch (const std::bad_alloc&) {
    driver_.host_free(block.data);
  }
}

void PinnedMemory::clear() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& entry : free_) {
    for (void* data : entry.second) driver_.host_free(data);
  }
  free_.clear();
  free_bytes_ = 0;
}

}  // namespace softmoe::cuda
