#include "access.h"

#include <algorithm>
#include <cstring>

#include "definedness.h"

namespace ptxemu {
namespace {

Space spaceOfGeneric(uint64_t address) {
  switch (address & kWindowMask) {
    case kSharedWindow:
      return Space::shared;
    case kLocalWindow:
      return Space::local;
    case kParamWindow:
      return Space::param;
    default:
      return Space::global;
  }
}

const char* nameOf(Use use) { return use == Use::load ? "read" : use == Use::store ? "write" : "atomic"; }

std::string hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

bool boundsFault(Warp& warp, const Inst& inst, const Access& access, int lane, Use use, uint64_t limit) {
  const uint64_t address = access.address[lane];
  static const std::map<Space, const char*> kinds = {{Space::global, "global-bounds"},
                                                     {Space::constant, "global-bounds"},
                                                     {Space::shared, "shared-bounds"},
                                                     {Space::local, "local-bounds"},
                                                     {Space::param, "param-bounds"}};
  std::string what =
      std::string(nameOf(use)) + " of " + std::to_string(access.bytes) + " bytes at " + hex(address);
  if (access.space == Space::global) {
    const Memory::State& memory = warp.block->launch.memory;
    if (const DeviceAllocation* inside = memory.find(address)) {
      what += ": runs over the end of an allocation of " + std::to_string(inside->bytes()) + " bytes";
    } else if (const Memory::Allocation* freed = memory.findFreed(address)) {
      what += ": in an allocation of " + std::to_string(freed->bytes) + " bytes that was freed";
    } else {
      const DeviceAllocation* before = nullptr;
      for (const auto& [begin, allocation] : memory.all()) {
        if (begin <= address) before = allocation.get();
      }
      if (before && address - before->end() < 4096) {
        what += ": " + std::to_string(address - before->end()) + " bytes behind an allocation of " +
                std::to_string(before->bytes()) + " bytes";
      } else {
        what += ": in no allocation";
      }
    }
  } else {
    what += ": there are " + std::to_string(limit) + " bytes";
  }
  warp.fault(Fault::illegalAddress, kinds.at(access.space), inst, lane, address, what);
  return false;
}

// The limit of a space with one range per block or lane.
uint64_t limitOf(const Warp& warp, Space space) {
  switch (space) {
    case Space::shared:
      return warp.block->launch.sharedBytes;
    case Space::local:
      return warp.program->localBytes;
    case Space::param:
      return warp.program->paramBytes;
    default:
      return 0;
  }
}

bool checkBounds(Warp& warp, const Inst& inst, Mask mask, Use use, const Access& access) {
  if (access.space != Space::global) {
    const uint64_t limit = limitOf(warp, access.space);
    for (Mask rest = mask; rest; rest &= rest - 1) {
      const int lane = firstLane(rest);
      const uint64_t address = access.address[lane];
      if (address + access.bytes > limit || address > limit)
        return boundsFault(warp, inst, access, lane, use, limit);
    }
    return true;
  }
  DeviceAllocation*& last = warp.block->lastAllocation[inst.index];
  if (last) {
    uint64_t low = ~0ull, high = 0;
    for (int lane = 0; lane < kLanes; lane++) {
      const uint64_t address = (mask >> lane & 1) ? access.address[lane] : last->begin();
      low = std::min(low, address);
      high = std::max(high, address);
    }
    if (low >= last->begin() && high + access.bytes <= last->end()) return true;
  }
  for (Mask rest = mask; rest; rest &= rest - 1) {
    const int lane = firstLane(rest);
    if (last && last->contains(access.address[lane], access.bytes)) continue;
    DeviceAllocation* found = warp.block->launch.memory.containing(access.address[lane], access.bytes);
    if (!found) return boundsFault(warp, inst, access, lane, use, 0);
    last = found;
  }
  return true;
}

bool checkAlignment(Warp& warp, const Inst& inst, Mask mask, const Access& access) {
  uint64_t low = 0;
  for (int lane = 0; lane < kLanes; lane++) low |= (mask >> lane & 1) ? access.address[lane] : 0;
  if ((low & (access.bytes - 1)) == 0) return true;
  forLanes(mask, [&](int lane) {
    if (warp.block->launch.stopped || access.address[lane] % access.bytes == 0) return;
    warp.fault(Fault::misalignedAddress, "misaligned", inst, lane, access.address[lane],
               "access of " + std::to_string(access.bytes) + " bytes at " + hex(access.address[lane]));
  });
  return false;
}

DeviceAllocation* allocationOf(Warp& warp, const Inst& inst, uint64_t address, uint32_t bytes) {
  DeviceAllocation*& last = warp.block->lastAllocation[inst.index];
  if (!last || !last->contains(address, bytes)) last = warp.block->launch.memory.containing(address, bytes);
  return last;
}

void checkSharedRaces(Warp& warp, const Inst& inst, Mask mask, Use use, const Access& access) {
  BlockRaces& races = warp.block->races;
  forLanes(mask, [&](int lane) {
    const uint32_t address = static_cast<uint32_t>(access.address[lane]);
    if (address + access.bytes > warp.block->launch.sharedBytes) return;
    if (use == Use::atomic || inst.strong) return;
    const int other = use == Use::load ? races.readShared(warp.id, address, access.bytes)
                                       : races.writeShared(warp.id, address, access.bytes);
    if (other < 0) return;
    std::string what = std::string(nameOf(use)) + " of shared memory at " + hex(address);
    what += other == warp.id ? ", where a copy of this warp is still on its way"
                             : ", unordered with an access of warp " + std::to_string(other);
    warp.report("race", inst, lane, address, what);
  });
}

void checkGlobalRaces(Warp& warp, const Inst& inst, Mask mask, Use use, const Access& access) {
  if (use == Use::atomic || inst.strong) return;
  LaunchState& launch = warp.block->launch;
  forLanes(mask, [&](int lane) {
    DeviceAllocation* allocation = allocationOf(warp, inst, access.address[lane], access.bytes);
    if (!allocation || !allocation->raceCells()) return;
    BlockRaces& races = warp.block->races;
    const uint64_t address = access.address[lane];
    const BlockRaces::Conflict conflict =
        use == Use::load ? races.readGlobal(launch.segments, *allocation, warp.id, address, access.bytes)
                         : races.writeGlobal(launch.segments, *allocation, warp.id, address, access.bytes);
    if (!conflict.kind) return;
    std::string what = "at " + hex(address) + " " + conflict.kind;
    what += conflict.several ? " by several blocks"
                             : " by block " + std::to_string(conflict.block) + " (linear) warp " +
                                   std::to_string(conflict.warp);
    warp.report("race", inst, lane, address, what + ", with nothing to order the two");
  });
}

void countAccess(Warp& warp, const Inst& inst, Mask mask, Use use, const Access& access) {
  Counters& counters = warp.block->counters;
  if (access.space == Space::global) {
    const uint32_t sectors = countSectors(access.address.data(), mask, access.bytes);
    InstCounters& counter = warp.block->instCounters[inst.index];
    counter.requests++;
    counter.sectors += sectors;
    const uint64_t lanes = static_cast<uint64_t>(__builtin_popcount(mask));
    if (use == Use::load) {
      counters.globalLoadRequests++;
      counters.globalLoadSectors += sectors;
      counters.globalLoadBytes += lanes * access.bytes;
    } else if (use == Use::store) {
      counters.globalStoreRequests++;
      counters.globalStoreSectors += sectors;
      counters.globalStoreBytes += lanes * access.bytes;
    } else {
      counters.globalAtomics += lanes;
    }
  } else if (access.space == Space::shared) {
    if (use == Use::atomic)
      counters.sharedAtomics += static_cast<uint64_t>(__builtin_popcount(mask));
    else
      countShared(warp, inst, access.address.data(), mask, access.bytes, true);
  } else if (access.space == Space::local) {
    counters.localRequests++;
  }
}

}  // namespace

// -- resolving
// ------------------------------------------------------------------------------------------------------

void addressesOf(Warp& warp, const Inst& inst, uint32_t op, uint8_t rowBytes, int64_t offset,
                 Access& access) {
  if (rowBytes == 4) {
    const uint32_t* row = warp.row<uint32_t>(inst.op[op]);
    const uint32_t add = static_cast<uint32_t>(offset);
    for (int lane = 0; lane < kLanes; lane++) access.address[lane] = row[lane] + add;
  } else {
    const uint64_t* row = warp.row<uint64_t>(inst.op[op]);
    const uint64_t add = static_cast<uint64_t>(offset);
    for (int lane = 0; lane < kLanes; lane++) access.address[lane] = row[lane] + add;
  }
}

bool checkAccess(Warp& warp, const Inst& inst, Mask mask, Use use, Access& access) {
  const CheckOptions& checks = warp.block->checks;
  if (warp.tainted) reportUndefined(warp, inst, inst.op[inst.address], mask, "is an address");
  if (checks.alignment && !checkAlignment(warp, inst, mask, access)) return false;
  if (checks.bounds && !checkBounds(warp, inst, mask, use, access)) return false;
  if (checks.races) {
    if (access.space == Space::shared) checkSharedRaces(warp, inst, mask, use, access);
    if (access.space == Space::global) checkGlobalRaces(warp, inst, mask, use, access);
  }
  if (checks.counters) countAccess(warp, inst, mask, use, access);
  return true;
}

Mask resolve(Warp& warp, const Inst& inst, Mask mask, uint32_t bytes, Use use, Access& access) {
  addressesOf(warp, inst, inst.address, inst.addressBytes, inst.immediate, access);
  access.bytes = bytes;
  access.space = inst.space == Space::constant ? Space::global : inst.space;
  if (inst.space == Space::generic) {
    access.space = spaceOfGeneric(access.address[firstLane(mask)]);
    Mask same = 0;
    forLanes(mask,
             [&](int lane) { same |= Mask(spaceOfGeneric(access.address[lane]) == access.space) << lane; });
    mask = same;
  }
  if (access.space == Space::global) {
    for (int lane = 0; lane < kLanes; lane++)
      access.pointer[lane] = reinterpret_cast<uint8_t*>(access.address[lane]);
  } else {
    // Addresses of a window, generic or not, count from its start.
    uint8_t* base = warp.block->shared.data();
    uint64_t stride = 0;
    if (access.space == Space::local) {
      base = warp.local;
      stride = warp.program->localBytes;
    } else if (access.space == Space::param) {
      base = const_cast<uint8_t*>(warp.block->params);
    }
    for (int lane = 0; lane < kLanes; lane++) {
      access.address[lane] &= ~kWindowMask;
      access.pointer[lane] = base + stride * lane + access.address[lane];
    }
  }
  if (warp.checking && !checkAccess(warp, inst, mask, use, access)) return 0;
  return mask;
}

uint8_t* hostPointer(Warp& warp, int lane, uint64_t address) {
  const uint64_t offset = address & ~kWindowMask;
  switch (address & kWindowMask) {
    case kSharedWindow:
      return warp.block->shared.data() + offset;
    case kLocalWindow:
      return warp.local + size_t(warp.program->localBytes) * lane + offset;
    case kParamWindow:
      return const_cast<uint8_t*>(warp.block->params) + offset;
    default:
      return reinterpret_cast<uint8_t*>(address);
  }
}

uint32_t sharedAddress(Warp& warp, const Inst& inst, int op, int lane) {
  if (inst.vector >> op & 1)
    return static_cast<uint32_t>(warp.row<uint64_t>(inst.op[op])[lane] & ~kWindowMask);
  return warp.row<uint32_t>(inst.op[op])[lane];
}

// -- definedness of memory
// ------------------------------------------------------------------------------------------

uint32_t undefinedBytesAt(Warp& warp, const Inst& inst, const Access& access, int lane, uint32_t at,
                          uint32_t bytes) {
  const uint64_t address = access.address[lane] + at;
  const uint8_t* shadow = nullptr;
  switch (access.space) {
    case Space::global: {
      const DeviceAllocation* allocation = allocationOf(warp, inst, address, bytes);
      return allocation ? allocation->undefinedMask(address, bytes) : 0;
    }
    case Space::shared:
      shadow = warp.block->sharedUndefined.data() + address;
      break;
    case Space::local:
      shadow = warp.localShadow + size_t(warp.program->localBytes) * lane + address;
      break;
    default:
      return 0;
  }
  uint32_t mask = 0;
  for (uint32_t k = 0; k < bytes; k++) mask |= uint32_t(shadow[k]) << k;
  return mask;
}

void setUndefinedBytesAt(Warp& warp, const Access& access, int lane, uint32_t at, uint32_t bytes,
                         uint32_t mask) {
  const uint64_t address = access.address[lane] + at;
  uint8_t* shadow = nullptr;
  if (access.space == Space::shared)
    shadow = warp.block->sharedUndefined.data() + address;
  else if (access.space == Space::local)
    shadow = warp.localShadow + size_t(warp.program->localBytes) * lane + address;
  else
    return;
  if (mask == 0) {
    std::memset(shadow, 0, bytes);
    return;
  }
  for (uint32_t k = 0; k < bytes; k++) shadow[k] = mask >> k & 1;
}

// -- counting
// -------------------------------------------------------------------------------------------------------

uint32_t countSectors(const uint64_t* addresses, Mask mask, uint32_t bytes) {
  // Mostly ascending addresses: one pass. Otherwise sort.
  uint32_t count = 0;
  uint64_t last = 0;
  bool ascending = true;
  for (Mask rest = mask; rest; rest &= rest - 1) {
    const int lane = firstLane(rest);
    uint64_t first = addresses[lane] >> 5;
    const uint64_t end = (addresses[lane] + bytes - 1) >> 5;
    if (count) {
      if (first < last) {
        ascending = false;
        break;
      }
      first += first == last;
    }
    if (end >= first) count += static_cast<uint32_t>(end - first + 1);
    last = std::max(last, end);
  }
  if (ascending) return count;
  std::array<uint64_t, 2 * kLanes> sectors;
  size_t found = 0;
  for (Mask rest = mask; rest; rest &= rest - 1) {
    const int lane = firstLane(rest);
    sectors[found++] = addresses[lane] >> 5;
    sectors[found++] = (addresses[lane] + bytes - 1) >> 5;
  }
  std::sort(sectors.begin(), sectors.begin() + found);
  return static_cast<uint32_t>(std::unique(sectors.begin(), sectors.begin() + found) - sectors.begin());
}

// A request of 4 bytes per lane goes in one pass over the 32 banks, of 8 bytes in two half warps, of 16 in
// four quarters. Each pass repeats for every further word of the busiest bank; lanes in one word share it.
Wavefronts countWavefronts(const uint64_t* addresses, Mask mask, uint32_t bytes) {
  const int lanesPerPass = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  const int shift = bytes <= 4 ? 2 : bytes == 8 ? 3 : 4;
  Wavefronts wavefronts;
  for (int begin = 0; begin < kLanes; begin += lanesPerPass) {
    std::array<uint64_t, kLanes> words;
    std::array<uint8_t, kLanes> perBank{};
    int distinct = 0;
    uint32_t busiest = 0, seenBanks = 0;
    uint64_t last = ~0ull;
    for (int lane = begin; lane < begin + lanesPerPass; lane++) {
      if (!(mask >> lane & 1)) continue;
      const uint64_t word = addresses[lane] >> shift;
      if (word == last) continue;
      last = word;
      const uint32_t bank = static_cast<uint32_t>(word) & (lanesPerPass - 1);
      if ((seenBanks >> bank & 1) &&
          std::find(words.begin(), words.begin() + distinct, word) != words.begin() + distinct)
        continue;
      seenBanks |= 1u << bank;
      words[distinct++] = word;
      busiest = std::max<uint32_t>(busiest, ++perBank[bank]);
    }
    wavefronts.actual += busiest;
    wavefronts.ideal += static_cast<uint32_t>(distinct + lanesPerPass - 1) / lanesPerPass;
  }
  return wavefronts;
}

void countShared(Warp& warp, const Inst& inst, const uint64_t* addresses, Mask mask, uint32_t bytes,
                 bool newRequest) {
  const Wavefronts wavefronts = countWavefronts(addresses, mask, bytes);
  Counters& counters = warp.block->counters;
  InstCounters& counter = warp.block->instCounters[inst.index];
  counters.sharedRequests += newRequest;
  counter.requests += newRequest;
  counters.sharedWavefronts += wavefronts.actual;
  counters.sharedIdealWavefronts += wavefronts.ideal;
  counter.wavefronts += wavefronts.actual;
  counter.idealWavefronts += wavefronts.ideal;
}

}  // namespace ptxemu
