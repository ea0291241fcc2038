// setp, set, testp, selp, slct.
#include <cmath>

#include "elementwise.h"
#include "rounding.h"

namespace ptxemu {
namespace {

// The outcome of comparing two values, and which outcomes an operator accepts.
enum Outcome : uint8_t { kLess = 1, kEqual = 2, kGreater = 4, kUnordered = 8 };

uint8_t acceptedBy(const std::string& name, bool isFloat) {
  static const std::unordered_map<std::string, uint8_t> accepted = {{"eq", kEqual},
                                                                    {"ne", kLess | kGreater},
                                                                    {"lt", kLess},
                                                                    {"le", kLess | kEqual},
                                                                    {"gt", kGreater},
                                                                    {"ge", kGreater | kEqual},
                                                                    {"lo", kLess},
                                                                    {"ls", kLess | kEqual},
                                                                    {"hi", kGreater},
                                                                    {"hs", kGreater | kEqual},
                                                                    {"equ", kEqual | kUnordered},
                                                                    {"neu", kLess | kGreater | kUnordered},
                                                                    {"ltu", kLess | kUnordered},
                                                                    {"leu", kLess | kEqual | kUnordered},
                                                                    {"gtu", kGreater | kUnordered},
                                                                    {"geu", kGreater | kEqual | kUnordered},
                                                                    {"num", kLess | kEqual | kGreater},
                                                                    {"nan", kUnordered}};
  const auto found = accepted.find(name);
  if (found == accepted.end()) return 0;
  const bool unsignedOnly = name == "lo" || name == "ls" || name == "hi" || name == "hs";
  const bool floatOnly = name.size() == 3;
  return isFloat ? (unsignedOnly ? 0 : found->second) : (floatOnly ? 0 : found->second);
}

// Simple setp forms, one instantiation per operator and type.
template <class T, class F>
void addSimple(FormTable& table, const std::string& name, const std::string& type, F f) {
  table.add("setp." + name + "." + type,
            std::is_floating_point_v<T> ? Category::floatingPoint : Category::integer, comparison<T>(f));
}

template <class T>
void addOrdered(FormTable& table, const std::string& type) {
  addSimple<T>(table, "eq", type, [](T a, T b) { return a == b; });
  addSimple<T>(table, "ne", type, [](T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
      return a < b || a > b;
    else
      return a != b;
  });
  if (type[0] == 'b') return;
  addSimple<T>(table, "lt", type, [](T a, T b) { return a < b; });
  addSimple<T>(table, "le", type, [](T a, T b) { return a <= b; });
  addSimple<T>(table, "gt", type, [](T a, T b) { return a > b; });
  addSimple<T>(table, "ge", type, [](T a, T b) { return a >= b; });
  if (type[0] == 'u') {
    addSimple<T>(table, "lo", type, [](T a, T b) { return a < b; });
    addSimple<T>(table, "ls", type, [](T a, T b) { return a <= b; });
    addSimple<T>(table, "hi", type, [](T a, T b) { return a > b; });
    addSimple<T>(table, "hs", type, [](T a, T b) { return a >= b; });
  }
}

template <class T>
void addUnordered(FormTable& table, const std::string& type) {
  addSimple<T>(table, "equ", type, [](T a, T b) { return !(a < b || a > b); });
  addSimple<T>(table, "neu", type, [](T a, T b) { return !(a == b); });
  addSimple<T>(table, "ltu", type, [](T a, T b) { return !(a >= b); });
  addSimple<T>(table, "leu", type, [](T a, T b) { return !(a > b); });
  addSimple<T>(table, "gtu", type, [](T a, T b) { return !(a <= b); });
  addSimple<T>(table, "geu", type, [](T a, T b) { return !(a < b); });
  addSimple<T>(table, "num", type, [](T a, T b) { return a == a && b == b; });
  addSimple<T>(table, "nan", type, [](T a, T b) { return a != a || b != b; });
}

// -- the general path: any operator, type, boolean combination
// ------------------------------------------------------

enum class Kinds : uint8_t { s16, u16, s32, u32, s64, u64, f16, bf16, f32, f64, f16x2, bf16x2 };

bool kindOf(const std::string& type, Kinds& kind) {
  static const std::unordered_map<std::string, Kinds> kinds = {
      {"s16", Kinds::s16}, {"u16", Kinds::u16},     {"b16", Kinds::u16},      {"s32", Kinds::s32},
      {"u32", Kinds::u32}, {"b32", Kinds::u32},     {"s64", Kinds::s64},      {"u64", Kinds::u64},
      {"b64", Kinds::u64}, {"f16", Kinds::f16},     {"bf16", Kinds::bf16},    {"f32", Kinds::f32},
      {"f64", Kinds::f64}, {"f16x2", Kinds::f16x2}, {"bf16x2", Kinds::bf16x2}};
  const auto found = kinds.find(type);
  if (found == kinds.end()) return false;
  kind = found->second;
  return true;
}
bool isFloat(Kinds kind) { return kind >= Kinds::f16; }
bool isPacked(Kinds kind) { return kind >= Kinds::f16x2; }

template <class T>
uint8_t outcome(T a, T b) {
  if (a < b) return kLess;
  if (a > b) return kGreater;
  return a == b ? kEqual : kUnordered;
}

// Half 0 or 1 of packed operands.
float halfAt(Kinds kind, const uint8_t* row, int lane, int half) {
  const bool packed = isPacked(kind);
  const uint16_t bits = reinterpret_cast<const uint16_t*>(row)[packed ? 2 * lane + half : lane];
  return kind == Kinds::f16 || kind == Kinds::f16x2 ? fromHalf(bits) : fromBfloat(bits);
}

uint8_t compareLane(Kinds kind, bool flush, const uint8_t* a, const uint8_t* b, int lane, int half) {
  auto at = [lane](const uint8_t* row, auto sample) {
    return reinterpret_cast<const decltype(sample)*>(row)[lane];
  };
  switch (kind) {
    case Kinds::s16:
      return outcome(at(a, int16_t()), at(b, int16_t()));
    case Kinds::u16:
      return outcome(at(a, uint16_t()), at(b, uint16_t()));
    case Kinds::s32:
      return outcome(at(a, int32_t()), at(b, int32_t()));
    case Kinds::u32:
      return outcome(at(a, uint32_t()), at(b, uint32_t()));
    case Kinds::s64:
      return outcome(at(a, int64_t()), at(b, int64_t()));
    case Kinds::u64:
      return outcome(at(a, uint64_t()), at(b, uint64_t()));
    case Kinds::f64:
      return outcome(at(a, double()), at(b, double()));
    case Kinds::f32: {
      float x = at(a, float()), y = at(b, float());
      if (flush && std::fabs(x) < 0x1p-126f) x = 0;
      if (flush && std::fabs(y) < 0x1p-126f) y = 0;
      return outcome(x, y);
    }
    default: {
      float x = halfAt(kind, a, lane, half), y = halfAt(kind, b, lane, half);
      if (flush && std::fabs(x) < 0x1p-14f) x = 0;
      if (flush && std::fabs(y) < 0x1p-14f) y = 0;
      return outcome(x, y);
    }
  }
}

// Inst::flag holds the kind; Inst::immediate the accepted outcomes and the options.
constexpr int64_t kFlush = 16, kAnd = 32, kOr = 64, kXor = 128, kNegateC = 256, kTwo = 512;

Mask compareMask(Warp& warp, const Inst& inst, Mask mask, uint32_t a, uint32_t b, int half) {
  const auto kind = static_cast<Kinds>(inst.flag);
  const uint8_t accepted = inst.immediate & 15;
  Mask result = 0;
  forLanes(mask, [&](int lane) {
    const uint8_t got = compareLane(kind, inst.immediate & kFlush, warp.rows + a, warp.rows + b, lane, half);
    result |= Mask((got & accepted) != 0) << lane;
  });
  return result;
}

Mask combine(const Inst& inst, Mask value, Mask c) {
  if (inst.immediate & kNegateC) c = ~c;
  if (inst.immediate & kAnd) return value & c;
  if (inst.immediate & kOr) return value | c;
  if (inst.immediate & kXor) return value ^ c;
  return value;
}

Mask thirdOperand(Warp& warp, const Inst& inst) {
  return inst.sources > 2 ? warp.predicate(inst.op[inst.destinations + 2]) : kAllLanes;
}

void executeSetp(Warp& warp, const Inst& inst, Mask mask) {
  const uint32_t* sources = inst.op + inst.destinations;
  const Mask c = thirdOperand(warp, inst);
  const Mask value = compareMask(warp, inst, mask, sources[0], sources[1], 0);
  // The second destination is the complement or, of packed types, the upper half.
  const bool packed = isPacked(static_cast<Kinds>(inst.flag));
  const Mask second = packed ? compareMask(warp, inst, mask, sources[0], sources[1], 1) : ~value;
  warp.setPredicate(inst.op[0], combine(inst, value, c), mask);
  if (inst.immediate & kTwo) warp.setPredicate(inst.op[1], combine(inst, second, c), mask);
}

// set gives all ones or 1.0; `elementBytes` is the size of one result.
void executeSet(Warp& warp, const Inst& inst, Mask mask) {
  const uint32_t* sources = inst.op + inst.destinations;
  const Mask c = thirdOperand(warp, inst);
  const bool packed = isPacked(static_cast<Kinds>(inst.flag));
  const uint32_t one = static_cast<uint32_t>(inst.target);
  const Mask low = combine(inst, compareMask(warp, inst, mask, sources[0], sources[1], 0), c);
  if (packed) {
    const Mask high = combine(inst, compareMask(warp, inst, mask, sources[0], sources[1], 1), c);
    uint32_t* d = warp.row<uint32_t>(inst.op[0]);
    forLanes(mask,
             [&](int lane) { d[lane] = (low >> lane & 1 ? one : 0) | (high >> lane & 1 ? one << 16 : 0); });
  } else if (inst.vector == 2) {
    uint16_t* d = warp.row<uint16_t>(inst.op[0]);
    forLanes(mask, [&](int lane) { d[lane] = static_cast<uint16_t>(low >> lane & 1 ? one : 0); });
  } else {
    uint32_t* d = warp.row<uint32_t>(inst.op[0]);
    forLanes(mask, [&](int lane) { d[lane] = low >> lane & 1 ? one : 0; });
  }
}

OperandType operandTypeOfKind(Kinds kind, const std::string& type) {
  if (kind == Kinds::f32) return OperandType::float32;
  if (kind == Kinds::f64) return OperandType::float64;
  return bitsType(typeBytes(type));
}

// The operator, options and sources that setp and set share. `next` is the first source operand.
void decodeComparison(Decoder& decoder, const std::string& type, size_t next, bool flush,
                      const std::string& combination, const std::string& name) {
  Kinds kind;
  if (!kindOf(type, kind)) decoder.unsupported();
  const uint8_t accepted = acceptedBy(name, isFloat(kind));
  if (!accepted) decoder.unsupported("comparison ." + name);
  decoder.inst.flag = static_cast<uint8_t>(kind);
  decoder.inst.immediate |= accepted | (flush ? kFlush : 0);
  decoder.inst.immediate |= combination == "and"   ? kAnd
                            : combination == "or"  ? kOr
                            : combination == "xor" ? kXor
                                                   : 0;
  decoder.source(decoder.operand(next), operandTypeOfKind(kind, type));
  decoder.source(decoder.operand(next + 1), operandTypeOfKind(kind, type));
  if (!combination.empty()) {
    decoder.source(decoder.operand(next + 2), OperandType::predicate);
    if (decoder.operand(next + 2).negated) decoder.inst.immediate |= kNegateC;
  }
  decoder.inst.category = isFloat(kind) ? Category::floatingPoint : Category::integer;
  decoder.inst.propagate = propagateAny;
}

bool decodeSetp(Decoder& decoder) {
  const std::string name = decoder.modifiers().empty() ? "" : decoder.modifiers()[0];
  decoder.take(name);
  const std::string combination = decoder.takeAny({"and", "or", "xor"});
  const bool flush = decoder.take("ftz");
  const std::string type = decoder.takeType();
  decoder.allTaken();
  const Operand& first = decoder.operand(0);
  if (first.kind == Operand::Kind::pair) {
    decoder.destination(first.items[0], OperandType::predicate);
    decoder.destination(first.items[1], OperandType::predicate);
    decoder.inst.immediate |= kTwo;
  } else {
    decoder.destination(first, OperandType::predicate);
  }
  decodeComparison(decoder, type, 1, flush, combination, name);
  decoder.inst.execute = executeSetp;
  return true;
}

bool decodeSet(Decoder& decoder) {
  const std::string name = decoder.modifiers().empty() ? "" : decoder.modifiers()[0];
  decoder.take(name);
  const std::string combination = decoder.takeAny({"and", "or", "xor"});
  const bool flush = decoder.take("ftz");
  const std::string result = decoder.takeType(), type = decoder.takeType();
  decoder.allTaken();
  static const std::unordered_map<std::string, uint32_t> ones = {
      {"u32", ~0u},     {"s32", ~0u},       {"f32", 0x3f800000}, {"f16", 0x3c00}, {"f16x2", 0x3c00},
      {"bf16", 0x3f80}, {"bf16x2", 0x3f80}, {"u16", 0xffff},     {"s16", 0xffff}};
  const auto one = ones.find(result);
  if (one == ones.end()) decoder.unsupported();
  decoder.destination(decoder.operand(0), bitsType(typeBytes(result)));
  decodeComparison(decoder, type, 1, flush, combination, name);
  decoder.inst.target = static_cast<int32_t>(one->second);
  const bool packed = isPacked(static_cast<Kinds>(decoder.inst.flag));
  if (packed && typeBytes(result) == 4 && result.find("x2") == std::string::npos)
    decoder.inst.target = 0xffff;
  decoder.inst.vector = static_cast<uint8_t>(typeBytes(result));
  decoder.inst.execute = executeSet;
  return true;
}

template <class T>
void executeTestp(Warp& warp, const Inst& inst, Mask mask) {
  const T* a = warp.row<T>(inst.op[1]);
  Mask result = 0;
  for (int lane = 0; lane < kLanes; lane++) {
    const int kind = std::fpclassify(a[lane]);
    bool holds = false;
    switch (inst.flag) {
      case 0:
        holds = std::isfinite(a[lane]);
        break;
      case 1:
        holds = kind == FP_INFINITE;
        break;
      case 2:
        holds = kind != FP_NAN;
        break;
      case 3:
        holds = kind == FP_NAN;
        break;
      case 4:
        holds = kind == FP_NORMAL;
        break;
      case 5:
        holds = kind == FP_SUBNORMAL;
        break;
    }
    result |= Mask(holds) << lane;
  }
  warp.setPredicate(inst.op[0], result, mask);
}

bool decodeTestp(Decoder& decoder) {
  const char* names[] = {"finite", "infinite", "number", "notanumber", "normal", "subnormal"};
  for (uint8_t i = 0; i < 6; i++) {
    if (!decoder.take(names[i])) continue;
    const std::string type = decoder.takeType();
    decoder.allTaken();
    if (type != "f32" && type != "f64") decoder.unsupported();
    decoder.destination(decoder.operand(0), OperandType::predicate);
    decoder.source(decoder.operand(1), type == "f32" ? OperandType::float32 : OperandType::float64);
    decoder.inst.flag = i;
    decoder.inst.execute = type == "f32" ? executeTestp<float> : executeTestp<double>;
    decoder.inst.propagate = propagateAny;
    decoder.inst.category = Category::floatingPoint;
    return true;
  }
  decoder.unsupported();
}

// -- selp, slct
// -----------------------------------------------------------------------------------------------------

template <class T>
void executeSelp(Warp& warp, const Inst& inst, Mask mask) {
  T* d = warp.row<T>(inst.op[0]);
  const T *a = warp.row<T>(inst.op[1]), *b = warp.row<T>(inst.op[2]);
  const Mask choice = warp.predicate(inst.op[3]);
#pragma GCC ivdep
  for (int lane = 0; lane < kLanes; lane++) {
    const T value = (choice >> lane & 1) ? a[lane] : b[lane];
    d[lane] = (mask >> lane & 1) ? value : d[lane];
  }
}

// Undefined where the chosen source or the choice is.
void propagateSelp(Warp& warp, const Inst& inst, Mask mask) {
  const Mask choice = warp.predicate(inst.op[3]);
  const uint8_t *a = warp.shadow(inst.op[1]), *b = warp.shadow(inst.op[2]), *p = warp.shadow(inst.op[3]);
  uint8_t* d = warp.shadow(inst.op[0]);
  forLanes(mask, [&](int lane) { d[lane] = p[lane] ? 0xff : (choice >> lane & 1) ? a[lane] : b[lane]; });
}

template <class T>
Form selpForm() {
  Form form;
  form.execute = executeSelp<T>;
  form.propagate = propagateSelp;
  form.destinations = {bitsType(sizeof(T))};
  form.sources = {bitsType(sizeof(T)), bitsType(sizeof(T)), OperandType::predicate};
  return form;
}

}  // namespace

void addCompareForms(FormTable& table) {
  addOrdered<int16_t>(table, "s16");
  addOrdered<uint16_t>(table, "u16");
  addOrdered<uint16_t>(table, "b16");
  addOrdered<int32_t>(table, "s32");
  addOrdered<uint32_t>(table, "u32");
  addOrdered<uint32_t>(table, "b32");
  addOrdered<int64_t>(table, "s64");
  addOrdered<uint64_t>(table, "u64");
  addOrdered<uint64_t>(table, "b64");
  addOrdered<float>(table, "f32");
  addUnordered<float>(table, "f32");
  addOrdered<double>(table, "f64");
  addUnordered<double>(table, "f64");
  for (const std::string type : {"b16", "u16", "s16", "f16", "bf16"}) {
    table.add("selp." + type, Category::integer, selpForm<uint16_t>());
  }
  for (const std::string type : {"b32", "u32", "s32"})
    table.add("selp." + type, Category::integer, selpForm<uint32_t>());
  for (const std::string type : {"b64", "u64", "s64"})
    table.add("selp." + type, Category::integer, selpForm<uint64_t>());
  Form single = selpForm<uint32_t>(), wide = selpForm<uint64_t>();
  single.sources[0] = single.sources[1] = OperandType::float32;
  wide.sources[0] = wide.sources[1] = OperandType::float64;
  table.add("selp.f32", Category::floatingPoint, single);
  table.add("selp.f64", Category::floatingPoint, wide);
  for (const std::string type : {"b32", "u32", "s32", "f32"}) {
    table.add("slct." + type + ".s32", Category::integer,
              elementwise<uint32_t, uint32_t, uint32_t, int32_t>(
                  [](uint32_t a, uint32_t b, int32_t c) { return c >= 0 ? a : b; }));
    table.add("slct." + type + ".f32", Category::integer,
              elementwise<uint32_t, uint32_t, uint32_t, float>(
                  [](uint32_t a, uint32_t b, float c) { return c >= 0 ? a : b; }));
  }
  for (const std::string type : {"b64", "u64", "s64", "f64"}) {
    table.add("slct." + type + ".s32", Category::integer,
              elementwise<uint64_t, uint64_t, uint64_t, int32_t>(
                  [](uint64_t a, uint64_t b, int32_t c) { return c >= 0 ? a : b; }));
  }
}

bool decodeCompare(Decoder& decoder) {
  if (decoder.base() == "setp") return decodeSetp(decoder);
  if (decoder.base() == "set") return decodeSet(decoder);
  if (decoder.base() == "testp") return decodeTestp(decoder);
  return false;
}

}  // namespace ptxemu
