#include "cpu/memory_cache.h"

#include <cstdlib>
#include <iterator>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace softmoe::cpu {
namespace {

constexpr int kStepBits = 3;  // eight sizes between powers of two: at most an eighth of a block is unused
constexpr std::size_t kSmallest = 64;

int log2_floor(std::size_t value) { return 63 - __builtin_clzll(static_cast<unsigned long long>(value)); }

}  // namespace

std::size_t MemoryCache::capacity(std::size_t bytes) {
  if (bytes <= kSmallest) return kSmallest;
  std::size_t step = std::size_t{1} << (log2_floor(bytes - 1) - kStepBits);
  if (step < kSmallest) step = kSmallest;
  return (bytes + step - 1) / step * step;
}

int MemoryCache::size_class(std::size_t capacity) {
  const int exponent = log2_floor(capacity);
  const auto step = static_cast<int>((capacity >> (exponent - kStepBits)) & ((1 << kStepBits) - 1));
  return (exponent << kStepBits) | step;
}

MemoryCache::~MemoryCache() { trim(UINT64_MAX); }

void* MemoryCache::allocate(std::size_t capacity) {
  // A block of at least a huge page starts at one, so that the system can back it with few page-table
  // entries.
  const bool huge = capacity >= kHugePage;
  const std::size_t alignment = huge ? kHugePage : kAlignment;
  void* data = std::aligned_alloc(alignment, (capacity + alignment - 1) / alignment * alignment);
#if defined(__linux__)
  if (data && huge) madvise(data, capacity, MADV_HUGEPAGE);
#endif
  return data;
}

MemoryCache::Block MemoryCache::take(std::size_t bytes, std::uint64_t ended) {
  const std::size_t size = capacity(bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Block>& blocks = free_[static_cast<std::size_t>(size_class(size))];
  // The newest first: it may still be in the processor's caches.
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    if (block->last_use > ended) continue;
    const Block taken = *block;
    blocks.erase(std::next(block).base());
    cached_bytes_ -= size;
    return taken;
  }
  if (size > limit_ || held_bytes_ > limit_ - size) return {};
  void* data = allocate(size);
  if (data) {
    held_bytes_ += size;
    ++system_allocations_;
  }
  return {data, 0};
}

void MemoryCache::give_back(Block block, std::size_t bytes) noexcept {
  const std::size_t size = capacity(bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  try {
    free_[static_cast<std::size_t>(size_class(size))].push_back(block);
    cached_bytes_ += size;
  } catch (const std::bad_alloc&) {
    // The list cannot grow and queued work may use the block: it is lost.
  }
}

void MemoryCache::trim(std::uint64_t ended) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (std::size_t index = 0; index < free_.size(); ++index) {
    std::vector<Block>& blocks = free_[index];
    std::size_t kept = 0;
    for (const Block& block : blocks) {
      if (block.last_use > ended) {
        blocks[kept++] = block;
        continue;
      }
      const std::size_t exponent = index >> kStepBits, step = index & ((1u << kStepBits) - 1);
      const std::size_t size = (std::size_t{1} << exponent) + (step << (exponent - kStepBits));
      std::free(block.data);
      cached_bytes_ -= size;
      held_bytes_ -= size;
    }
    blocks.resize(kept);
  }
}

std::size_t MemoryCache::cached_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return cached_bytes_;
}

std::size_t MemoryCache::held_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return held_bytes_;
}

std::int64_t MemoryCache::system_allocations() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return system_allocations_;
}

}  // namespace softmoe::cpu
