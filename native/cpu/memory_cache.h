// Host memory for one stream. Blocks that come back are kept by size and handed out again at once, also while
// work queued before still uses them: the stream does the new owner's work later.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace softmoe::cpu {

class MemoryCache {
 public:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  struct Block {
    void* data = nullptr;
    // Number of the last queued item that may use the block for an earlier owner; 0 for a fresh block.
    std::uint64_t last_use = 0;
  };

  // At most `limit` bytes are held, in use and cached together.
  explicit MemoryCache(std::size_t limit) : limit_(limit) {}
  ~MemoryCache();
  MemoryCache(const MemoryCache&) = delete;
  MemoryCache& operator=(const MemoryCache&) = delete;

  // A cached block whose last use is at most `ended` (kAnyUse: any), else a fresh one. Its data is null when
  // the limit is reached or the system has no memory.
  static constexpr std::uint64_t kAnyUse = UINT64_MAX;
  Block take(std::size_t bytes, std::uint64_t ended = kAnyUse);
  void give_back(Block block, std::size_t bytes) noexcept;
  // Frees the cached blocks whose last use is at most `ended`.
  void trim(std::uint64_t ended) noexcept;

  std::size_t cached_bytes() const;
  std::size_t held_bytes() const;
  std::int64_t system_allocations() const;
  std::size_t limit() const { return limit_; }

  // Bytes that a block for `bytes` has: the next of eight steps between powers of two.
  static std::size_t capacity(std::size_t bytes);

 private:
  static constexpr int kClasses = 512;
  static int size_class(std::size_t capacity);
  void* allocate(std::size_t capacity);

  const std::size_t limit_;
  mutable std::mutex mutex_;
  std::array<std::vector<Block>, kClasses> free_;
  std::size_t cached_bytes_ = 0, held_bytes_ = 0;
  std::int64_t system_allocations_ = 0;
};

}  // namespace softmoe::cpu
