// cvt between all scalar types, and the packing conversions to pairs. Common conversions are element-wise
// loops; the rest goes lane by lane through one general function.
#include <cmath>
#include <cstring>
#include <limits>

#include "elementwise.h"
#include "rounding.h"

namespace ptxemu {
namespace {

enum class Number : uint8_t { u8, s8, u16, s16, u32, s32, u64, s64, f16, bf16, f32, tf32, f64 };

bool numberOf(const std::string& type, Number& number) {
  static const std::unordered_map<std::string, Number> names = {
      {"u8", Number::u8},   {"s8", Number::s8},     {"b8", Number::u8},   {"u16", Number::u16},
      {"s16", Number::s16}, {"b16", Number::u16},   {"u32", Number::u32}, {"s32", Number::s32},
      {"b32", Number::u32}, {"u64", Number::u64},   {"s64", Number::s64}, {"b64", Number::u64},
      {"f16", Number::f16}, {"bf16", Number::bf16}, {"f32", Number::f32}, {"tf32", Number::tf32},
      {"f64", Number::f64}};
  const auto found = names.find(type);
  if (found == names.end()) return false;
  number = found->second;
  return true;
}
bool isFloat(Number number) { return number >= Number::f16; }
bool isSigned(Number number) { return !isFloat(number) && static_cast<int>(number) % 2 == 1; }
uint8_t bytesOfNumber(Number number) {
  static constexpr uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 4, 8};
  return sizes[static_cast<int>(number)];
}

// What one cvt does; lies in Inst::immediate.
struct Conversion {
  Number to = Number::u32, from = Number::u32;
  Rounding rounding = Rounding::nearestEven;
  bool toInteger = false;  // .rni and its kin: round to an integral value
  bool flush = false, saturate = false, relu = false;

  int64_t pack() const {
    int64_t bits = 0;
    static_assert(sizeof(Conversion) <= sizeof bits, "fits into the immediate");
    std::memcpy(&bits, this, sizeof(Conversion));
    return bits;
  }
  static Conversion unpack(int64_t bits) {
    Conversion conversion;
    std::memcpy(static_cast<void*>(&conversion), &bits, sizeof conversion);
    return conversion;
  }
};

double roundToIntegral(double x, Rounding mode) {
  switch (mode) {
    case Rounding::nearestEven:
      return std::nearbyint(x);
    case Rounding::nearestAway:
      return std::round(x);
    case Rounding::zero:
      return std::trunc(x);
    case Rounding::down:
      return std::floor(x);
    case Rounding::up:
      return std::ceil(x);
  }
  return x;
}

double flushSingle(double x) { return std::fabs(x) < 0x1p-126 ? std::copysign(0.0, x) : x; }

double readFloat(Number from, const uint8_t* at) {
  uint64_t bits = 0;
  std::memcpy(&bits, at, bytesOfNumber(from));
  switch (from) {
    case Number::f16:
      return fromHalf(static_cast<uint16_t>(bits));
    case Number::bf16:
      return fromBfloat(static_cast<uint16_t>(bits));
    case Number::f64:
      return bitCast<double>(bits);
    default:
      return bitCast<float>(static_cast<uint32_t>(bits));
  }
}

__int128 readInteger(Number from, const uint8_t* at) {
  uint64_t bits = 0;
  const int bytes = bytesOfNumber(from);
  std::memcpy(&bits, at, bytes);
  if (!isSigned(from)) return bits;
  const int unused = 64 - 8 * bytes;
  return static_cast<int64_t>(bits << unused) >> unused;
}

// Integers saturate always when they come from floats, else only with .sat.
uint64_t toIntegerBits(Number to, __int128 value, bool saturate) {
  const int bits = 8 * bytesOfNumber(to);
  if (saturate) {
    const __int128 low = isSigned(to) ? -(__int128(1) << (bits - 1)) : 0;
    const __int128 high = isSigned(to) ? (__int128(1) << (bits - 1)) - 1 : (__int128(1) << bits) - 1;
    value = value < low ? low : value > high ? high : value;
  }
  return static_cast<uint64_t>(value);
}

uint64_t floatToInteger(Number to, double value, Rounding mode) {
  if (std::isnan(value)) return 0;
  const double whole = roundToIntegral(value, mode);
  const double limited = whole < -0x1p70 ? -0x1p70 : whole > 0x1p70 ? 0x1p70 : whole;
  return toIntegerBits(to, static_cast<__int128>(limited), true);
}

float toSingle(double value, Rounding mode) {
  if (mode == Rounding::nearestEven) return static_cast<float>(value);
  return bitCast<float>(toNarrow(value, 8, 23, mode, false));
}

uint64_t writeFloat(const Conversion& c, double value) {
  switch (c.to) {
    case Number::f16:
      return toNarrow(value, 5, 10, c.rounding, false);
    case Number::bf16:
      return toNarrow(value, 8, 7, c.rounding, false);
    case Number::tf32: {
      if (std::isnan(value)) return 0x7fffffff;
      return uint64_t(toNarrow(value, 8, 10, c.rounding, false)) << 13;
    }
    case Number::f32:
      return bitCast<uint32_t>(toSingle(value, c.rounding));
    default:
      return bitCast<uint64_t>(value);
  }
}

uint64_t integerToFloat(const Conversion& c, __int128 value) {
  if (c.to == Number::f16 || c.to == Number::bf16) {
    // Rounded once: what a double can't hold goes into a sticky last bit.
    const bool negative = value < 0;
    uint64_t magnitude = static_cast<uint64_t>(negative ? -value : value);
    double scale = 1;
    if (magnitude >> 53) {
      magnitude = magnitude >> 11 | ((magnitude & 0x7ff) != 0);
      scale = 0x1p11;
    }
    return writeFloat(c, static_cast<double>(magnitude) * (negative ? -scale : scale));
  }
  // A 64-bit integer need not be exact as a double: round it in the wanted mode right away.
  const RoundingScope scope(c.rounding);
  volatile long long signedValue = static_cast<long long>(value);
  volatile unsigned long long unsignedValue = static_cast<unsigned long long>(value);
  if (c.to == Number::f32) {
    volatile float result;
    if (value < 0)
      result = static_cast<float>(static_cast<long long>(signedValue));
    else
      result = static_cast<float>(static_cast<unsigned long long>(unsignedValue));
    return bitCast<uint32_t>(static_cast<float>(result));
  }
  volatile double result;
  if (value < 0)
    result = static_cast<double>(static_cast<long long>(signedValue));
  else
    result = static_cast<double>(static_cast<unsigned long long>(unsignedValue));
  return writeFloat(c, static_cast<double>(result));
}

uint64_t convert(const Conversion& c, const uint8_t* at) {
  if (!isFloat(c.from)) {
    const __int128 value = readInteger(c.from, at);
    return isFloat(c.to) ? integerToFloat(c, value) : toIntegerBits(c.to, value, c.saturate);
  }
  double value = readFloat(c.from, at);
  if (c.flush && (c.from == Number::f32 || c.from == Number::bf16)) value = flushSingle(value);
  if (!isFloat(c.to)) return floatToInteger(c.to, value, c.rounding);
  if (c.toInteger) value = roundToIntegral(value, c.rounding);
  if (c.saturate) value = value > 0 ? (value < 1 ? value : 1) : 0;
  if (c.relu && value < 0) value = 0;
  Conversion rounding = c;
  if (c.toInteger) rounding.rounding = Rounding::nearestEven;
  uint64_t bits = writeFloat(rounding, value);
  if (c.flush && c.to == Number::f32 && (bits & 0x7f800000) == 0) bits &= 0x80000000;
  return bits;
}

// Registers may be wider than the types: `elementBytes` and `vector` hold the strides of destination and
// source.
void executeConvert(Warp& warp, const Inst& inst, Mask mask) {
  const Conversion c = Conversion::unpack(inst.immediate);
  const uint8_t* source = warp.rows + inst.op[1];
  uint8_t* destination = warp.rows + inst.op[0];
  const uint32_t to = inst.elementBytes, from = inst.vector;
  const int unused = 64 - 8 * bytesOfNumber(c.to);
  forLanes(mask, [&](int lane) {
    uint64_t bits = convert(c, source + lane * from);
    // A wider destination gets the sign or zeros.
    if (unused)
      bits = isSigned(c.to) ? static_cast<uint64_t>(static_cast<int64_t>(bits << unused) >> unused)
                            : bits << unused >> unused;
    std::memcpy(destination + lane * to, &bits, to);
  });
}

// Two sources into one packed destination: the first goes to the upper half.
void executePackedConvert(Warp& warp, const Inst& inst, Mask mask) {
  const Conversion c = Conversion::unpack(inst.immediate);
  uint32_t* d = warp.row<uint32_t>(inst.op[0]);
  forLanes(mask, [&](int lane) {
    const uint64_t high = convert(c, warp.rows + inst.op[1] + lane * 4);
    const uint64_t low = convert(c, warp.rows + inst.op[2] + lane * 4);
    d[lane] = static_cast<uint32_t>(low & 0xffff) | static_cast<uint32_t>(high) << 16;
  });
}

// -- common conversions
// ---------------------------------------------------------------------------------------------

using Key = std::pair<Number, Number>;

template <class D, class A>
void addPlain(std::map<Key, Execute>& table, Number to, Number from) {
  table[{to, from}] = elementwise<D, A>([](A a) { return static_cast<D>(a); }).execute;
}

template <class D>
void addIntegersTo(std::map<Key, Execute>& table, Number to) {
  addPlain<D, uint16_t>(table, to, Number::u16);
  addPlain<D, int16_t>(table, to, Number::s16);
  addPlain<D, uint32_t>(table, to, Number::u32);
  addPlain<D, int32_t>(table, to, Number::s32);
  addPlain<D, uint64_t>(table, to, Number::u64);
  addPlain<D, int64_t>(table, to, Number::s64);
}

inline uint32_t bfloatBits(float x) {
  const uint32_t bits = bitCast<uint32_t>(x);
  return x != x ? 0x7fffu : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Conversions to nearest without further modifiers.
const std::map<Key, Execute>& plainConversions() {
  static const std::map<Key, Execute> table = [] {
    std::map<Key, Execute> conversions;
    addIntegersTo<uint16_t>(conversions, Number::u16);
    addIntegersTo<uint16_t>(conversions, Number::s16);
    addIntegersTo<uint32_t>(conversions, Number::u32);
    addIntegersTo<uint32_t>(conversions, Number::s32);
    addIntegersTo<uint64_t>(conversions, Number::u64);
    addIntegersTo<uint64_t>(conversions, Number::s64);
    addPlain<float, int32_t>(conversions, Number::f32, Number::s32);
    addPlain<float, uint32_t>(conversions, Number::f32, Number::u32);
    addPlain<double, int32_t>(conversions, Number::f64, Number::s32);
    addPlain<double, uint32_t>(conversions, Number::f64, Number::u32);
    addPlain<double, float>(conversions, Number::f64, Number::f32);
    addPlain<float, double>(conversions, Number::f32, Number::f64);
    conversions[{Number::f32, Number::bf16}] =
        elementwise<uint32_t, uint16_t>([](uint16_t a) { return uint32_t(a) << 16; }).execute;
    conversions[{Number::f32, Number::f16}] =
        elementwise<float, uint16_t>([](uint16_t a) { return _cvtsh_ss(a); }).execute;
    conversions[{Number::bf16, Number::f32}] =
        elementwise<uint16_t, float>([](float a) { return bfloatBits(a); }).execute;
    return conversions;
  }();
  return table;
}

Rounding takeRounding(Decoder& decoder, bool& given, bool& toInteger) {
  const std::string name = decoder.takeAny({"rni", "rzi", "rmi", "rpi", "rn", "rz", "rm", "rp", "rna"});
  given = !name.empty();
  toInteger = name.size() == 3 && name.back() == 'i';
  if (name == "rna") return Rounding::nearestAway;
  if (name.empty() || name[1] == 'n') return Rounding::nearestEven;
  return name[1] == 'z' ? Rounding::zero : name[1] == 'm' ? Rounding::down : Rounding::up;
}

bool decodePacked(Decoder& decoder, const std::string& to, Conversion c) {
  const std::string from = decoder.takeType();
  decoder.allTaken();
  if (from != "f32" || decoder.operandCount() != 3) decoder.unsupported();
  c.to = to == "bf16x2" ? Number::bf16 : Number::f16;
  c.from = Number::f32;
  decoder.destination(decoder.operand(0), OperandType::bits32);
  decoder.source(decoder.operand(1), OperandType::float32);
  decoder.source(decoder.operand(2), OperandType::float32);
  decoder.inst.immediate = c.pack();
  decoder.inst.execute = executePackedConvert;
  static const Form pair = elementwise<uint32_t, float, float>(
      [](float a, float b) { return bfloatBits(a) << 16 | bfloatBits(b); });
  if (to == "bf16x2" && c.rounding == Rounding::nearestEven && !c.relu && !c.saturate)
    decoder.inst.execute = pair.execute;
  return true;
}

}  // namespace

bool decodeConvert(Decoder& decoder) {
  if (decoder.base() != "cvt") return false;
  Inst& inst = decoder.inst;
  inst.category = Category::conversion;
  inst.propagate = propagateAny;
  Conversion c;
  bool roundingGiven;
  c.rounding = takeRounding(decoder, roundingGiven, c.toInteger);
  c.flush = decoder.take("ftz");
  c.saturate = decoder.take("sat");
  c.relu = decoder.take("relu");
  if (decoder.take("satfinite")) decoder.unsupported("satfinite");
  const std::string to = decoder.takeType();
  if (to == "bf16x2" || to == "f16x2") return decodePacked(decoder, to, c);
  const std::string from = decoder.takeType();
  decoder.allTaken();
  if (!numberOf(to, c.to) || !numberOf(from, c.from) || decoder.operandCount() != 2) decoder.unsupported();
  const uint8_t toBytes = bytesOfNumber(c.to), fromBytes = bytesOfNumber(c.from);
  const uint8_t d = decoder.anyDestination(decoder.operand(0), toBytes);
  OperandType sourceType = bitsType(fromBytes);
  if (c.from == Number::f32) sourceType = OperandType::float32;
  if (c.from == Number::f64) sourceType = OperandType::float64;
  const uint8_t s = decoder.anySource(decoder.operand(1), sourceType);
  inst.elementBytes = decoder.rowBytes(d);
  inst.vector = decoder.rowBytes(s);
  inst.immediate = c.pack();
  inst.execute = executeConvert;
  const bool exactRows = inst.elementBytes == toBytes && inst.vector == fromBytes;
  const bool plain =
      c.rounding == Rounding::nearestEven && !c.toInteger && !c.flush && !c.saturate && !c.relu;
  const auto found = plainConversions().find({c.to, c.from});
  if (exactRows && plain && found != plainConversions().end()) inst.execute = found->second;
  // A register's low bytes are defined even where its upper ones are not.
  if (!isFloat(c.to) && !isFloat(c.from) && toBytes <= fromBytes && !c.saturate) {
    inst.propagate = propagateLowBytes;
    inst.flag = toBytes;
  }
  return true;
}

}  // namespace ptxemu
