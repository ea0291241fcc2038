// Temporary memory of kernels: one arena for a stream and one for each worker of its loops. Grow-only, so
// that a step that ran once allocates nothing when it runs again. Blocks are 64-byte aligned and not
// initialised.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cpu/thread_pool.h"

namespace softmoe::cpu {

class Arena {
 public:
  static constexpr std::size_t kAlignment = 64;

  // Valid until the frame it was taken in ends. Throws std::bad_alloc.
  template <class T>
  T* take(std::int64_t count) {
    return static_cast<T*>(take_bytes(static_cast<std::size_t>(count) * sizeof(T)));
  }

  // Gives back, when it ends, what was taken since it began.
  class Frame {
   public:
    explicit Frame(Arena& arena) : arena_(arena), block_(arena.block_), used_(arena.used_) {}
    ~Frame();
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Arena& arena_;
    std::size_t block_, used_;
  };

  void free_all() noexcept;

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  struct Block {
    std::unique_ptr<void, Free> data;
    std::size_t bytes = 0;
  };

  static Block make_block(std::size_t bytes);
  void* take_bytes(std::size_t bytes);
  // One block as large as all together.
  void merge() noexcept;

  std::vector<Block> blocks_;
  std::size_t block_ = 0, used_ = 0;
};

class Scratch {
 public:
  // For the thread that runs the kernel.
  Arena& stream() { return stream_; }
  // For the body of a parallel loop.
  Arena& worker(int worker) { return workers_[static_cast<std::size_t>(worker)]; }

  void free_all() noexcept;

 private:
  Arena stream_;
  std::array<Arena, ThreadPool::kMaxThreads> workers_;
};

}  // namespace softmoe::cpu
