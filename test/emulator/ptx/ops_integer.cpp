// Integer arithmetic: add to dot products. All functions are total, as lanes outside the mask compute too.
#include <limits>

#include "elementwise.h"

namespace ptxemu {
namespace {

template <class T>
using Wide = std::conditional_t<
    sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

template <class T>
T divide(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if (std::is_signed_v<T> && b == static_cast<T>(-1))
    return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a));
  return static_cast<T>(a / b);
}

template <class T>
T remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}

template <class T>
T saturate(int64_t value) {
  if (value > std::numeric_limits<T>::max()) return std::numeric_limits<T>::max();
  if (value < std::numeric_limits<T>::min()) return std::numeric_limits<T>::min();
  return static_cast<T>(value);
}

// Forms of every integer type T, named ".s32" and so on.
template <class T>
void addTyped(FormTable& table, const std::string& type) {
  using U = std::make_unsigned_t<T>;
  // Wrapping arithmetic in an unsigned type no narrower than int, where overflow is defined.
  using A = std::conditional_t<sizeof(T) == 2, uint32_t, U>;
  const Category integer = Category::integer;
  table.add("add." + type, integer,
            elementwise<U, U, U>([](U a, U b) { return static_cast<U>(A(a) + A(b)); }));
  table.add("sub." + type, integer,
            elementwise<U, U, U>([](U a, U b) { return static_cast<U>(A(a) - A(b)); }));
  table.add("mul.lo." + type, integer,
            elementwise<U, U, U>([](U a, U b) { return static_cast<U>(A(a) * A(b)); }));
  table.add("mul.hi." + type, integer, elementwise<T, T, T>([](T a, T b) {
              return static_cast<T>((static_cast<Wide<T>>(a) * b) >> sizeof(T) * 8);
            }));
  table.add("mad.lo." + type, integer,
            elementwise<U, U, U, U>([](U a, U b, U c) { return static_cast<U>(A(a) * A(b) + A(c)); }));
  table.add("mad.hi." + type, integer, elementwise<T, T, T, T>([](T a, T b, T c) {
              return static_cast<T>(static_cast<U>((static_cast<Wide<T>>(a) * b) >> sizeof(T) * 8) +
                                    static_cast<U>(c));
            }));
  if constexpr (sizeof(T) <= 4) {
    using W = Wide<T>;
    using UW = std::make_unsigned_t<W>;
    table.add("mul.wide." + type, integer, elementwise<W, T, T>([](T a, T b) {
                return static_cast<W>(static_cast<W>(a) * static_cast<W>(b));
              }));
    table.add(
        "mad.wide." + type, integer, elementwise<W, T, T, W>([](T a, T b, W c) {
          return static_cast<W>(static_cast<UW>(static_cast<W>(a) * static_cast<W>(b)) + static_cast<UW>(c));
        }));
  }
  table.add("div." + type, integer, elementwise<T, T, T>([](T a, T b) { return divide(a, b); }));
  table.add("rem." + type, integer, elementwise<T, T, T>([](T a, T b) { return remainder(a, b); }));
  table.add("min." + type, integer, elementwise<T, T, T>([](T a, T b) { return a < b ? a : b; }));
  table.add("max." + type, integer, elementwise<T, T, T>([](T a, T b) { return a > b ? a : b; }));
  table.add("sad." + type, integer, elementwise<U, T, T, U>([](T a, T b, U c) {
              return static_cast<U>(A(c) + (a < b ? A(U(b)) - A(U(a)) : A(U(a)) - A(U(b))));
            }));
  if constexpr (std::is_signed_v<T>) {
    table.add("neg." + type, integer, elementwise<U, U>([](U a) { return static_cast<U>(A(0) - A(a)); }));
    table.add("abs." + type, integer, elementwise<U, U>([](U a) {
                return static_cast<U>(static_cast<T>(a) < 0 ? A(0) - A(a) : A(a));
              }));
  }
}

// Carries: .cc forms write the hidden carry register, addc, subc and madc read it.
struct CarryForm {
  bool reads = false, writes = false;
};

template <class U>
void executeCarry(Warp& warp, const Inst& inst, Mask mask) {
  // op: destination, [carry out], a, b, [c], [carry in]; immediate: which operation.
  enum { kSub = 1, kMulLow = 2, kMulHigh = 4, kReads = 8, kWrites = 16 };
  const int64_t what = inst.immediate;
  U* d = warp.row<U>(inst.op[0]);
  const uint32_t* sources = inst.op + inst.destinations;
  const U *a = warp.row<U>(sources[0]), *b = warp.row<U>(sources[1]);
  const bool isMul = what & (kMulLow | kMulHigh);
  const U* c = isMul ? warp.row<U>(sources[2]) : nullptr;
  const Mask carryIn = what & kReads ? warp.predicate(sources[isMul ? 3 : 2]) : 0;
  Mask carryOut = 0;
  forLanes(mask, [&](int lane) {
    const unsigned carry = carryIn >> lane & 1;
    U x = a[lane], y = b[lane];
    if (isMul) {
      const unsigned __int128 product = static_cast<unsigned __int128>(x) * y;
      x = static_cast<U>(what & kMulHigh ? product >> sizeof(U) * 8 : product);
      y = c[lane];
    }
    if (what & kSub) {
      const unsigned __int128 taken = static_cast<unsigned __int128>(y) + carry;
      carryOut |= Mask(taken > x) << lane;
      d[lane] = static_cast<U>(x - taken);
    } else {
      const unsigned __int128 sum = static_cast<unsigned __int128>(x) + y + carry;
      carryOut |= Mask(static_cast<U>(sum >> sizeof(U) * 8) & 1) << lane;
      d[lane] = static_cast<U>(sum);
    }
  });
  if (what & kWrites) warp.setPredicate(inst.op[1], carryOut, mask);
}

}  // namespace

void addIntegerForms(FormTable& table) {
  addTyped<int16_t>(table, "s16");
  addTyped<uint16_t>(table, "u16");
  addTyped<int32_t>(table, "s32");
  addTyped<uint32_t>(table, "u32");
  addTyped<int64_t>(table, "s64");
  addTyped<uint64_t>(table, "u64");
  const Category integer = Category::integer;
  table.add("add.sat.s32", integer, elementwise<int32_t, int32_t, int32_t>([](int32_t a, int32_t b) {
              return saturate<int32_t>(int64_t(a) + b);
            }));
  table.add("sub.sat.s32", integer, elementwise<int32_t, int32_t, int32_t>([](int32_t a, int32_t b) {
              return saturate<int32_t>(int64_t(a) - b);
            }));
  table.add("mad.hi.sat.s32", integer,
            elementwise<int32_t, int32_t, int32_t, int32_t>([](int32_t a, int32_t b, int32_t c) {
              return saturate<int32_t>((int64_t(a) * b >> 32) + c);
            }));
  // 24-bit products: the operands' low 24 bits, extended.
  table.add("mul24.lo.s32", integer, elementwise<int32_t, int32_t, int32_t>([](int32_t a, int32_t b) {
              return static_cast<int32_t>(int64_t(static_cast<int32_t>(uint32_t(a) << 8) >> 8) *
                                          (static_cast<int32_t>(uint32_t(b) << 8) >> 8));
            }));
  table.add("mul24.lo.u32", integer, elementwise<uint32_t, uint32_t, uint32_t>([](uint32_t a, uint32_t b) {
              return (a & 0xffffff) * (b & 0xffffff);
            }));
  table.add("mad24.lo.s32", integer,
            elementwise<int32_t, int32_t, int32_t, int32_t>([](int32_t a, int32_t b, int32_t c) {
              return static_cast<int32_t>(int64_t(static_cast<int32_t>(uint32_t(a) << 8) >> 8) *
                                              (static_cast<int32_t>(uint32_t(b) << 8) >> 8) +
                                          c);
            }));
  table.add("mad24.lo.u32", integer,
            elementwise<uint32_t, uint32_t, uint32_t, uint32_t>(
                [](uint32_t a, uint32_t b, uint32_t c) { return (a & 0xffffff) * (b & 0xffffff) + c; }));
  // Packed 16-bit integers.
  auto packed = [&](const std::string& name, auto combine, auto element) {
    using T = decltype(element);
    static const auto apply = combine;
    table.add(name, integer, elementwise<uint32_t, uint32_t, uint32_t>([](uint32_t a, uint32_t b) {
                const T low = apply(static_cast<T>(a), static_cast<T>(b));
                const T high = apply(static_cast<T>(a >> 16), static_cast<T>(b >> 16));
                return static_cast<uint32_t>(static_cast<uint16_t>(low)) |
                       uint32_t(static_cast<uint16_t>(high)) << 16;
              }));
  };
  packed(
      "add.u16x2", [](uint16_t a, uint16_t b) { return static_cast<uint16_t>(a + b); }, uint16_t());
  packed(
      "add.s16x2", [](int16_t a, int16_t b) { return static_cast<int16_t>(a + b); }, int16_t());
  packed(
      "min.u16x2", [](uint16_t a, uint16_t b) { return a < b ? a : b; }, uint16_t());
  packed(
      "max.u16x2", [](uint16_t a, uint16_t b) { return a > b ? a : b; }, uint16_t());
  packed(
      "min.s16x2", [](int16_t a, int16_t b) { return a < b ? a : b; }, int16_t());
  packed(
      "max.s16x2", [](int16_t a, int16_t b) { return a > b ? a : b; }, int16_t());
  table.add("min.relu.s32", integer, elementwise<int32_t, int32_t, int32_t>([](int32_t a, int32_t b) {
              const int32_t least = a < b ? a : b;
              return least < 0 ? 0 : least;
            }));
  table.add("max.relu.s32", integer, elementwise<int32_t, int32_t, int32_t>([](int32_t a, int32_t b) {
              const int32_t most = a > b ? a : b;
              return most < 0 ? 0 : most;
            }));
  // Dot products of bytes, and of bytes with halves.
  auto dot = [&](const std::string& name, auto first, auto second, auto sum) {
    using A = decltype(first);
    using B = decltype(second);
    using C = decltype(sum);
    table.add("dp4a." + name, integer, elementwise<C, uint32_t, uint32_t, C>([](uint32_t a, uint32_t b, C c) {
                uint32_t total = static_cast<uint32_t>(c);
                for (int i = 0; i < 4; i++) {
                  total += static_cast<uint32_t>(int32_t(static_cast<A>(a >> 8 * i)) *
                                                 int32_t(static_cast<B>(b >> 8 * i)));
                }
                return static_cast<C>(total);
              }));
    using H = std::conditional_t<std::is_signed_v<A>, int16_t, uint16_t>;
    table.add("dp2a.lo." + name, integer,
              elementwise<C, uint32_t, uint32_t, C>([](uint32_t a, uint32_t b, C c) {
                uint32_t total = static_cast<uint32_t>(c);
                for (int i = 0; i < 2; i++) {
                  total += static_cast<uint32_t>(int32_t(static_cast<H>(a >> 16 * i)) *
                                                 int32_t(static_cast<B>(b >> 8 * i)));
                }
                return static_cast<C>(total);
              }));
    table.add("dp2a.hi." + name, integer,
              elementwise<C, uint32_t, uint32_t, C>([](uint32_t a, uint32_t b, C c) {
                uint32_t total = static_cast<uint32_t>(c);
                for (int i = 0; i < 2; i++) {
                  total += static_cast<uint32_t>(int32_t(static_cast<H>(a >> 16 * i)) *
                                                 int32_t(static_cast<B>(b >> (16 + 8 * i))));
                }
                return static_cast<C>(total);
              }));
  };
  dot("u32.u32", uint8_t(), uint8_t(), uint32_t());
  dot("s32.s32", int8_t(), int8_t(), int32_t());
  dot("s32.u32", int8_t(), uint8_t(), int32_t());
  dot("u32.s32", uint8_t(), int8_t(), int32_t());
}

bool decodeCarry(Decoder& decoder) {
  const std::string base = decoder.base();
  const bool reads = base == "addc" || base == "subc" || base == "madc";
  const bool isAddSub = base == "add" || base == "sub" || base == "addc" || base == "subc";
  if (!reads && !((isAddSub || base == "mad") && decoder.opcode().find(".cc.") != std::string::npos))
    return false;
  const bool writes = decoder.take("cc");
  const bool low = decoder.take("lo"), high = decoder.take("hi");
  const std::string type = decoder.takeType();
  decoder.allTaken();
  const int bytes = typeBytes(type);
  const bool signedHigh = high && type[0] == 's';
  if ((bytes != 4 && bytes != 8) || signedHigh || isAddSub == (low || high)) decoder.unsupported();
  decoder.destination(decoder.operand(0), bitsType(bytes));
  if (writes) decoder.destinationRow(decoder.context().carryRow);
  for (size_t i = 1; i < (isAddSub ? 3u : 4u); i++) decoder.source(decoder.operand(i), bitsType(bytes));
  if (reads) decoder.sourceRow(decoder.context().carryRow);
  const bool isSub = base == "sub" || base == "subc";
  decoder.inst.immediate =
      (isSub ? 1 : 0) | (low ? 2 : 0) | (high ? 4 : 0) | (reads ? 8 : 0) | (writes ? 16 : 0);
  decoder.inst.execute = bytes == 4 ? executeCarry<uint32_t> : executeCarry<uint64_t>;
  decoder.inst.propagate = propagateAny;
  decoder.inst.category = Category::integer;
  return true;
}

}  // namespace ptxemu
