// Logic, shifts and bit fields.
#include <algorithm>

#include "elementwise.h"

namespace ptxemu {
namespace {

uint32_t reverseBits(uint32_t x) {
  x = __builtin_bswap32(x);
  x = (x >> 4 & 0x0f0f0f0f) | (x & 0x0f0f0f0f) << 4;
  x = (x >> 2 & 0x33333333) | (x & 0x33333333) << 2;
  return (x >> 1 & 0x55555555) | (x & 0x55555555) << 1;
}
uint64_t reverseBits(uint64_t x) {
  return uint64_t(reverseBits(static_cast<uint32_t>(x))) << 32 | reverseBits(static_cast<uint32_t>(x >> 32));
}

template <class U>
int leadingZeros(U x) {
  if (x == 0) return sizeof(U) * 8;
  return sizeof(U) == 8 ? __builtin_clzll(x) : __builtin_clz(static_cast<uint32_t>(x));
}

// bfind: the highest bit that differs from the sign, or 0xffffffff.
template <class T>
uint32_t findHighest(T value) {
  using U = std::make_unsigned_t<T>;
  const U bits = static_cast<U>(value < 0 ? ~value : value);
  return bits == 0 ? 0xffffffffu : static_cast<uint32_t>(sizeof(T) * 8 - 1 - leadingZeros(bits));
}

// bfe: `length` bits from `position`, extended by the field's top bit for signed types, which beyond the
// word's end is its own sign bit.
template <class T>
T extractField(T value, uint32_t position, uint32_t length) {
  using U = std::make_unsigned_t<T>;
  constexpr uint32_t kBits = sizeof(T) * 8;
  position &= 255, length &= 255;
  if (length == 0) return 0;
  const bool sign =
      std::is_signed_v<T> && (static_cast<U>(value) >> std::min(position + length - 1, kBits - 1) & 1);
  U field = position >= kBits ? U(sign ? ~U(0) : 0) : static_cast<U>(value) >> position;
  const uint32_t available = position >= kBits ? 0 : kBits - position;
  const uint32_t kept = std::min(length, available);
  if (kept < kBits) {
    const U mask = (U(1) << kept) - 1;
    field = sign ? U(field | ~mask) : U(field & mask);
  }
  return static_cast<T>(field);
}

template <class U>
U insertField(U field, U into, uint32_t position, uint32_t length) {
  constexpr uint32_t kBits = sizeof(U) * 8;
  position &= 255, length &= 255;
  if (position >= kBits || length == 0) return into;
  const U ones = length >= kBits ? ~U(0) : (U(1) << length) - 1;
  const U mask = ones << position;
  return (into & ~mask) | (field << position & mask);
}

// prmt with its default and special modes: each selector nibble picks one of eight bytes, or its sign.
uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t nibble = selector >> 4 * i & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (nibble & 7)) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << 8 * i;
  }
  return result;
}

template <class F>
Form permuteMode(F selectorOf) {
  static const F selector = selectorOf;
  return elementwise<uint32_t, uint32_t, uint32_t, uint32_t>(
      [](uint32_t a, uint32_t b, uint32_t c) { return permute(a, b, selector(c & 3)); });
}

template <class U>
void addBitwise(FormTable& table, const std::string& type) {
  const Category integer = Category::integer;
  auto bytewise = [](Form form) {
    form.propagate = propagateBytewise;
    return form;
  };
  table.add("and." + type, integer,
            bytewise(elementwise<U, U, U>([](U a, U b) { return static_cast<U>(a & b); })));
  table.add("or." + type, integer,
            bytewise(elementwise<U, U, U>([](U a, U b) { return static_cast<U>(a | b); })));
  table.add("xor." + type, integer,
            bytewise(elementwise<U, U, U>([](U a, U b) { return static_cast<U>(a ^ b); })));
  table.add("not." + type, integer, bytewise(elementwise<U, U>([](U a) { return static_cast<U>(~a); })));
  table.add("cnot." + type, integer, elementwise<U, U>([](U a) { return static_cast<U>(a == 0); }));
  table.add("shl." + type, integer, elementwise<U, U, uint32_t>([](U a, uint32_t b) {
              return static_cast<U>(b >= sizeof(U) * 8 ? 0 : a << b);
            }));
}

template <class T>
void addShiftRight(FormTable& table, const std::string& type) {
  table.add("shr." + type, Category::integer, elementwise<T, T, uint32_t>([](T a, uint32_t b) {
              constexpr uint32_t kLast = sizeof(T) * 8 - 1;
              if (std::is_signed_v<T>) return static_cast<T>(a >> (b > kLast ? kLast : b));
              return static_cast<T>(b > kLast ? 0 : a >> b);
            }));
}

// Predicate logic works on whole masks.
template <class F>
Form predicateForm(F function, size_t sources) {
  static const F apply = function;
  Form form;
  form.execute = [](Warp& warp, const Inst& inst, Mask mask) {
    const Mask a = warp.predicate(inst.op[1]);
    const Mask b = inst.sources > 1 ? warp.predicate(inst.op[2]) : 0;
    warp.setPredicate(inst.op[0], apply(a, b), mask);
  };
  form.propagate = propagateAny;
  form.destinations = {OperandType::predicate};
  form.sources.assign(sources, OperandType::predicate);
  return form;
}

void executeLop3(Warp& warp, const Inst& inst, Mask mask) {
  uint32_t* d = warp.row<uint32_t>(inst.op[0]);
  const uint32_t *a = warp.row<uint32_t>(inst.op[1]), *b = warp.row<uint32_t>(inst.op[2]),
                 *c = warp.row<uint32_t>(inst.op[3]);
  const int64_t table = inst.immediate;
  for (int lane = 0; lane < kLanes; lane++) {
    uint32_t value = 0;
    for (int row = 0; row < 8; row++) {
      if (!(table >> row & 1)) continue;
      value |=
          (row & 4 ? a[lane] : ~a[lane]) & (row & 2 ? b[lane] : ~b[lane]) & (row & 1 ? c[lane] : ~c[lane]);
    }
    d[lane] = (mask >> lane & 1) ? value : d[lane];
  }
}

}  // namespace

void addBitForms(FormTable& table) {
  const Category integer = Category::integer;
  addBitwise<uint16_t>(table, "b16");
  addBitwise<uint32_t>(table, "b32");
  addBitwise<uint64_t>(table, "b64");
  addShiftRight<uint16_t>(table, "b16");
  addShiftRight<uint16_t>(table, "u16");
  addShiftRight<int16_t>(table, "s16");
  addShiftRight<uint32_t>(table, "b32");
  addShiftRight<uint32_t>(table, "u32");
  addShiftRight<int32_t>(table, "s32");
  addShiftRight<uint64_t>(table, "b64");
  addShiftRight<uint64_t>(table, "u64");
  addShiftRight<int64_t>(table, "s64");
  table.add("and.pred", integer, predicateForm([](Mask a, Mask b) { return a & b; }, 2));
  table.add("or.pred", integer, predicateForm([](Mask a, Mask b) { return a | b; }, 2));
  table.add("xor.pred", integer, predicateForm([](Mask a, Mask b) { return a ^ b; }, 2));
  table.add("not.pred", integer, predicateForm([](Mask a, Mask) { return ~a; }, 1));
  table.add("mov.pred", integer, predicateForm([](Mask a, Mask) { return a; }, 1));

  table.add("popc.b32", integer,
            elementwise<uint32_t, uint32_t>([](uint32_t a) { return __builtin_popcount(a); }));
  table.add("popc.b64", integer,
            elementwise<uint32_t, uint64_t>([](uint64_t a) { return __builtin_popcountll(a); }));
  table.add("clz.b32", integer, elementwise<uint32_t, uint32_t>([](uint32_t a) { return leadingZeros(a); }));
  table.add("clz.b64", integer, elementwise<uint32_t, uint64_t>([](uint64_t a) { return leadingZeros(a); }));
  table.add("brev.b32", integer, elementwise<uint32_t, uint32_t>([](uint32_t a) { return reverseBits(a); }));
  table.add("brev.b64", integer, elementwise<uint64_t, uint64_t>([](uint64_t a) { return reverseBits(a); }));
  auto findForms = [&](const std::string& type, auto sample) {
    using T = decltype(sample);
    table.add("bfind." + type, integer, elementwise<uint32_t, T>([](T a) { return findHighest(a); }));
    table.add("bfind.shiftamt." + type, integer, elementwise<uint32_t, T>([](T a) {
                const uint32_t highest = findHighest(a);
                return highest == 0xffffffffu ? highest : static_cast<uint32_t>(sizeof(T) * 8 - 1) - highest;
              }));
    table.add("bfe." + type, integer,
              elementwise<T, T, uint32_t, uint32_t>(
                  [](T a, uint32_t position, uint32_t length) { return extractField(a, position, length); }));
  };
  findForms("u32", uint32_t());
  findForms("s32", int32_t());
  findForms("u64", uint64_t());
  findForms("s64", int64_t());
  table.add("bfi.b32", integer,
            elementwise<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>(
                [](uint32_t a, uint32_t b, uint32_t position, uint32_t length) {
                  return insertField(a, b, position, length);
                }));
  table.add("bfi.b64", integer,
            elementwise<uint64_t, uint64_t, uint64_t, uint32_t, uint32_t>(
                [](uint64_t a, uint64_t b, uint32_t position, uint32_t length) {
                  return insertField(a, b, position, length);
                }));
  table.add("bmsk.clamp.b32", integer, elementwise<uint32_t, uint32_t, uint32_t>([](uint32_t a, uint32_t b) {
              if (a > 31) return 0u;
              return (b > 31 ? ~0u : (1u << b) - 1) << a;
            }));
  table.add("bmsk.wrap.b32", integer, elementwise<uint32_t, uint32_t, uint32_t>([](uint32_t a, uint32_t b) {
              return ((1u << (b & 31)) - 1) << (a & 31);
            }));
  table.add("szext.clamp.s32", integer, elementwise<int32_t, int32_t, uint32_t>([](int32_t a, uint32_t b) {
              if (b >= 32) return a;
              return b == 0 ? 0 : static_cast<int32_t>(uint32_t(a) << (32 - b)) >> (32 - b);
            }));
  table.add("szext.clamp.u32", integer, elementwise<uint32_t, uint32_t, uint32_t>([](uint32_t a, uint32_t b) {
              return b >= 32 ? a : a & ((1u << b) - 1);
            }));
  table.add("szext.wrap.s32", integer, elementwise<int32_t, int32_t, uint32_t>([](int32_t a, uint32_t b) {
              b &= 31;
              return b == 0 ? 0 : static_cast<int32_t>(uint32_t(a) << (32 - b)) >> (32 - b);
            }));
  table.add("szext.wrap.u32", integer, elementwise<uint32_t, uint32_t, uint32_t>([](uint32_t a, uint32_t b) {
              return a & ((1u << (b & 31)) - 1);
            }));
  // Funnel shifts of the 64 bits b:a.
  using Funnel = uint32_t;
  table.add("shf.l.clamp.b32", integer,
            elementwise<Funnel, Funnel, Funnel, Funnel>([](uint32_t a, uint32_t b, uint32_t c) {
              const uint32_t n = c > 32 ? 32 : c;
              return static_cast<uint32_t>(((uint64_t(b) << 32 | a) << n) >> 32);
            }));
  table.add("shf.l.wrap.b32", integer,
            elementwise<Funnel, Funnel, Funnel, Funnel>([](uint32_t a, uint32_t b, uint32_t c) {
              return static_cast<uint32_t>(((uint64_t(b) << 32 | a) << (c & 31)) >> 32);
            }));
  table.add("shf.r.clamp.b32", integer,
            elementwise<Funnel, Funnel, Funnel, Funnel>([](uint32_t a, uint32_t b, uint32_t c) {
              const uint32_t n = c > 32 ? 32 : c;
              return static_cast<uint32_t>((uint64_t(b) << 32 | a) >> n);
            }));
  table.add("shf.r.wrap.b32", integer,
            elementwise<Funnel, Funnel, Funnel, Funnel>([](uint32_t a, uint32_t b, uint32_t c) {
              return static_cast<uint32_t>((uint64_t(b) << 32 | a) >> (c & 31));
            }));
  table.add("prmt.b32", integer,
            elementwise<uint32_t, uint32_t, uint32_t, uint32_t>(
                [](uint32_t a, uint32_t b, uint32_t c) { return permute(a, b, c); }));
  table.add("prmt.b32.f4e", integer, permuteMode([](uint32_t c) { return 0x3210u + 0x1111u * c; }));
  table.add("prmt.b32.b4e", integer, permuteMode([](uint32_t c) {
              uint32_t selector = 0;
              for (uint32_t i = 0; i < 4; i++) selector |= ((c + 8 - i) & 7) << 4 * i;
              return selector;
            }));
  table.add("prmt.b32.rc8", integer, permuteMode([](uint32_t c) { return 0x1111u * c; }));
  table.add("prmt.b32.ecl", integer, permuteMode([](uint32_t c) {
              uint32_t selector = 0;
              for (uint32_t i = 0; i < 4; i++) selector |= std::max(i, c) << 4 * i;
              return selector;
            }));
  table.add("prmt.b32.ecr", integer, permuteMode([](uint32_t c) {
              uint32_t selector = 0;
              for (uint32_t i = 0; i < 4; i++) selector |= std::min(i, c) << 4 * i;
              return selector;
            }));
  table.add("prmt.b32.rc16", integer, permuteMode([](uint32_t c) { return c & 1 ? 0x3232u : 0x1010u; }));
}

bool decodeLop3(Decoder& decoder) {
  if (decoder.opcode() != "lop3.b32") return false;
  decoder.destination(decoder.operand(0), OperandType::bits32);
  for (size_t i = 1; i <= 3; i++) decoder.source(decoder.operand(i), OperandType::bits32);
  decoder.inst.immediate = decoder.constantOf(decoder.operand(4));
  decoder.inst.execute = executeLop3;
  decoder.inst.propagate = propagateBytewise;
  decoder.inst.category = Category::integer;
  return true;
}

}  // namespace ptxemu
