// mov with its packing and unpacking of vectors, cvta, isspacep.
#include <chrono>
#include <cstring>

#include "elementwise.h"

namespace ptxemu {
namespace {

template <class T>
Form move() {
  Form form = elementwise<T, T>([](T a) { return a; });
  form.propagate = propagateCopy;
  return form;
}

// d = {s0, s1, ...}, lowest first. `elementBytes` is the size of one piece.
void executePack(Warp& warp, const Inst& inst, Mask mask) {
  const uint32_t bytes = inst.elementBytes, whole = bytes * inst.sources;
  forLanes(mask, [&](int lane) {
    for (uint32_t i = 0; i < inst.sources; i++) {
      std::memcpy(warp.rows + inst.op[0] + lane * whole + i * bytes,
                  warp.rows + inst.op[1 + i] + lane * bytes, bytes);
    }
  });
}
void propagatePack(Warp& warp, const Inst& inst, Mask mask) {
  uint8_t* d = warp.shadow(inst.op[0]);
  const uint8_t ones = static_cast<uint8_t>((1u << inst.elementBytes) - 1);
  forLanes(mask, [&](int lane) {
    uint32_t bits = 0;
    for (int i = 0; i < inst.sources; i++)
      bits |= uint32_t(warp.shadow(inst.op[1 + i])[lane] & ones) << i * inst.elementBytes;
    d[lane] = static_cast<uint8_t>(bits);
  });
}

void executeUnpack(Warp& warp, const Inst& inst, Mask mask) {
  const uint32_t bytes = inst.elementBytes, whole = bytes * inst.destinations;
  const uint32_t source = inst.op[inst.destinations];
  forLanes(mask, [&](int lane) {
    uint8_t value[16];
    std::memcpy(value, warp.rows + source + lane * whole, whole);
    for (uint32_t i = 0; i < inst.destinations; i++) {
      std::memcpy(warp.rows + inst.op[i] + lane * bytes, value + i * bytes, bytes);
    }
  });
}
void propagateUnpack(Warp& warp, const Inst& inst, Mask mask) {
  const uint8_t* source = warp.shadow(inst.op[inst.destinations]);
  const uint8_t ones = static_cast<uint8_t>((1u << inst.elementBytes) - 1);
  forLanes(mask, [&](int lane) {
    const uint8_t bits = source[lane];
    for (int i = 0; i < inst.destinations; i++) {
      warp.shadow(inst.op[i])[lane] = bits >> i * inst.elementBytes & ones;
    }
  });
}

bool decodeMov(Decoder& decoder) {
  const std::string type = decoder.takeType();
  decoder.allTaken();
  const int bytes = typeBytes(type);
  const Operand &destination = decoder.operand(0), &source = decoder.operand(1);
  Inst& inst = decoder.inst;
  inst.category = Category::other;
  if (source.kind == Operand::Kind::vector) {
    const size_t count = source.items.size();
    if (count == 0 || bytes % count) decoder.unsupported();
    inst.elementBytes = static_cast<uint8_t>(bytes / count);
    decoder.destination(destination, bitsType(bytes));
    for (const Operand& item : source.items) decoder.source(item, bitsType(inst.elementBytes));
    inst.execute = executePack;
    inst.propagate = propagatePack;
    return true;
  }
  if (destination.kind == Operand::Kind::vector) {
    const size_t count = destination.items.size();
    if (count == 0 || bytes % count) decoder.unsupported();
    inst.elementBytes = static_cast<uint8_t>(bytes / count);
    for (const Operand& item : destination.items) decoder.destination(item, bitsType(inst.elementBytes));
    decoder.source(source, bitsType(bytes));
    inst.execute = executeUnpack;
    inst.propagate = propagateUnpack;
    return true;
  }
  decoder.unsupported();
}

// mov from a register that changes as one looks: clocks and timers.
void executeClock32(Warp& warp, const Inst& inst, Mask mask) {
  uint32_t* d = warp.row<uint32_t>(inst.op[0]);
  const uint32_t now = static_cast<uint32_t>(__rdtsc());
  forLanes(mask, [&](int lane) { d[lane] = now; });
}
void executeClock64(Warp& warp, const Inst& inst, Mask mask) {
  uint64_t* d = warp.row<uint64_t>(inst.op[0]);
  uint64_t now = __rdtsc();
  if (inst.flag) {
    const auto time = std::chrono::system_clock::now().time_since_epoch();
    now = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(time).count());
  }
  forLanes(mask, [&](int lane) { d[lane] = now; });
}

uint64_t windowOf(const std::string& space) {
  return space == "shared"  ? kSharedWindow
         : space == "local" ? kLocalWindow
         : space == "param" ? kParamWindow
                            : 0;
}

// cvta adds the window of the space, cvta.to takes it away.
bool decodeCvta(Decoder& decoder) {
  const bool to = decoder.take("to");
  std::string space = decoder.takeAny(
      {"global", "shared::cta", "shared::cluster", "shared", "local", "const", "param::entry", "param"});
  if (space.compare(0, 6, "shared") == 0) space = "shared";
  if (space.compare(0, 5, "param") == 0) space = "param";
  const std::string type = decoder.takeType();
  decoder.allTaken();
  if (type != "u64" && type != "u32") decoder.unsupported();
  decoder.destination(decoder.operand(0), bitsType(typeBytes(type)));
  decoder.source(decoder.operand(1), bitsType(typeBytes(type)));
  static const Form copy64 = move<uint64_t>(), copy32 = move<uint32_t>();
  decoder.inst.category = Category::integer;
  decoder.inst.propagate = propagateCopy;
  decoder.inst.immediate = static_cast<int64_t>(windowOf(space));
  decoder.inst.flag = to;
  decoder.inst.execute = type == "u64" ? copy64.execute : copy32.execute;
  if (decoder.inst.immediate && type == "u64") {
    decoder.inst.execute = [](Warp& warp, const Inst& inst, Mask mask) {
      uint64_t* d = warp.row<uint64_t>(inst.op[0]);
      const uint64_t* a = warp.row<uint64_t>(inst.op[1]);
      const uint64_t window = static_cast<uint64_t>(inst.immediate);
      forLanes(mask, [&](int lane) {
        // An argument of an inlined function lies in local memory, whatever its declared space.
        const bool windowed = a[lane] & kWindowMask;
        d[lane] = inst.flag  ? (a[lane] & kWindowMask) == window ? a[lane] & ~kWindowMask : a[lane]
                   : windowed ? a[lane]
                             : a[lane] | window;
      });
    };
  }
  return true;
}

bool decodeIsspacep(Decoder& decoder) {
  std::string space = decoder.takeAny(
      {"global", "shared::cta", "shared::cluster", "shared", "local", "const", "param::entry", "param"});
  if (space.compare(0, 6, "shared") == 0) space = "shared";
  if (space.compare(0, 5, "param") == 0) space = "param";
  decoder.allTaken();
  decoder.destination(decoder.operand(0), OperandType::predicate);
  decoder.source(decoder.operand(1), OperandType::bits64);
  decoder.inst.immediate = static_cast<int64_t>(windowOf(space));
  decoder.inst.propagate = propagateAny;
  decoder.inst.category = Category::integer;
  decoder.inst.execute = [](Warp& warp, const Inst& inst, Mask mask) {
    const uint64_t* a = warp.row<uint64_t>(inst.op[1]);
    Mask result = 0;
    forLanes(mask, [&](int lane) {
      result |= Mask((a[lane] & kWindowMask) == static_cast<uint64_t>(inst.immediate)) << lane;
    });
    warp.setPredicate(inst.op[0], result, mask);
  };
  return true;
}

}  // namespace

void addMoveForms(FormTable& table) {
  const Category category = Category::other;
  for (const std::string type : {"b16", "u16", "s16", "f16", "bf16"})
    table.add("mov." + type, category, move<uint16_t>());
  for (const std::string type : {"b32", "u32", "s32"}) table.add("mov." + type, category, move<uint32_t>());
  for (const std::string type : {"b64", "u64", "s64"}) table.add("mov." + type, category, move<uint64_t>());
  table.add("mov.f32", category, move<float>());
  table.add("mov.f64", category, move<double>());
}

bool decodeClock(Decoder& decoder) {
  if (decoder.base() != "mov" || decoder.operandCount() != 2 ||
      decoder.operand(1).kind != Operand::Kind::symbol) {
    return false;
  }
  const std::string& name = decoder.operand(1).name;
  const bool is64 = name == "%clock64" || name == "%globaltimer";
  if (!is64 && name != "%clock" && name != "%clock_hi") return false;
  decoder.destination(decoder.operand(0), is64 ? OperandType::bits64 : OperandType::bits32);
  decoder.inst.flag = name == "%globaltimer";
  decoder.inst.execute = is64 ? executeClock64 : executeClock32;
  decoder.inst.propagate = propagateNothing;
  return true;
}

bool decodeMove(Decoder& decoder) {
  if (decoder.base() == "mov") return decodeMov(decoder);
  if (decoder.base() == "cvta") return decodeCvta(decoder);
  if (decoder.base() == "isspacep") return decodeIsspacep(decoder);
  return false;
}

}  // namespace ptxemu
