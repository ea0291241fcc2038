// Loads, stores and what goes with them: ld, ldu, st, prefetch, cache hints.
#include <cstring>

#include "access.h"
#include "decoder.h"
#include "definedness.h"

namespace ptxemu {
namespace {

// What one byte mask of memory means for a register that holds `width` bytes of it, possibly extended.
uint8_t shadowOfLoaded(uint32_t undefined, uint32_t width, bool isSigned) {
  const bool signUndefined = isSigned && (undefined >> (width - 1) & 1);
  return static_cast<uint8_t>(undefined | (signUndefined ? 0xffu << width : 0));
}

void loadShadows(Warp& warp, const Inst& inst, const Access& access, Mask mask, bool isSigned) {
  std::array<std::array<uint8_t, kLanes>, 16> shadows;
  uint32_t any = 0;
  forLanes(mask, [&](int lane) {
    const uint32_t undefined = undefinedBytesAt(warp, inst, access, lane, 0, access.bytes);
    any |= undefined;
    for (int v = 0; v < inst.vector; v++) {
      const uint32_t piece = undefined >> v * inst.elementBytes & ((1u << inst.elementBytes) - 1);
      shadows[v][lane] = shadowOfLoaded(piece, inst.elementBytes, isSigned);
    }
  });
  if (!any && !warp.tainted) return;
  warp.tainted = true;
  for (int v = 0; v < inst.vector; v++) {
    uint8_t* row = warp.shadow(inst.op[v]);
    forLanes(mask, [&](int lane) { row[lane] = shadows[v][lane]; });
  }
}

void storeShadows(Warp& warp, const Inst& inst, const Access& access, Mask mask) {
  const uint32_t* data = inst.op + inst.destinations + 1;
  if (access.space == Space::global) {
    for (int v = 0; v < inst.vector && warp.tainted; v++) {
      // Only the bytes that are stored count: a wider register may hold more.
      Mask undefined = 0;
      const uint8_t* shadow = warp.shadow(data[v]);
      const uint8_t stored = static_cast<uint8_t>((1u << inst.elementBytes) - 1);
      forLanes(mask, [&](int lane) { undefined |= Mask((shadow[lane] & stored) != 0) << lane; });
      if (undefined) {
        warp.report("undefined-value", inst, firstLane(undefined), access.address[firstLane(undefined)],
                    "a value that was never written is stored to global memory");
      }
    }
    DeviceAllocation*& last = warp.block->lastAllocation[inst.index];
    forLanes(mask, [&](int lane) {
      if (!last || !last->contains(access.address[lane], access.bytes)) {
        last = warp.block->launch.memory.containing(access.address[lane], access.bytes);
      }
      if (last) last->markDefined(access.address[lane], access.bytes);
    });
    return;
  }
  forLanes(mask, [&](int lane) {
    uint32_t undefined = 0;
    for (int v = 0; v < inst.vector && warp.tainted; v++) {
      const uint32_t piece = warp.shadow(data[v])[lane] & ((1u << inst.elementBytes) - 1);
      undefined |= piece << v * inst.elementBytes;
    }
    setUndefinedBytesAt(warp, access, lane, 0, access.bytes, undefined);
  });
}

void synchronise(Warp& warp, const Inst& inst, const Access& access, Mask mask, bool acquires) {
  if (!inst.strong || !warp.block->checks.races || access.space != Space::global) return;
  Block& block = *warp.block;
  forLanes(mask, [&](int lane) {
    if (acquires)
      block.races.acquireFrom(block.launch.globalSync, warp.id, access.address[lane]);
    else
      block.races.releaseTo(block.launch.globalSync, warp.id, access.address[lane], inst.order & 2);
  });
}

// T is the type in memory, D that of the register's row.
template <class T, class D>
void executeLoad(Warp& warp, const Inst& inst, Mask mask) {
  forParts(warp, inst, mask, sizeof(T) * inst.vector, Use::load, [&](const Access& access, Mask part) {
    if (warp.definedness) loadShadows(warp, inst, access, part, std::is_signed_v<T>);
    for (int v = 0; v < inst.vector; v++) {
      D* d = warp.row<D>(inst.op[v]);
      auto loadLane = [&](int lane) {
        T value;
        std::memcpy(&value, access.pointer[lane] + v * sizeof(T), sizeof(T));
        d[lane] = static_cast<D>(value);
      };
      if (part == kAllLanes) {
        for (int lane = 0; lane < kLanes; lane++) loadLane(lane);
      } else {
        forLanes(part, loadLane);
      }
    }
    // After the value is read: a release that comes in between would be missed, its value seen.
    synchronise(warp, inst, access, part, true);
  });
}

template <class T, class S>
void executeStore(Warp& warp, const Inst& inst, Mask mask) {
  forParts(warp, inst, mask, sizeof(T) * inst.vector, Use::store, [&](const Access& access, Mask part) {
    if (access.space == Space::param) {
      warp.fault(Fault::illegalAddress, "param-bounds", inst, firstLane(part), 0,
                 "kernel parameters can't be written");
      return;
    }
    if (warp.definedness) storeShadows(warp, inst, access, part);
    synchronise(warp, inst, access, part, false);
    for (int v = 0; v < inst.vector; v++) {
      const S* s = warp.row<S>(inst.op[inst.destinations + 1 + v]);
      auto storeLane = [&](int lane) {
        const T value = static_cast<T>(s[lane]);
        std::memcpy(access.pointer[lane] + v * sizeof(T), &value, sizeof(T));
      };
      if (part == kAllLanes) {
        for (int lane = 0; lane < kLanes; lane++) storeLane(lane);
      } else {
        forLanes(part, storeLane);
      }
    }
  });
}

template <class T>
Execute loadInto(uint8_t registerBytes) {
  switch (registerBytes) {
    case 2:
      return sizeof(T) <= 2 ? executeLoad<T, std::conditional_t<sizeof(T) <= 2, uint16_t, T>> : nullptr;
    case 4:
      return sizeof(T) <= 4 ? executeLoad<T, std::conditional_t<sizeof(T) <= 4, uint32_t, T>> : nullptr;
    case 8:
      return executeLoad<T, uint64_t>;
    default:
      return nullptr;
  }
}

template <class T>
Execute storeFrom(uint8_t registerBytes) {
  switch (registerBytes) {
    case 2:
      return executeStore<T, uint16_t>;
    case 4:
      return executeStore<T, uint32_t>;
    case 8:
      return executeStore<T, uint64_t>;
    default:
      return nullptr;
  }
}

Execute loadFunction(const std::string& type, uint8_t registerBytes) {
  const bool isSigned = type[0] == 's';
  switch (typeBytes(type)) {
    case 1:
      return isSigned ? loadInto<int8_t>(registerBytes) : loadInto<uint8_t>(registerBytes);
    case 2:
      return isSigned ? loadInto<int16_t>(registerBytes) : loadInto<uint16_t>(registerBytes);
    case 4:
      return isSigned ? loadInto<int32_t>(registerBytes) : loadInto<uint32_t>(registerBytes);
    case 8:
      return loadInto<uint64_t>(registerBytes);
    default:
      return nullptr;
  }
}

Execute storeFunction(const std::string& type, uint8_t registerBytes) {
  switch (typeBytes(type)) {
    case 1:
      return storeFrom<uint8_t>(registerBytes);
    case 2:
      return storeFrom<uint16_t>(registerBytes);
    case 4:
      return storeFrom<uint32_t>(registerBytes);
    case 8:
      return storeFrom<uint64_t>(registerBytes);
    default:
      return nullptr;
  }
}

// Modifiers that steer caches or scopes and don't change what is read.
void takeCacheModifiers(Decoder& decoder) {
  while (!decoder
              .takeAny({"ca",
                        "cg",
                        "cs",
                        "lu",
                        "cv",
                        "wb",
                        "wt",
                        "nc",
                        "L1::no_allocate",
                        "L1::evict_normal",
                        "L1::evict_unchanged",
                        "L1::evict_first",
                        "L1::evict_last",
                        "L2::64B",
                        "L2::128B",
                        "L2::256B",
                        "L2::evict_last",
                        "L2::evict_normal",
                        "L2::evict_first",
                        "L2::cache_hint"})
              .empty()) {
  }
}

void takeOrder(Decoder& decoder) {
  if (decoder.take("weak")) return;
  const std::string order = decoder.takeAny({"volatile", "relaxed", "acquire", "release", "mmio"});
  decoder.takeAny({"cta", "cluster", "gpu", "sys"});
  decoder.inst.strong = !order.empty();
  decoder.inst.order = order == "acquire" ? 1 : order == "release" ? 2 : 0;
}

Space takeSpace(Decoder& decoder) {
  for (const auto& [name, space] : {std::pair<const char*, Space>{"global", Space::global},
                                    {"shared::cta", Space::shared},
                                    {"shared::cluster", Space::shared},
                                    {"shared", Space::shared},
                                    {"local", Space::local},
                                    {"const", Space::constant},
                                    {"param::entry", Space::param},
                                    {"param::func", Space::param},
                                    {"param", Space::param}}) {
    if (decoder.take(name)) return space;
  }
  return Space::generic;
}

void takeVector(Decoder& decoder) {
  const std::string vector = decoder.takeAny({"v2", "v4", "v8"});
  decoder.inst.vector = static_cast<uint8_t>(vector.empty() ? 1 : vector[1] - '0');
}

std::vector<Operand> elements(Decoder& decoder, const Operand& operand) {
  std::vector<Operand> items;
  if (operand.kind == Operand::Kind::vector)
    items = operand.items;
  else
    items = {operand};
  if (items.size() != decoder.inst.vector) decoder.unsupported("the vector has another number of elements");
  return items;
}

uint8_t commonRowBytes(Decoder& decoder, const std::vector<uint8_t>& ops, const char* what) {
  const uint8_t bytes = decoder.rowBytes(ops[0]);
  for (uint8_t op : ops) {
    if (decoder.rowBytes(op) != bytes) decoder.unsupported(std::string(what) + " of different sizes");
  }
  return bytes;
}

bool decodeLoad(Decoder& decoder) {
  Inst& inst = decoder.inst;
  takeOrder(decoder);
  const Space space = takeSpace(decoder);
  takeCacheModifiers(decoder);
  takeVector(decoder);
  const std::string type = decoder.takeType();
  decoder.allTaken();
  inst.elementBytes = static_cast<uint8_t>(typeBytes(type));
  if (inst.elementBytes == 0 || inst.elementBytes * inst.vector > 16) decoder.unsupported();
  std::vector<uint8_t> ops;
  for (const Operand& item : elements(decoder, decoder.operand(0))) {
    ops.push_back(decoder.anyDestination(item, inst.elementBytes));
  }
  decoder.address(decoder.operand(1), space);
  inst.category = Category::memory;
  inst.propagate = propagateByItself;
  inst.execute = loadFunction(type, commonRowBytes(decoder, ops, "registers"));
  if (!inst.execute) decoder.unsupported();
  return true;
}

bool decodeStore(Decoder& decoder) {
  Inst& inst = decoder.inst;
  takeOrder(decoder);
  const Space space = takeSpace(decoder);
  takeCacheModifiers(decoder);
  takeVector(decoder);
  const std::string type = decoder.takeType();
  decoder.allTaken();
  inst.elementBytes = static_cast<uint8_t>(typeBytes(type));
  if (inst.elementBytes == 0 || inst.elementBytes * inst.vector > 16) decoder.unsupported();
  decoder.address(decoder.operand(0), space);
  OperandType operandType = bitsType(inst.elementBytes);
  if (type == "f32") operandType = OperandType::float32;
  if (type == "f64") operandType = OperandType::float64;
  std::vector<uint8_t> ops;
  for (const Operand& item : elements(decoder, decoder.operand(1)))
    ops.push_back(decoder.anySource(item, operandType));
  inst.category = Category::memory;
  inst.propagate = propagateByItself;
  inst.execute = storeFunction(type, commonRowBytes(decoder, ops, "registers"));
  if (!inst.execute) decoder.unsupported();
  return true;
}

}  // namespace

bool decodeMemory(Decoder& decoder) {
  const std::string& base = decoder.base();
  if (base == "ld" || base == "ldu") return decodeLoad(decoder);
  if (base == "st") return decodeStore(decoder);
  if (base == "prefetch" || base == "prefetchu" || base == "discard" || base == "applypriority") {
    decoder.inst.execute = [](Warp&, const Inst&, Mask) {};
    decoder.inst.category = Category::memory;
    return true;
  }
  return false;
}

}  // namespace ptxemu
