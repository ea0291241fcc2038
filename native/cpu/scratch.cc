#include "cpu/scratch.h"

#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace softmoe::cpu {
namespace {

constexpr std::size_t kPage = 4096, kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t bytes, std::size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

}  // namespace

Arena::Frame::~Frame() {
  arena_.block_ = block_;
  arena_.used_ = used_;
  if (block_ == 0 && used_ == 0 && arena_.blocks_.size() > 1) arena_.merge();
}

Arena::Block Arena::make_block(std::size_t bytes) {
  // Large blocks lie on huge pages, like large tensors.
  const bool huge = bytes >= kHugePage;
  bytes = round_up(bytes, huge ? kHugePage : kPage);
  Block block{std::unique_ptr<void, Free>(std::aligned_alloc(huge ? kHugePage : kAlignment, bytes)), bytes};
  if (!block.data) throw std::bad_alloc();
#if defined(__linux__)
  if (huge) madvise(block.data.get(), bytes, MADV_HUGEPAGE);
#endif
  return block;
}

void* Arena::take_bytes(std::size_t bytes) {
  bytes = round_up(bytes, kAlignment);
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].bytes) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    blocks_.push_back(make_block(bytes));
    used_ = 0;
  }
  void* data = static_cast<char*>(blocks_[block_].data.get()) + used_;
  used_ += bytes;
  return data;
}

void Arena::merge() noexcept {
  std::size_t bytes = 0;
  for (const Block& block : blocks_) bytes += block.bytes;
  blocks_.clear();
  try {
    blocks_.push_back(make_block(bytes));
  } catch (const std::bad_alloc&) {
    // Nothing is kept then: the next take asks again.
  }
}

void Arena::free_all() noexcept {
  blocks_.clear();
  block_ = used_ = 0;
}

void Scratch::free_all() noexcept {
  stream_.free_all();
  for (Arena& arena : workers_) arena.free_all();
}

}  // namespace softmoe::cpu
