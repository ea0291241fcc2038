// cp.async.bulk: copies of whole ranges and, with a tensor map, of tiles of one to five dimensions between
// global and shared memory. Loads land when their mbarrier is polled; stores are done at once. A tile's rows
// lie one after the other in shared memory, with the bits of their addresses swizzled as the map says;
// elements outside the tensor are zeros (or NaNs) on loads and dropped on stores.
#include <cstring>

#include "../driver/tensor_map.h"
#include "access.h"
#include "decoder.h"
#include "definedness.h"
#include "mbarrier.h"

namespace ptxemu {
namespace {

using softmoe::emulator::TensorMap;

uint32_t swizzled(uint32_t address, int mode) {
  const uint32_t bits = mode == 3 ? 0x70 : mode == 2 ? 0x30 : mode == 1 ? 0x10 : 0;
  return address ^ (address >> 3 & bits);
}

struct Tile {
  TensorMap map{};
  std::array<int64_t, 5> start{};
  uint32_t shared = 0;

  uint32_t rowBytes() const { return uint32_t(map.box[0]) * map.elementBytes; }
  uint32_t rows() const {
    uint32_t count = 1;
    for (int i = 1; i < map.rank; i++) count *= map.box[i];
    return count;
  }
  uint32_t bytes() const { return rowBytes() * rows(); }

  // Calls visit(shared address, global address, bytes inside, bytes) for each 16 bytes of the tile, or less
  // at the end of a row. Global bytes begin at the first element of the piece; those before the tensor's
  // start are skipped.
  template <class Visit>
  void forPieces(Visit visit) const {
    for (uint32_t row = 0; row < rows(); row++) {
      uint64_t address = map.address;
      bool inside = true;
      uint32_t rest = row;
      for (int i = 1; i < map.rank; i++) {
        const int64_t at = start[i] + rest % map.box[i];
        rest /= map.box[i];
        inside &= at >= 0 && at <= map.lastIndex[i];
        address += static_cast<uint64_t>(at) * map.strides[i - 1];
      }
      for (uint32_t b = 0; b < rowBytes(); b += 16) {
        const uint32_t size = std::min(16u, rowBytes() - b);
        const int64_t first = start[0] + b / map.elementBytes;
        const int64_t count = size / map.elementBytes;
        const int64_t from = std::max<int64_t>(first, 0),
                      to = std::min<int64_t>(first + count, int64_t(map.lastIndex[0]) + 1);
        const uint32_t place = swizzled(shared + row * rowBytes() + b, map.swizzle);
        const uint32_t skip = static_cast<uint32_t>((from - first) * map.elementBytes);
        const uint32_t valid = inside && to > from ? static_cast<uint32_t>(to - from) * map.elementBytes : 0;
        visit(place, address + static_cast<uint64_t>(from) * map.elementBytes, valid ? skip : 0, valid, size);
      }
    }
  }
};

// One piece of global memory, checked and counted as an access of one lane.
bool checkGlobal(Warp& warp, const Inst& inst, int lane, uint64_t address, uint32_t bytes, Use use) {
  if (!warp.checking || bytes == 0) return true;
  Access access;
  access.space = Space::global;
  access.address[lane] = address;
  // Pieces are whole elements, of which the smallest is aligned by itself.
  uint32_t step = 16;
  while (bytes % step || address % step) step /= 2;
  for (uint32_t at = 0; at < bytes; at += step) {
    access.address[lane] = address + at;
    access.bytes = step;
    if (!checkAccess(warp, inst, 1u << lane, use, access)) return false;
  }
  return true;
}

bool checkShared(Warp& warp, const Inst& inst, int lane, uint32_t address, uint32_t bytes) {
  if (address % 16) {
    warp.fault(Fault::misalignedAddress, "misaligned", inst, lane, address,
               "a bulk copy needs 16-byte aligned shared memory");
    return false;
  }
  if (uint64_t(address) + bytes > warp.block->launch.sharedBytes) {
    warp.fault(Fault::illegalAddress, "shared-bounds", inst, lane, address,
               "a bulk copy runs over the end of shared memory");
    return false;
  }
  return true;
}

// Marks the destination as in flight.
void beginLoad(Warp& warp, const Inst& inst, int lane, uint32_t address, uint32_t bytes) {
  Block& block = *warp.block;
  if (block.checks.races) {
    const int other = block.races.beginCopy(warp.id, address, bytes);
    if (other >= 0)
      warp.report("race", inst, lane, address, "a bulk copy overwrites shared memory still in use");
  }
  if (warp.checking) std::memset(&block.shared[address], 0xff, bytes);
  if (warp.definedness) std::memset(&block.sharedUndefined[address], 1, bytes);
}

// Lands at the barrier: the transferred bytes arrive, and with them the clock of the warp that issued the
// copy.
void endLoad(Warp& warp, uint32_t address, uint32_t bytes, uint32_t barrierAddress, uint32_t clock) {
  Block& block = *warp.block;
  MBarrier* barrier = block.mbarriers().find(barrierAddress);
  if (block.checks.races) {
    block.races.endCopyAt(warp.id, address, bytes, clock);
    if (barrier) block.races.publish(warp.id, clock, barrier->arriving);
  }
  if (!barrier) return;
  barrier->bytes -= bytes;
  MBarrierSet::completeIfDone(*barrier);
}

// The map at the address, if it is one of as many dimensions as the instruction has coordinates.
bool readMap(Warp& warp, const Inst& inst, int lane, uint64_t address, TensorMap& map) {
  const auto refuse = [&](const char* kind, const char* why) {
    warp.fault(Fault::illegalAddress, kind, inst, lane, address, why);
    return false;
  };
  std::memcpy(&map, hostPointer(warp, lane, address), sizeof map);
  if (map.magic != TensorMap::mark) return refuse("bad-operand", "this is no tensor map");
  if (map.rank != inst.flag) return refuse("bad-operand", "the tensor map has another number of dimensions");
  if (map.interleave) return refuse("unsupported", "interleaved tensor maps are not supported");
  for (int i = 0; i < map.rank; i++) {
    if (map.elementStrides[i] != 1) return refuse("unsupported", "element strides above 1 are not supported");
  }
  return true;
}

// op: shared address, map, barrier (loads), coordinates. Inst::flag is the rank; for plain copies 0.
void executeTileLoad(Warp& warp, const Inst& inst, Mask mask) {
  Block& block = *warp.block;
  forLanes(mask, [&](int lane) {
    if (block.launch.stopped) return;
    Tile tile;
    tile.shared = sharedAddress(warp, inst, 0, lane) + static_cast<uint32_t>(inst.immediate);
    const uint32_t barrier = sharedAddress(warp, inst, 2, lane) + static_cast<uint32_t>(inst.target);
    if (!readMap(warp, inst, lane, warp.row<uint64_t>(inst.op[1])[lane], tile.map)) return;
    for (int i = 0; i < inst.flag; i++) tile.start[i] = warp.row<int32_t>(inst.op[3 + i])[lane];
    const uint32_t align = tile.map.swizzle ? 128u << tile.map.swizzle : 128;
    if (tile.shared % align) {
      warp.report("misaligned", inst, lane, tile.shared,
                  "the tile's shared memory is not aligned to " + std::to_string(align) + " bytes");
    }
    if (!checkShared(warp, inst, lane, tile.shared, tile.bytes())) return;
    block.counters.tensorCopies++;
    bool ok = true;
    const uint64_t sectors = block.counters.globalLoadSectors;
    uint64_t bytes = 0;
    tile.forPieces([&](uint32_t, uint64_t global, uint32_t, uint32_t valid, uint32_t) {
      ok = ok && checkGlobal(warp, inst, lane, global, valid, Use::load);
      bytes += valid;
    });
    if (!ok) return;
    // The pieces were counted one by one; a tile moves whole sectors.
    block.counters.globalLoadSectors = sectors + (bytes + 31) / 32;
    beginLoad(warp, inst, lane, tile.shared, tile.bytes());
    const uint32_t clock = block.checks.races ? block.races.now(warp.id) : 0;
    if (block.checks.races) block.races.tick(warp.id);
    Warp* self = &warp;
    const Inst* instruction = &inst;
    block.mbarriers().defer(barrier, [self, instruction, tile, barrier, clock, lane] {
      Block& block = *self->block;
      tile.forPieces([&](uint32_t place, uint64_t global, uint32_t skip, uint32_t valid, uint32_t size) {
        std::memset(&block.shared[place], tile.map.fillWithNan ? 0xff : 0, size);
        if (self->definedness) std::memset(&block.sharedUndefined[place], 0, size);
        if (!valid) return;
        std::memcpy(&block.shared[place + skip], reinterpret_cast<const void*>(global), valid);
        if (!self->definedness) return;
        Access access;
        access.space = Space::global;
        access.address[lane] = global;
        const uint32_t undefined = undefinedBytesAt(*self, *instruction, access, lane, 0, valid);
        for (uint32_t k = 0; k < valid; k++) block.sharedUndefined[place + skip + k] = undefined >> k & 1;
      });
      endLoad(*self, tile.shared, tile.bytes(), barrier, clock);
    });
  });
}

void storePiece(Warp& warp, const Inst& inst, int lane, uint32_t shared, uint64_t global, uint32_t bytes) {
  Block& block = *warp.block;
  if (block.checks.races) {
    const int other = block.races.readShared(warp.id, shared, bytes);
    if (other >= 0)
      warp.report("race", inst, lane, shared,
                  "a bulk copy reads shared memory that is not ordered before it");
  }
  if (!checkGlobal(warp, inst, lane, global, bytes, Use::store)) return;
  std::memcpy(reinterpret_cast<void*>(global), &block.shared[shared], bytes);
  if (!warp.definedness) return;
  for (uint32_t k = 0; k < bytes; k++) {
    if (!block.sharedUndefined[shared + k]) continue;
    warp.report("undefined-value", inst, lane, global,
                "a value that was never written is stored to global memory");
    break;
  }
  if (DeviceAllocation* allocation = block.launch.memory.containing(global, bytes))
    allocation->markDefined(global, bytes);
}

void executeTileStore(Warp& warp, const Inst& inst, Mask mask) {
  forLanes(mask, [&](int lane) {
    Tile tile;
    tile.shared = sharedAddress(warp, inst, 0, lane) + static_cast<uint32_t>(inst.immediate);
    if (!readMap(warp, inst, lane, warp.row<uint64_t>(inst.op[1])[lane], tile.map)) return;
    for (int i = 0; i < inst.flag; i++) tile.start[i] = warp.row<int32_t>(inst.op[2 + i])[lane];
    if (!checkShared(warp, inst, lane, tile.shared, tile.bytes())) return;
    warp.block->counters.tensorCopies++;
    tile.forPieces([&](uint32_t place, uint64_t global, uint32_t skip, uint32_t valid, uint32_t) {
      if (valid && !warp.block->launch.stopped) storePiece(warp, inst, lane, place + skip, global, valid);
    });
  });
}

// op: shared address, global address, [barrier], size.
void executeRangeLoad(Warp& warp, const Inst& inst, Mask mask) {
  Block& block = *warp.block;
  forLanes(mask, [&](int lane) {
    const uint32_t shared = sharedAddress(warp, inst, 0, lane) + static_cast<uint32_t>(inst.immediate);
    const uint64_t global = warp.row<uint64_t>(inst.op[1])[lane];
    const uint32_t barrier = sharedAddress(warp, inst, 2, lane) + static_cast<uint32_t>(inst.target);
    const uint32_t bytes = warp.row<uint32_t>(inst.op[3])[lane];
    if (block.launch.stopped || !checkShared(warp, inst, lane, shared, bytes)) return;
    if (!checkGlobal(warp, inst, lane, global, bytes, Use::load)) return;
    beginLoad(warp, inst, lane, shared, bytes);
    const uint32_t clock = block.checks.races ? block.races.now(warp.id) : 0;
    if (block.checks.races) block.races.tick(warp.id);
    Warp* self = &warp;
    block.mbarriers().defer(barrier, [self, shared, global, bytes, barrier, clock] {
      Block& block = *self->block;
      std::memcpy(&block.shared[shared], reinterpret_cast<const void*>(global), bytes);
      if (self->definedness) {
        const DeviceAllocation* allocation = block.launch.memory.containing(global, bytes);
        for (uint32_t k = 0; k < bytes; k++) {
          block.sharedUndefined[shared + k] = allocation && allocation->undefinedMask(global + k, 1);
        }
      }
      endLoad(*self, shared, bytes, barrier, clock);
    });
  });
}

void executeRangeStore(Warp& warp, const Inst& inst, Mask mask) {
  forLanes(mask, [&](int lane) {
    const uint32_t shared = sharedAddress(warp, inst, 0, lane) + static_cast<uint32_t>(inst.immediate);
    const uint64_t global = warp.row<uint64_t>(inst.op[1])[lane];
    const uint32_t bytes = warp.row<uint32_t>(inst.op[2])[lane];
    if (!checkShared(warp, inst, lane, shared, bytes)) return;
    for (uint32_t at = 0; at < bytes && !warp.block->launch.stopped; at += 16) {
      storePiece(warp, inst, lane, shared + at, global + at, std::min(16u, bytes - at));
    }
  });
}

// Address operands of these instructions: a row and, in Inst, at most two offsets.
int64_t addAddress(Decoder& decoder, const Operand& operand, Space space) {
  decoder.address(operand, space);
  return decoder.inst.immediate;
}

bool decodeBulk(Decoder& decoder) {
  Inst& inst = decoder.inst;
  decoder.take("async"), decoder.take("bulk");
  const bool isTensor = decoder.take("tensor");
  const std::string dimensions = decoder.takeAny({"1d", "2d", "3d", "4d", "5d"});
  const std::string first = decoder.modifiers().empty() ? "" : decoder.modifiers()[0];
  const bool isLoad = first.compare(0, 6, "shared") == 0;
  decoder.take(first);
  if (!isLoad && first != "global") decoder.unsupported();
  const bool counterpart = isLoad ? decoder.take("global") : !decoder.takeAny({"shared::cta"}).empty();
  decoder.take("tile");
  const bool completes = decoder.take("mbarrier::complete_tx::bytes"), grouped = decoder.take("bulk_group");
  decoder.take("L2::cache_hint");
  if (decoder.take("multicast::cluster")) decoder.unsupported("there are no clusters of several blocks");
  decoder.allTaken();
  if (!counterpart || isLoad != completes || isLoad == grouped || isTensor == dimensions.empty())
    decoder.unsupported();
  inst.flag = static_cast<uint8_t>(isTensor ? dimensions[0] - '0' : 0);
  const Operand& sharedOperand = decoder.operand(isLoad ? 0 : 1);
  const Operand& globalOperand = decoder.operand(isLoad ? 1 : 0);
  const int64_t sharedOffset = addAddress(decoder, sharedOperand, Space::shared);
  if (addAddress(decoder, globalOperand, Space::generic) != 0)
    decoder.unsupported("offset of a global address");
  int64_t barrierOffset = 0;
  if (isLoad) barrierOffset = addAddress(decoder, decoder.operand(isTensor ? 2 : 3), Space::shared);
  if (isTensor) {
    if (globalOperand.items.size() != 2 || globalOperand.items[1].items.size() != inst.flag)
      decoder.unsupported();
    for (const Operand& item : globalOperand.items[1].items) decoder.source(item, OperandType::bits32);
    inst.execute = isLoad ? executeTileLoad : executeTileStore;
  } else {
    decoder.source(decoder.operand(2), OperandType::bits32);
    inst.execute = isLoad ? executeRangeLoad : executeRangeStore;
  }
  inst.immediate = sharedOffset;
  inst.target = static_cast<int32_t>(barrierOffset);
  inst.address = 0;
  inst.space = Space::shared;
  inst.elementBytes = 16;
  inst.propagate = propagateByItself;
  inst.category = Category::memory;
  // Rows of shared addresses may have 32 or 64 bits.
  inst.vector = decoder.rowBytes(0) == 8 ? 1 : 0;
  if (isLoad && decoder.rowBytes(2) == 8) inst.vector |= 4;
  return true;
}

}  // namespace

bool decodeTensorCopy(Decoder& decoder) {
  if (decoder.base() == "tensormap") decoder.unsupported();
  if (!decoder.startsWith("cp.async.bulk.")) return false;
  decoder.inst.category = Category::memory;
  decoder.inst.propagate = propagateByItself;
  decoder.inst.execute = [](Warp&, const Inst&, Mask) {};
  // Stores are done when issued, so there is nothing to wait for.
  if (decoder.startsWith("cp.async.bulk.commit_group") || decoder.startsWith("cp.async.bulk.wait_group") ||
      decoder.startsWith("cp.async.bulk.prefetch")) {
    return true;
  }
  decoder.inst.category = Category::other;
  return decodeBulk(decoder);
}

}  // namespace ptxemu
