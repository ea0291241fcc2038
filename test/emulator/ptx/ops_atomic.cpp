// atom and red on global, shared and generic memory. Lanes go one after the other; between host threads a
// lock per address keeps each operation whole.
#include <cmath>
#include <cstring>
#include <mutex>

#include "access.h"
#include "decoder.h"
#include "definedness.h"
#include "elementwise.h"
#include "rounding.h"

namespace ptxemu {
namespace {

enum class AtomicOperation : uint8_t { add, min, max, bitAnd, bitOr, bitXor, inc, dec, exch, cas };
enum class Number : uint8_t { u32, s32, u64, s64, f32, f64, f16, bf16, f16x2, bf16x2, b16 };

template <class T>
T combine(AtomicOperation operation, T old, T operand, T swap) {
  switch (operation) {
    case AtomicOperation::add:
      return static_cast<T>(old + operand);
    case AtomicOperation::min:
      return operand < old ? operand : old;
    case AtomicOperation::max:
      return operand > old ? operand : old;
    case AtomicOperation::exch:
      return operand;
    case AtomicOperation::cas:
      return old == operand ? swap : old;
    default:
      break;
  }
  if constexpr (std::is_integral_v<T>) {
    switch (operation) {
      case AtomicOperation::bitAnd:
        return old & operand;
      case AtomicOperation::bitOr:
        return old | operand;
      case AtomicOperation::bitXor:
        return old ^ operand;
      case AtomicOperation::inc:
        return old >= operand ? T(0) : static_cast<T>(old + 1);
      case AtomicOperation::dec:
        return old == 0 || old > operand ? operand : static_cast<T>(old - 1);
      default:
        break;
    }
  }
  return old;
}

// Signed sums wrap.
template <class T>
T combineWrapping(AtomicOperation operation, T old, T operand, T swap) {
  if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
    using U = std::make_unsigned_t<T>;
    if (operation == AtomicOperation::add)
      return static_cast<T>(static_cast<U>(old) + static_cast<U>(operand));
  }
  return combine(operation, old, operand, swap);
}

uint16_t combineHalf(bool bfloat, AtomicOperation operation, uint16_t old, uint16_t operand) {
  const float a = bfloat ? fromBfloat(old) : fromHalf(old),
              b = bfloat ? fromBfloat(operand) : fromHalf(operand);
  float value = 0;
  switch (operation) {
    case AtomicOperation::min:
      value = std::fmin(a, b);
      break;
    case AtomicOperation::max:
      value = std::fmax(a, b);
      break;
    default:
      value = a + b;
      break;
  }
  return bfloat ? toBfloat(value) : toHalf(value);
}

template <class T>
void applyPlain(uint8_t* at, AtomicOperation operation, const void* operand, const void* swap, void* old) {
  T current, a, b{};
  std::memcpy(&current, at, sizeof(T));
  std::memcpy(&a, operand, sizeof(T));
  if (swap) std::memcpy(&b, swap, sizeof(T));
  const T next = combineWrapping(operation, current, a, b);
  std::memcpy(at, &next, sizeof(T));
  std::memcpy(old, &current, sizeof(T));
}

void applyHalves(uint8_t* at, Number number, AtomicOperation operation, const void* operand, void* old) {
  const bool bfloat = number == Number::bf16 || number == Number::bf16x2;
  const size_t count = number == Number::f16x2 || number == Number::bf16x2 ? 2 : 1;
  uint16_t current[2], add[2], next[2];
  std::memcpy(current, at, 2 * count);
  std::memcpy(add, operand, 2 * count);
  for (size_t i = 0; i < count; i++) next[i] = combineHalf(bfloat, operation, current[i], add[i]);
  std::memcpy(at, next, 2 * count);
  std::memcpy(old, current, 2 * count);
}

void apply(uint8_t* at, Number number, AtomicOperation operation, const void* operand, const void* swap,
           void* old) {
  switch (number) {
    case Number::u32:
      return applyPlain<uint32_t>(at, operation, operand, swap, old);
    case Number::s32:
      return applyPlain<int32_t>(at, operation, operand, swap, old);
    case Number::u64:
      return applyPlain<uint64_t>(at, operation, operand, swap, old);
    case Number::s64:
      return applyPlain<int64_t>(at, operation, operand, swap, old);
    case Number::b16:
      return applyPlain<uint16_t>(at, operation, operand, swap, old);
    case Number::f32:
      return applyPlain<float>(at, operation, operand, swap, old);
    case Number::f64:
      return applyPlain<double>(at, operation, operand, swap, old);
    default:
      return applyHalves(at, number, operation, operand, old);
  }
}

// Inst::flag: number in the low, operation in the high half. op: [old], address, operand, [swap]; vectors
// repeat.
void executeAtomic(Warp& warp, const Inst& inst, Mask mask) {
  const auto number = static_cast<Number>(inst.flag & 15);
  const auto operation = static_cast<AtomicOperation>(inst.flag >> 4);
  const uint32_t* data = inst.op + inst.destinations + 1;
  const bool hasSwap = operation == AtomicOperation::cas;
  const uint32_t bytes = inst.elementBytes;
  Block& block = *warp.block;
  forParts(warp, inst, mask, bytes * inst.vector, Use::atomic, [&](const Access& access, Mask part) {
    if (access.space == Space::param || access.space == Space::local) {
      warp.fault(Fault::illegalAddress, "global-bounds", inst, firstLane(part),
                 access.address[firstLane(part)], "atomic outside of global and shared memory");
      return;
    }
    if (warp.tainted) {
      for (int i = 1; i < inst.sources; i++) {
        reportUndefined(warp, inst, inst.op[inst.destinations + i], part, "is an operand of an atomic");
      }
    }
    forLanes(part, [&](int lane) {
      const uint64_t address = access.address[lane];
      uint32_t undefined = 0;
      if (warp.definedness) {
        undefined = undefinedBytesAt(warp, inst, access, lane, 0, access.bytes);
        if (undefined && operation != AtomicOperation::exch) {
          warp.report("undefined-value", inst, lane, address,
                      "an atomic works on memory that was never written");
        }
        setUndefinedBytesAt(warp, access, lane, 0, access.bytes, 0);
        if (undefined && access.space == Space::global) {
          if (DeviceAllocation* allocation = block.launch.memory.containing(address, access.bytes)) {
            allocation->markDefined(address, access.bytes);
          }
        }
      }
      const bool shares = access.space == Space::global;
      if (shares && block.checks.races && (inst.order & 2)) {
        block.races.releaseTo(block.launch.globalSync, warp.id, address, true);
      } else if (shares && block.checks.races) {
        block.races.releaseTo(block.launch.globalSync, warp.id, address, false);
      }
      uint8_t old[16];
      {
        std::unique_lock<std::mutex> lock;
        if (shares) lock = std::unique_lock<std::mutex>(block.launch.atomicMutex(address));
        for (int v = 0; v < inst.vector; v++) {
          apply(access.pointer[lane] + v * bytes, number, operation, warp.rows + data[v] + lane * bytes,
                hasSwap ? warp.rows + data[1] + lane * bytes : nullptr, old + v * bytes);
        }
      }
      if (shares && block.checks.races) block.races.acquireFrom(block.launch.globalSync, warp.id, address);
      for (int v = 0; v < inst.destinations; v++) {
        std::memcpy(warp.rows + inst.op[v] + lane * bytes, old + v * bytes, bytes);
      }
    });
    for (int v = 0; v < inst.destinations; v++) clearShadow(warp, inst.op[v], part);
  });
}

bool parseNumber(const std::string& type, Number& number) {
  static const std::unordered_map<std::string, Number> names = {
      {"u32", Number::u32}, {"b32", Number::u32},   {"s32", Number::s32},     {"u64", Number::u64},
      {"b64", Number::u64}, {"s64", Number::s64},   {"f32", Number::f32},     {"f64", Number::f64},
      {"f16", Number::f16}, {"bf16", Number::bf16}, {"f16x2", Number::f16x2}, {"bf16x2", Number::bf16x2},
      {"b16", Number::b16}};
  const auto found = names.find(type);
  if (found == names.end()) return false;
  number = found->second;
  return true;
}

bool parseOperation(Decoder& decoder, AtomicOperation& operation) {
  const std::pair<const char*, AtomicOperation> names[] = {
      {"add", AtomicOperation::add},    {"min", AtomicOperation::min},  {"max", AtomicOperation::max},
      {"and", AtomicOperation::bitAnd}, {"or", AtomicOperation::bitOr}, {"xor", AtomicOperation::bitXor},
      {"inc", AtomicOperation::inc},    {"dec", AtomicOperation::dec},  {"exch", AtomicOperation::exch},
      {"cas", AtomicOperation::cas}};
  for (const auto& [name, value] : names) {
    if (!decoder.take(name)) continue;
    operation = value;
    return true;
  }
  return false;
}

}  // namespace

bool decodeAtomic(Decoder& decoder) {
  const bool isAtom = decoder.base() == "atom", isRed = decoder.base() == "red";
  if (!isAtom && !isRed) return false;
  Inst& inst = decoder.inst;
  const std::string order = decoder.takeAny({"relaxed", "acquire", "release", "acq_rel"});
  decoder.takeAny({"cta", "cluster", "gpu", "sys"});
  const std::string spaceName = decoder.takeAny({"global", "shared::cta", "shared::cluster", "shared"});
  const Space space = spaceName.empty()       ? Space::generic
                      : spaceName == "global" ? Space::global
                                              : Space::shared;
  AtomicOperation operation;
  if (!parseOperation(decoder, operation)) decoder.unsupported();
  decoder.takeAny({"noftz", "L2::cache_hint"});
  const std::string vector = decoder.takeAny({"v2", "v4"});
  const std::string type = decoder.takeType();
  decoder.allTaken();
  Number number;
  if (!parseNumber(type, number)) decoder.unsupported();
  inst.vector = static_cast<uint8_t>(vector.empty() ? 1 : vector[1] - '0');
  inst.elementBytes = static_cast<uint8_t>(typeBytes(type));
  inst.order = order == "acquire" ? 1 : order == "release" ? 2 : order == "acq_rel" ? 3 : 0;
  inst.strong = true;
  OperandType operandType = bitsType(inst.elementBytes);
  if (type == "f32") operandType = OperandType::float32;
  if (type == "f64") operandType = OperandType::float64;
  auto items = [&](const Operand& operand) {
    return operand.kind == Operand::Kind::vector ? operand.items : std::vector<Operand>{operand};
  };
  size_t next = 0;
  if (isAtom) {
    for (const Operand& item : items(decoder.operand(next))) decoder.destination(item, operandType);
    next++;
  }
  decoder.address(decoder.operand(next++), space);
  for (const Operand& item : items(decoder.operand(next))) decoder.source(item, operandType);
  next++;
  if (operation == AtomicOperation::cas) decoder.source(decoder.operand(next++), operandType);
  inst.flag = static_cast<uint8_t>(static_cast<int>(number) | static_cast<int>(operation) << 4);
  inst.execute = executeAtomic;
  inst.propagate = propagateByItself;
  inst.category = Category::memory;
  return true;
}

}  // namespace ptxemu
