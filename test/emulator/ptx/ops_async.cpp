// cp.async: copies from global to shared memory that land only at the wait of the thread that issued them.
// Until then the destination holds NaNs and counts as undefined and in flight, so that a missing or too weak
// wait shows.
#include <algorithm>
#include <cstring>

#include "access.h"
#include "async.h"
#include "decoder.h"
#include "definedness.h"

namespace ptxemu {
namespace {

uint32_t powerOfTwoBelow(uint32_t value) {
  uint32_t power = 1;
  while (power * 2 <= value) power *= 2;
  return power;
}

// op: destination address, source address, [source size or ignore predicate]. Inst::immediate is the
// destination's offset, target the source's; elementBytes the size, flag how to read the third operand.
enum ThirdOperand : uint8_t { kNoThird, kSourceSize, kIgnoreSource };

void executeCopy(Warp& warp, const Inst& inst, Mask mask) {
  const uint32_t bytes = inst.elementBytes;
  Access destination, source;
  if (resolve(warp, inst, mask, bytes, Use::store, destination) != mask) return;
  addressesOf(warp, inst, 1, inst.vector, inst.target, source);
  source.space = Space::global;
  AsyncCopy copy;
  copy.lanes = mask;
  copy.bytes = bytes;
  copy.inst = inst.index;
  copy.number = warp.copiesIssued++;
  copy.source = source.address;
  Mask whole = 0;
  forLanes(mask, [&](int lane) {
    uint32_t size = bytes;
    if (inst.flag == kSourceSize) size = std::min(bytes, warp.row<uint32_t>(inst.op[2])[lane]);
    if (inst.flag == kIgnoreSource && (warp.predicate(inst.op[2]) >> lane & 1)) size = 0;
    copy.sourceBytes[lane] = static_cast<uint8_t>(size);
    copy.destination[lane] = static_cast<uint32_t>(destination.address[lane]);
    whole |= Mask(size == bytes) << lane;
  });
  if (warp.checking) {
    if (warp.tainted) {
      reportUndefined(warp, inst, inst.op[1], mask, "is an address");
      if (inst.flag != kNoThird) reportUndefined(warp, inst, inst.op[2], mask, "is the size of a copy");
    }
    source.bytes = bytes;
    if (whole && !checkAccess(warp, inst, whole, Use::load, source)) return;
    bool ok = true;
    forLanes(mask & ~whole, [&](int lane) {
      if (!ok || copy.sourceBytes[lane] == 0) return;
      source.bytes = powerOfTwoBelow(copy.sourceBytes[lane]);
      ok = checkAccess(warp, inst, 1u << lane, Use::load, source);
    });
    if (!ok) return;
    if (warp.block->checks.counters) warp.block->counters.asyncCopies++;
    forLanes(mask, [&](int lane) {
      std::memset(destination.pointer[lane], 0xff, bytes);
      if (warp.block->checks.races) warp.block->races.beginCopy(warp.id, copy.destination[lane], bytes);
      if (warp.definedness) setUndefinedBytesAt(warp, destination, lane, 0, bytes, 0xffff);
    });
  }
  // Lanes may have committed another number of groups when they diverged before.
  while (copy.lanes) {
    AsyncCopy part = copy;
    part.group = warp.committed[firstLane(copy.lanes)];
    part.lanes = 0;
    forLanes(copy.lanes, [&](int lane) { part.lanes |= Mask(warp.committed[lane] == part.group) << lane; });
    copy.lanes &= ~part.lanes;
    warp.copies.push_back(part);
  }
}

void land(Warp& warp, const AsyncCopy& copy, Mask lanes) {
  Block& block = *warp.block;
  const Inst& inst = block.program.code[copy.inst];
  forLanes(lanes, [&](int lane) {
    const uint32_t at = copy.destination[lane], size = copy.sourceBytes[lane];
    std::memcpy(&block.shared[at], reinterpret_cast<const void*>(copy.source[lane]), size);
    std::memset(&block.shared[at + size], 0, copy.bytes - size);
    if (block.checks.races) block.races.endCopy(warp.id, at, copy.bytes);
    if (!warp.definedness) return;
    Access destination, source;
    destination.space = Space::shared;
    destination.address[lane] = at;
    source.space = Space::global;
    source.address[lane] = copy.source[lane];
    const uint32_t undefined = size ? undefinedBytesAt(warp, inst, source, lane, 0, size) : 0;
    setUndefinedBytesAt(warp, destination, lane, 0, copy.bytes, undefined);
  });
}

}  // namespace

namespace {

template <class IsDue>
void landWhere(Warp& warp, Mask mask, IsDue isDue) {
  for (AsyncCopy& copy : warp.copies) {
    Mask due = 0;
    forLanes(copy.lanes & mask, [&](int lane) { due |= Mask(isDue(copy, lane)) << lane; });
    if (due) land(warp, copy, due);
    copy.lanes &= ~due;
  }
  warp.copies.erase(std::remove_if(warp.copies.begin(), warp.copies.end(),
                                   [](const AsyncCopy& copy) { return copy.lanes == 0; }),
                    warp.copies.end());
}

}  // namespace

void landCopies(Warp& warp, Mask mask, int64_t keep) {
  landWhere(warp, mask, [&](const AsyncCopy& copy, int lane) {
    return int64_t(copy.group) < int64_t(warp.committed[lane]) - keep;
  });
}

void landCopiesBefore(Warp& warp, Mask mask, uint64_t number) {
  landWhere(warp, mask, [&](const AsyncCopy& copy, int) { return copy.number < number; });
}

namespace {

bool decodeCopy(Decoder& decoder) {
  Inst& inst = decoder.inst;
  decoder.takeAny({"ca", "cg"});
  decoder.takeAny({"shared::cta", "shared"});
  if (!decoder.take("global")) decoder.unsupported();
  decoder.take("L2::cache_hint");
  decoder.takeAny({"L2::64B", "L2::128B", "L2::256B"});
  decoder.allTaken();
  decoder.address(decoder.operand(0), Space::shared);
  const Inst shared = inst;
  decoder.address(decoder.operand(1), Space::global);
  if (inst.immediate != static_cast<int32_t>(inst.immediate)) decoder.unsupported("offset too large");
  inst.target = static_cast<int32_t>(inst.immediate);
  inst.vector = inst.addressBytes;
  inst.immediate = shared.immediate;
  inst.address = shared.address;
  inst.addressBytes = shared.addressBytes;
  inst.space = Space::shared;
  inst.elementBytes = static_cast<uint8_t>(decoder.constantOf(decoder.operand(2)));
  if (inst.elementBytes != 4 && inst.elementBytes != 8 && inst.elementBytes != 16)
    decoder.unsupported("copy size");
  if (decoder.operandCount() > 3) {
    const Operand& third = decoder.operand(3);
    const bool isPolicy = decoder.registerBytes(third) == 8;
    const bool isPredicate = decoder.registerBytes(third) == 0;
    if (!isPolicy) {
      inst.flag = isPredicate ? kIgnoreSource : kSourceSize;
      decoder.source(third, isPredicate ? OperandType::predicate : OperandType::bits32);
    }
  }
  inst.execute = executeCopy;
  inst.propagate = propagateByItself;
  inst.category = Category::memory;
  return true;
}

}  // namespace

bool decodeAsyncCopy(Decoder& decoder) {
  if (!decoder.startsWith("cp.async.") || decoder.startsWith("cp.async.bulk") ||
      decoder.startsWith("cp.async.mbarrier")) {
    return false;
  }
  decoder.take("async");
  Inst& inst = decoder.inst;
  inst.category = Category::memory;
  inst.propagate = propagateByItself;
  if (decoder.take("commit_group")) {
    inst.execute = [](Warp& warp, const Inst&, Mask mask) {
      forLanes(mask, [&](int lane) { warp.committed[lane]++; });
    };
    return true;
  }
  if (decoder.take("wait_all")) {
    inst.execute = [](Warp& warp, const Inst&, Mask mask) { landCopies(warp, mask, -1); };
    return true;
  }
  if (decoder.take("wait_group")) {
    inst.immediate = decoder.constantOf(decoder.operand(0));
    inst.execute = [](Warp& warp, const Inst& inst, Mask mask) { landCopies(warp, mask, inst.immediate); };
    return true;
  }
  inst.category = Category::other;
  return decodeCopy(decoder);
}

}  // namespace ptxemu
