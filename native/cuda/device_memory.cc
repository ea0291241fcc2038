#include "cuda/device_memory.h"

#include <new>
#include <utility>

namespace softmoe::cuda {

namespace {

void* pop(std::map<std::size_t, std::vector<void*>>& cache, std::size_t bytes) {
  const auto found = cache.find(bytes);
  if (found == cache.end() || found->second.empty()) return nullptr;
  void* data = found->second.back();
  found->second.pop_back();
  return data;
}

}  // namespace

std::size_t block_bytes(std::size_t bytes) {
  constexpr std::size_t kGranularity = 512, kFineLimit = std::size_t{1} << 20;
  std::size_t step = kGranularity;
  if (bytes > kFineLimit) {
    while (step * 16 < bytes) step *= 2;
  }
  return bytes == 0 ? kGranularity : (bytes + step - 1) / step * step;
}

void* DeviceMemory::allocate(std::size_t requested) {
  const std::size_t bytes = block_bytes(requested);
  const std::lock_guard<std::mutex> lock(mutex_);
  void* data = capturing_ ? pop(capture_cache_, bytes) : nullptr;
  if (data) {
    blocks_[data].released = false;
    held_bytes_ -= static_cast<std::int64_t>(bytes);
    return data;
  }
  data = pop(cache_, bytes);
  if (data) {
    cached_bytes_ -= static_cast<std::int64_t>(bytes);
  } else {
    data = allocate_from_driver(bytes);
  }
  blocks_[data] = {bytes, capturing_ ? 1 : 0, false, capturing_};
  if (capturing_) held_.push_back(data);
  return data;
}

void* DeviceMemory::allocate_from_driver(std::size_t bytes) {
  DevicePointer pointer = 0;
  Result result = driver_.memory_allocate(&pointer, bytes);
  if (result == kOutOfMemory && cached_bytes_ > 0 && !capturing_) {
    empty_cache_locked();
    result = driver_.memory_allocate(&pointer, bytes);
  }
  if (result != kSuccess) {
    std::string action = "allocating " + std::to_string(bytes) + " bytes on the GPU";
    std::size_t free = 0, total = 0;
    if (result == kOutOfMemory && driver_.memory_info(&free, &total) == kSuccess) {
      action += " (" + std::to_string(free) + " of " + std::to_string(total) + " are free)";
    }
    throw driver_.error(result, action);
  }
  ++driver_allocations_;
  return reinterpret_cast<void*>(pointer);
}

void DeviceMemory::release(void* data, std::size_t requested) noexcept {
  if (!data) return;
  const std::size_t bytes = block_bytes(requested);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = blocks_.find(data);
  if (found == blocks_.end()) return;
  Block& block = found->second;
  if (block.graphs == 0) {
    blocks_.erase(found);
    cache(data, bytes);
    return;
  }
  block.released = true;
  held_bytes_ += static_cast<std::int64_t>(bytes);
  if (!capturing_ || !block.captured) return;
  try {
    capture_cache_[bytes].push_back(data);
  } catch (const std::bad_alloc&) {
    // Only the use for another tensor of the same recording is lost.
  }
}

void DeviceMemory::cache(void* data, std::size_t bytes) {
  try {
    cache_[bytes].push_back(data);
    cached_bytes_ += static_cast<std::int64_t>(bytes);
  } catch (const std::bad_alloc&) {
    driver_.memory_free(reinterpret_cast<DevicePointer>(data));
  }
}

void DeviceMemory::empty_cache() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  empty_cache_locked();
}

void DeviceMemory::empty_cache_locked() noexcept {
  for (const auto& entry : cache_) {
    for (void* data : entry.second) driver_.memory_free(reinterpret_cast<DevicePointer>(data));
  }
  cache_.clear();
  cached_bytes_ = 0;
}

void DeviceMemory::begin_capture() {
  const std::lock_guard<std::mutex> lock(mutex_);
  capturing_ = true;
  for (auto& [data, block] : blocks_) {
    ++block.graphs;
    held_.push_back(data);
  }
}

GraphBlocks DeviceMemory::end_capture() {
  const std::lock_guard<std::mutex> lock(mutex_);
  capturing_ = false;
  capture_cache_.clear();
  for (void* data : held_) blocks_[data].captured = false;
  return std::exchange(held_, {});
}

void DeviceMemory::release_graph(const GraphBlocks& blocks) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (void* data : blocks) {
    const auto found = blocks_.find(data);
    if (found == blocks_.end() || --found->second.graphs > 0 || !found->second.released) continue;
    const std::size_t bytes = found->second.bytes;
    blocks_.erase(found);
    held_bytes_ -= static_cast<std::int64_t>(bytes);
    cache(data, bytes);
  }
}

std::int64_t DeviceMemory::cached_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return cached_bytes_ + held_bytes_;
}

std::int64_t DeviceMemory::driver_allocations() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return driver_allocations_;
}

}  // namespace softmoe::cuda
