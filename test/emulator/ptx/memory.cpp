#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "memory_state.h"
#include "races.h"

namespace ptxemu {

// -- LazyRegion
// -----------------------------------------------------------------------------------------------------

LazyRegion::LazyRegion(size_t bytes) : bytes_(std::max<size_t>(bytes, 1)) {
  void* mapped =
      mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  data_ = mapped == MAP_FAILED ? nullptr : static_cast<uint8_t*>(mapped);
}
LazyRegion::~LazyRegion() {
  if (data_) munmap(data_, bytes_);
}
LazyRegion::LazyRegion(LazyRegion&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
LazyRegion& LazyRegion::operator=(LazyRegion&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

// -- DeviceAllocation
// -----------------------------------------------------------------------------------------------

DeviceAllocation::DeviceAllocation(uint64_t address, size_t bytes, LazyRegion storage, bool initialised,
                                   bool listed)
    : begin_(address), bytes_(bytes), listed_(listed), storage_(std::move(storage)) {
  pages_ = std::make_unique<std::atomic<uint8_t>[]>(pageCount() + 1);
  for (size_t i = 0; i < pageCount(); i++) pages_[i] = initialised ? kDefined : kUndefined;
}

void DeviceAllocation::makeMixed(size_t page) {
  if (!shadow_) shadow_ = LazyRegion(pageCount() * kPage);
  const uint8_t state = pages_[page].load(std::memory_order_relaxed);
  if (state == kMixed) return;
  std::memset(shadow_.data() + page * kPage, state == kUndefined ? 1 : 0, kPage);
  pages_[page].store(kMixed, std::memory_order_release);
}

uint32_t DeviceAllocation::undefinedMaskSlow(uint64_t address, uint32_t bytes) const {
  uint32_t mask = 0;
  for (uint32_t k = 0; k < bytes; k++) {
    const size_t at = address - begin_ + k;
    const uint8_t state = pages_[at / kPage].load(std::memory_order_acquire);
    const bool isUndefined = state == kUndefined || (state == kMixed && shadow_.data()[at] != 0);
    mask |= uint32_t(isUndefined) << k;
  }
  return mask;
}

void DeviceAllocation::markDefinedSlow(uint64_t address, uint32_t bytes) {
  const size_t first = address - begin_, last = first + bytes - 1;
  for (size_t page : {first / kPage, last / kPage}) {
    if (pages_[page].load(std::memory_order_acquire) != kUndefined) continue;
    std::lock_guard<std::mutex> lock(mutex_);
    makeMixed(page);
  }
  for (size_t at = first; at <= last; at++) {
    if (pages_[at / kPage].load(std::memory_order_relaxed) == kMixed) shadow_.data()[at] = 0;
  }
}

void DeviceAllocation::setRange(uint64_t address, size_t bytes, bool defined) {
  const size_t first = address - begin_, end = first + bytes;
  for (size_t at = first; at < end;) {
    const size_t page = at / kPage, pageEnd = std::min((page + 1) * kPage, bytes_);
    const size_t stop = std::min(end, pageEnd);
    if (at == page * kPage && stop == pageEnd) {
      pages_[page] = defined ? kDefined : kUndefined;
    } else if (pages_[page] != (defined ? kDefined : kUndefined)) {
      makeMixed(page);
      std::memset(shadow_.data() + at, defined ? 0 : 1, stop - at);
    }
    at = stop;
  }
}

size_t DeviceAllocation::countUndefined(uint64_t address, size_t bytes) const {
  size_t count = 0;
  const size_t first = address - begin_, end = first + bytes;
  for (size_t at = first; at < end;) {
    const size_t page = at / kPage, stop = std::min(end, (page + 1) * kPage);
    const uint8_t state = pages_[page];
    if (state == kUndefined) count += stop - at;
    if (state == kMixed)
      count += std::count_if(shadow_.data() + at, shadow_.data() + stop, [](uint8_t b) { return b; });
    at = stop;
  }
  return count;
}

void DeviceAllocation::prepareRaceCells() {
  if (!races_) races_ = LazyRegion((bytes_ + 3) / 4 * sizeof(uint64_t) + 64);
}

// -- State
// ----------------------------------------------------------------------------------------------------------

namespace {
constexpr size_t kAlign = 512;
constexpr size_t kGuard = 4096;  // before and behind every allocation
}  // namespace

uint64_t Memory::State::allocate(size_t bytes, bool initialised, bool listed) {
  if (bytes == 0) return 0;
  LazyRegion storage(bytes + 2 * kGuard);
  if (!storage) return 0;
  uint8_t* begin = storage.data() + kGuard;
  static_assert(kGuard % kAlign == 0, "mmap aligns to pages");
  if (!initialised) std::memset(begin, 0xff, bytes);
  const uint64_t address = reinterpret_cast<uint64_t>(begin);
  allocations_[address] =
      std::make_unique<DeviceAllocation>(address, bytes, std::move(storage), initialised, listed);
  // The host may hand out the same addresses again.
  for (auto at = freed_.begin(); at != freed_.end();) {
    const bool overlaps =
        at->second.address < address + bytes && address < at->second.address + at->second.bytes;
    at = overlaps ? freed_.erase(at) : std::next(at);
  }
  if (listed) bytesInUse_ += bytes;
  return address;
}

void Memory::State::adopt(void* host, size_t bytes) {
  const uint64_t address = reinterpret_cast<uint64_t>(host);
  allocations_[address] = std::make_unique<DeviceAllocation>(address, bytes, LazyRegion(), true, false);
}

Memory::FreeStatus Memory::State::free(uint64_t address) {
  const auto found = allocations_.find(address);
  if (found == allocations_.end()) {
    return freed_.count(address) ? FreeStatus::alreadyFreed : FreeStatus::notAnAllocation;
  }
  const DeviceAllocation& allocation = *found->second;
  if (allocation.listed()) bytesInUse_ -= allocation.bytes();
  freed_[address] = {address, allocation.bytes()};
  allocations_.erase(found);
  return FreeStatus::ok;
}

DeviceAllocation* Memory::State::find(uint64_t address) const {
  auto after = allocations_.upper_bound(address);
  if (after == allocations_.begin()) return nullptr;
  DeviceAllocation* allocation = std::prev(after)->second.get();
  return address < allocation->end() ? allocation : nullptr;
}

DeviceAllocation* Memory::State::containing(uint64_t address, size_t bytes) const {
  DeviceAllocation* allocation = find(address);
  return allocation && allocation->contains(address, bytes) ? allocation : nullptr;
}

const Memory::Allocation* Memory::State::findFreed(uint64_t address) const {
  auto after = freed_.upper_bound(address);
  if (after == freed_.begin()) return nullptr;
  const Memory::Allocation& allocation = std::prev(after)->second;
  return address < allocation.address + allocation.bytes ? &allocation : nullptr;
}

void Memory::State::renewRaceCells() {
  // Segment numbers ran out: start again with empty cells.
  if (nextSegment.load() > SegmentTable::kLimit / 2) {
    for (auto& [address, allocation] : allocations_) allocation->dropRaceCells();
    nextSegment = 1;
  }
  for (auto& [address, allocation] : allocations_) allocation->prepareRaceCells();
}

// -- Memory
// ---------------------------------------------------------------------------------------------------------

Memory::Memory() : state_(std::make_unique<State>()) {}
Memory::~Memory() = default;

uint64_t Memory::allocate(size_t bytes, bool initialised) {
  return state_->allocate(bytes, initialised, true);
}
void Memory::adopt(void* host, size_t bytes) { state_->adopt(host, bytes); }
Memory::FreeStatus Memory::free(uint64_t address) { return state_->free(address); }

bool Memory::write(uint64_t destination, const void* source, size_t bytes) {
  if (bytes == 0) return true;
  DeviceAllocation* allocation = state_->containing(destination, bytes);
  if (!allocation) return false;
  std::memcpy(reinterpret_cast<void*>(destination), source, bytes);
  allocation->setRange(destination, bytes, true);
  return true;
}

bool Memory::read(void* destination, uint64_t source, size_t bytes) const {
  if (bytes == 0) return true;
  if (!state_->containing(source, bytes)) return false;
  std::memcpy(destination, reinterpret_cast<const void*>(source), bytes);
  return true;
}

bool Memory::fill(uint64_t destination, uint32_t pattern, size_t patternBytes, size_t count) {
  if (count == 0) return true;
  if (patternBytes != 1 && patternBytes != 2 && patternBytes != 4) return false;
  DeviceAllocation* allocation = state_->containing(destination, patternBytes * count);
  if (!allocation) return false;
  uint8_t* bytes = reinterpret_cast<uint8_t*>(destination);
  if (patternBytes == 1)
    std::memset(bytes, static_cast<int>(pattern), count);
  else
    for (size_t i = 0; i < count; i++) std::memcpy(bytes + i * patternBytes, &pattern, patternBytes);
  allocation->setRange(destination, patternBytes * count, true);
  return true;
}

bool Memory::copy(uint64_t destination, uint64_t source, size_t bytes) {
  if (bytes == 0) return true;
  DeviceAllocation* to = state_->containing(destination, bytes);
  DeviceAllocation* from = state_->containing(source, bytes);
  if (!to || !from) return false;
  std::memmove(reinterpret_cast<void*>(destination), reinterpret_cast<const void*>(source), bytes);
  if (from->countUndefined(source, bytes) == 0) {
    to->setRange(destination, bytes, true);
    return true;
  }
  for (size_t at = 0; at < bytes; at += 16) {
    const uint32_t piece = static_cast<uint32_t>(std::min<size_t>(16, bytes - at));
    const uint32_t undefined = from->undefinedMask(source + at, piece);
    for (uint32_t k = 0; k < piece; k++) to->setRange(destination + at + k, 1, !(undefined >> k & 1));
  }
  return true;
}

bool Memory::contains(uint64_t address, size_t bytes) const {
  return state_->containing(address, bytes) != nullptr;
}

size_t Memory::undefinedBytes(uint64_t address, size_t bytes) const {
  const DeviceAllocation* allocation = bytes ? state_->containing(address, bytes) : nullptr;
  return allocation ? allocation->countUndefined(address, bytes) : 0;
}

std::optional<Memory::Allocation> Memory::find(uint64_t address) const {
  const DeviceAllocation* allocation = state_->find(address);
  if (!allocation) return std::nullopt;
  return Allocation{allocation->begin(), allocation->bytes()};
}

std::optional<Memory::Allocation> Memory::findFreed(uint64_t address) const {
  const Allocation* freed = state_->findFreed(address);
  return freed ? std::optional<Allocation>(*freed) : std::nullopt;
}

std::vector<Memory::Allocation> Memory::allocations() const {
  std::vector<Allocation> live;
  for (const auto& [address, allocation] : state_->all()) {
    if (allocation->listed()) live.push_back({address, allocation->bytes()});
  }
  return live;
}

size_t Memory::bytesInUse() const { return state_->bytesInUse(); }

}  // namespace ptxemu
