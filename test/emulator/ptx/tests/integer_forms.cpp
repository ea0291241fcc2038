// Models of integer, bit and move forms, in 128-bit arithmetic.
#include "forms.h"

namespace ptxtest {
namespace {

using Int = __int128;

struct IntegerType {
  std::string name;
  int bits;
  bool isSigned;
};
const std::vector<IntegerType>& integerTypes() {
  static const std::vector<IntegerType> types = {{"s16", 16, true},  {"u16", 16, false}, {"s32", 32, true},
                                                 {"u32", 32, false}, {"s64", 64, true},  {"u64", 64, false}};
  return types;
}

Int valueOf(uint64_t bits, const IntegerType& type) {
  const Int whole = Int(1) << type.bits;
  const Int value = Int(bits) % whole;
  return type.isSigned && value >= whole / 2 ? value - whole : value;
}
uint64_t wrap(Int value) { return static_cast<uint64_t>(value); }

// Floor of a * b / 2^bits without overflow of 128 bits: both are below 2^64 in magnitude.
Int highProduct(Int a, Int b, const IntegerType& type) {
  if (type.bits < 64 || type.isSigned) return (a * b) >> type.bits;
  return Int((static_cast<unsigned __int128>(a) * static_cast<unsigned __int128>(b)) >> 64);
}

void checkInteger(const std::string& spelling, const std::function<Int(Int, Int, Int)>& model,
                  const IntegerType& type, Draw draw = Draw::integer) {
  checkForm(spelling, Compare::bits, draw, [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
    return wrap(model(valueOf(a, type), valueOf(b, type), valueOf(c, type)));
  });
}

Int clampTo32(Int value) {
  return value > 0x7fffffff ? 0x7fffffff : value < -Int(0x80000000) ? -Int(0x80000000) : value;
}

const Test arithmetic("integer arithmetic forms", [] {
  for (const IntegerType& type : integerTypes()) {
    const std::string dot = "." + type.name;
    checkInteger(
        "add" + dot, [](Int a, Int b, Int) { return a + b; }, type);
    checkInteger(
        "sub" + dot, [](Int a, Int b, Int) { return a - b; }, type);
    checkInteger(
        "mul.lo" + dot, [](Int a, Int b, Int) { return Int(wrap(a) * wrap(b)); }, type);
    checkInteger(
        "mul.hi" + dot, [&](Int a, Int b, Int) { return highProduct(a, b, type); }, type);
    checkInteger(
        "mad.lo" + dot, [](Int a, Int b, Int c) { return Int(wrap(a) * wrap(b) + wrap(c)); }, type);
    checkInteger(
        "mad.hi" + dot, [&](Int a, Int b, Int c) { return highProduct(a, b, type) + c; }, type);
    if (type.bits < 64) {
      checkInteger(
          "mul.wide" + dot, [](Int a, Int b, Int) { return a * b; }, type);
      const IntegerType wide{"", 2 * type.bits, type.isSigned};
      checkForm("mad.wide" + dot, Compare::bits, Draw::integer,
                [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
                  return wrap(valueOf(a, type) * valueOf(b, type) + valueOf(c, wide));
                });
    }
    checkInteger(
        "div" + dot, [](Int a, Int b, Int) { return b == 0 ? Int(-1) : a / b; }, type, Draw::small);
    checkInteger(
        "rem" + dot, [](Int a, Int b, Int) { return b == 0 ? a : a % b; }, type, Draw::small);
    checkInteger(
        "min" + dot, [](Int a, Int b, Int) { return a < b ? a : b; }, type);
    checkInteger(
        "max" + dot, [](Int a, Int b, Int) { return a < b ? b : a; }, type);
    checkInteger(
        "sad" + dot, [](Int a, Int b, Int c) { return c + (a < b ? b - a : a - b); }, type);
    if (type.isSigned) {
      checkInteger(
          "neg" + dot, [](Int a, Int, Int) { return -a; }, type);
      checkInteger(
          "abs" + dot, [](Int a, Int, Int) { return a < 0 ? -a : a; }, type);
    }
  }
  const IntegerType s32 = integerTypes()[2];
  checkInteger(
      "add.sat.s32", [](Int a, Int b, Int) { return clampTo32(a + b); }, s32);
  checkInteger(
      "sub.sat.s32", [](Int a, Int b, Int) { return clampTo32(a - b); }, s32);
  checkInteger(
      "mad.hi.sat.s32", [](Int a, Int b, Int c) { return clampTo32(((a * b) >> 32) + c); }, s32);
  checkInteger(
      "min.relu.s32", [](Int a, Int b, Int) { return std::max<Int>(0, std::min(a, b)); }, s32);
  checkInteger(
      "max.relu.s32", [](Int a, Int b, Int) { return std::max<Int>(0, std::max(a, b)); }, s32);
  const IntegerType s24{"", 24, true}, u24{"", 24, false};
  checkInteger(
      "mul24.lo.s32", [](Int a, Int b, Int) { return a * b; }, s24);
  checkInteger(
      "mul24.lo.u32", [](Int a, Int b, Int) { return a * b; }, u24);
  checkForm("mad24.lo.s32", Compare::bits, Draw::integer, [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
    return wrap(valueOf(a, s24) * valueOf(b, s24) + Int(c));
  });
  checkForm("mad24.lo.u32", Compare::bits, Draw::integer, [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
    return wrap(valueOf(a, u24) * valueOf(b, u24) + Int(c));
  });
});

const Test packed("packed integer forms and dot products", [] {
  const IntegerType s16 = integerTypes()[0], u16 = integerTypes()[1];
  auto pair = [](const std::string& name, const IntegerType& type,
                 const std::function<Int(Int, Int)>& model) {
    checkForm(name, Compare::bits, Draw::integer, [&](uint64_t a, uint64_t b, uint64_t, uint64_t) {
      uint64_t result = 0;
      for (int shift = 0; shift < 32; shift += 16) {
        result |= (wrap(model(valueOf(a >> shift, type), valueOf(b >> shift, type))) & 0xffff) << shift;
      }
      return result;
    });
  };
  pair("add.u16x2", u16, [](Int a, Int b) { return a + b; });
  pair("add.s16x2", s16, [](Int a, Int b) { return a + b; });
  pair("min.u16x2", u16, [](Int a, Int b) { return std::min(a, b); });
  pair("max.u16x2", u16, [](Int a, Int b) { return std::max(a, b); });
  pair("min.s16x2", s16, [](Int a, Int b) { return std::min(a, b); });
  pair("max.s16x2", s16, [](Int a, Int b) { return std::max(a, b); });
  for (const bool signedA : {false, true}) {
    for (const bool signedB : {false, true}) {
      const IntegerType byteA{"", 8, signedA}, byteB{"", 8, signedB}, halfA{"", 16, signedA};
      const std::string name = std::string(signedA ? ".s32" : ".u32") + (signedB ? ".s32" : ".u32");
      checkForm("dp4a" + name, Compare::bits, Draw::integer,
                [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
                  Int sum = Int(c);
                  for (int i = 0; i < 4; i++) sum += valueOf(a >> 8 * i, byteA) * valueOf(b >> 8 * i, byteB);
                  return wrap(sum);
                });
      for (const int upper : {0, 1}) {
        checkForm((upper ? "dp2a.hi" : "dp2a.lo") + name, Compare::bits, Draw::integer,
                  [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
                    Int sum = Int(c);
                    for (int i = 0; i < 2; i++) {
                      sum += valueOf(a >> 16 * i, halfA) * valueOf(b >> (8 * i + 16 * upper), byteB);
                    }
                    return wrap(sum);
                  });
      }
    }
  }
});

// -- bits
// -----------------------------------------------------------------------------------------------------------

bool bit(uint64_t value, int index) { return index >= 0 && index < 64 && (value >> index & 1); }

uint64_t permuted(uint64_t a, uint64_t b, const int (&bytes)[4]) {
  uint64_t result = 0;
  for (int i = 0; i < 4; i++) result |= ((b << 32 | a) >> 8 * bytes[i] & 255) << 8 * i;
  return result;
}

const Test logic("logic and shift forms", [] {
  for (const int bits : {16, 32, 64}) {
    const std::string type = ".b" + std::to_string(bits);
    auto plain = [&](const std::string& name, const Model& model) {
      checkForm(name + type, Compare::bits, Draw::integer, model);
    };
    plain("and", [](uint64_t a, uint64_t b, uint64_t, uint64_t) { return a & b; });
    plain("or", [](uint64_t a, uint64_t b, uint64_t, uint64_t) { return a | b; });
    plain("xor", [](uint64_t a, uint64_t b, uint64_t, uint64_t) { return a ^ b; });
    plain("not", [](uint64_t a, uint64_t, uint64_t, uint64_t) { return ~a; });
    plain("cnot", [](uint64_t a, uint64_t, uint64_t, uint64_t) { return uint64_t(a == 0); });
    checkForm("shl" + type, Compare::bits, Draw::small, [&](uint64_t a, uint64_t b, uint64_t, uint64_t) {
      uint64_t result = 0;
      for (int i = 0; i < bits; i++)
        result |= uint64_t(int64_t(b) <= i && bit(a, i - static_cast<int>(b))) << i;
      return result;
    });
    for (const std::string kind : {"b", "u", "s"}) {
      checkForm("shr." + kind + std::to_string(bits), Compare::bits, Draw::small,
                [&](uint64_t a, uint64_t b, uint64_t, uint64_t) {
                  uint64_t result = 0;
                  for (int i = 0; i < bits; i++) {
                    const uint64_t from = i + b;
                    const bool value = from < uint64_t(bits) ? bit(a, static_cast<int>(from))
                                                             : kind == "s" && bit(a, bits - 1);
                    result |= uint64_t(value) << i;
                  }
                  return result;
                });
    }
  }
  checkForm("and.pred", Compare::bits, Draw::integer,
            [](uint64_t a, uint64_t b, uint64_t, uint64_t) { return uint64_t(a && b); });
  checkForm("or.pred", Compare::bits, Draw::integer,
            [](uint64_t a, uint64_t b, uint64_t, uint64_t) { return uint64_t(a || b); });
  checkForm("xor.pred", Compare::bits, Draw::integer,
            [](uint64_t a, uint64_t b, uint64_t, uint64_t) { return uint64_t(!a != !b); });
  checkForm("not.pred", Compare::bits, Draw::integer,
            [](uint64_t a, uint64_t, uint64_t, uint64_t) { return uint64_t(!a); });
  checkForm("mov.pred", Compare::bits, Draw::integer,
            [](uint64_t a, uint64_t, uint64_t, uint64_t) { return uint64_t(a != 0); });
});

const Test fields("bit field forms", [] {
  for (const int bits : {32, 64}) {
    const std::string type = ".b" + std::to_string(bits);
    auto one = [&](const std::string& name, const Model& model) {
      checkForm(name + type, Compare::bits, Draw::integer, model);
    };
    one("popc", [&](uint64_t a, uint64_t, uint64_t, uint64_t) {
      uint64_t count = 0;
      for (int i = 0; i < bits; i++) count += bit(a, i);
      return count;
    });
    one("clz", [&](uint64_t a, uint64_t, uint64_t, uint64_t) {
      uint64_t count = 0;
      for (int i = bits - 1; i >= 0 && !bit(a, i); i--) count++;
      return count;
    });
    one("brev", [&](uint64_t a, uint64_t, uint64_t, uint64_t) {
      uint64_t result = 0;
      for (int i = 0; i < bits; i++) result |= uint64_t(bit(a, i)) << (bits - 1 - i);
      return result;
    });
    checkForm("bfi" + type, Compare::bits, Draw::small, [&](uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
      const uint64_t position = c & 255, length = d & 255;
      uint64_t result = b;
      for (uint64_t i = 0; i < length && position + i < uint64_t(bits); i++) {
        const uint64_t place = 1ull << (position + i);
        result = bit(a, static_cast<int>(i)) && i < 64 ? result | place : result & ~place;
      }
      return result;
    });
    for (const bool isSigned : {false, true}) {
      const std::string name = std::string(isSigned ? ".s" : ".u") + std::to_string(bits);
      checkForm("bfe" + name, Compare::bits, Draw::small, [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
        const uint64_t position = b & 255, length = c & 255, top = uint64_t(bits) - 1;
        const bool sign =
            isSigned && length > 0 && bit(a, static_cast<int>(std::min(position + length - 1, top)));
        uint64_t result = 0;
        for (uint64_t i = 0; i < uint64_t(bits); i++) {
          const bool inside = i < length && position + i <= top;
          result |= uint64_t(inside ? bit(a, static_cast<int>(position + i)) : sign) << i;
        }
        return result;
      });
      const IntegerType integer{"", bits, isSigned};
      auto highest = [=](uint64_t a) {
        const bool flip = valueOf(a, integer) < 0;
        for (int i = bits - 1; i >= 0; i--) {
          if (bit(a, i) != flip) return i;
        }
        return -1;
      };
      checkForm("bfind" + name, Compare::bits, Draw::integer,
                [&](uint64_t a, uint64_t, uint64_t, uint64_t) { return uint64_t(int64_t(highest(a))); });
      checkForm("bfind.shiftamt" + name, Compare::bits, Draw::integer,
                [&](uint64_t a, uint64_t, uint64_t, uint64_t) {
                  const int found = highest(a);
                  return found < 0 ? ~0ull : uint64_t(bits - 1 - found);
                });
    }
  }
  auto mask = [](uint64_t from, uint64_t length) {
    uint64_t result = 0;
    for (uint64_t i = from; i < 32 && i < from + length; i++) result |= 1ull << i;
    return result;
  };
  static const auto maskOf = mask;
  checkForm("bmsk.clamp.b32", Compare::bits, Draw::small, [](uint64_t a, uint64_t b, uint64_t, uint64_t) {
    return maskOf(std::min<uint64_t>(a, 32), std::min<uint64_t>(b, 32));
  });
  checkForm("bmsk.wrap.b32", Compare::bits, Draw::small,
            [](uint64_t a, uint64_t b, uint64_t, uint64_t) { return maskOf(a % 32, b % 32); });
  for (const bool isSigned : {false, true}) {
    for (const bool wraps : {false, true}) {
      const std::string name =
          std::string("szext.") + (wraps ? "wrap" : "clamp") + (isSigned ? ".s32" : ".u32");
      checkForm(name, Compare::bits, Draw::small, [&](uint64_t a, uint64_t b, uint64_t, uint64_t) {
        const int length = static_cast<int>(wraps ? b % 32 : std::min<uint64_t>(b, 32));
        if (length == 0) return uint64_t(0);
        return wrap(valueOf(a, {"", length, isSigned}));
      });
    }
  }
});

const Test permutations("prmt and funnel shifts", [] {
  checkForm("prmt.b32", Compare::bits, Draw::integer, [](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
    uint64_t result = 0;
    for (int i = 0; i < 4; i++) {
      const uint64_t nibble = c >> 4 * i & 15, byte = (b << 32 | a) >> 8 * (nibble & 7) & 255;
      result |= (nibble >= 8 ? (byte >= 128 ? 255 : 0) : byte) << 8 * i;
    }
    return result;
  });
  // The tables of the PTX manual: for c = 0..3, the source bytes from lowest to highest.
  static const int f4e[4][4] = {{0, 1, 2, 3}, {1, 2, 3, 4}, {2, 3, 4, 5}, {3, 4, 5, 6}};
  static const int b4e[4][4] = {{0, 7, 6, 5}, {1, 0, 7, 6}, {2, 1, 0, 7}, {3, 2, 1, 0}};
  static const int rc8[4][4] = {{0, 0, 0, 0}, {1, 1, 1, 1}, {2, 2, 2, 2}, {3, 3, 3, 3}};
  static const int ecl[4][4] = {{0, 1, 2, 3}, {1, 1, 2, 3}, {2, 2, 2, 3}, {3, 3, 3, 3}};
  static const int ecr[4][4] = {{0, 0, 0, 0}, {0, 1, 1, 1}, {0, 1, 2, 2}, {0, 1, 2, 3}};
  static const int rc16[4][4] = {{0, 1, 0, 1}, {2, 3, 2, 3}, {0, 1, 0, 1}, {2, 3, 2, 3}};
  const std::pair<const char*, const int(*)[4]> modes[] = {{"f4e", f4e}, {"b4e", b4e}, {"rc8", rc8},
                                                           {"ecl", ecl}, {"ecr", ecr}, {"rc16", rc16}};
  for (const auto& [name, table] : modes) {
    const auto bytes = table;
    checkForm(std::string("prmt.b32.") + name, Compare::bits, Draw::integer,
              [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) { return permuted(a, b, bytes[c & 3]); });
  }
  for (const bool left : {true, false}) {
    for (const bool wraps : {true, false}) {
      checkForm(std::string("shf.") + (left ? "l." : "r.") + (wraps ? "wrap" : "clamp") + ".b32",
                Compare::bits, Draw::small, [&](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
                  const int n = static_cast<int>(wraps ? c % 32 : std::min<uint64_t>(c, 32));
                  uint64_t result = 0;
                  for (int i = 0; i < 32; i++) {
                    const int from = left ? i + 32 - n : i + n;
                    result |= uint64_t(bit(b << 32 | a, from)) << i;
                  }
                  return result;
                });
    }
  }
});

const Test moves("mov, selp and slct forms", [] {
  for (const std::string type :
       {"b16", "u16", "s16", "f16", "bf16", "b32", "u32", "s32", "b64", "u64", "s64", "f32", "f64"}) {
    checkForm("mov." + type, Compare::bits, Draw::integer,
              [](uint64_t a, uint64_t, uint64_t, uint64_t) { return a; });
    checkForm("selp." + type, Compare::bits, Draw::integer,
              [](uint64_t a, uint64_t b, uint64_t c, uint64_t) { return c ? a : b; });
  }
  for (const std::string type : {"b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"}) {
    checkForm("slct." + type + ".s32", Compare::bits, Draw::integer,
              [](uint64_t a, uint64_t b, uint64_t c, uint64_t) {
                return as<int32_t>(static_cast<uint32_t>(c)) >= 0 ? a : b;
              });
  }
  for (const std::string type : {"b32", "u32", "s32", "f32"}) {
    checkForm("slct." + type + ".f32", Compare::bits, Draw::single,
              [](uint64_t a, uint64_t b, uint64_t c, uint64_t) { return f32(c) >= 0 ? a : b; });
  }
});

const Test comparisons("integer setp forms", [] {
  for (const int bits : {16, 32, 64}) {
    for (const std::string kind : {"b", "u", "s"}) {
      const IntegerType type{kind + std::to_string(bits), bits, kind == "s"};
      const std::string dot = "." + type.name;
      checkInteger(
          "setp.eq" + dot, [](Int a, Int b, Int) { return Int(a == b); }, type, Draw::small);
      checkInteger(
          "setp.ne" + dot, [](Int a, Int b, Int) { return Int(a != b); }, type, Draw::small);
      if (kind == "b") continue;
      checkInteger(
          "setp.lt" + dot, [](Int a, Int b, Int) { return Int(a < b); }, type);
      checkInteger(
          "setp.le" + dot, [](Int a, Int b, Int) { return Int(a <= b); }, type);
      checkInteger(
          "setp.gt" + dot, [](Int a, Int b, Int) { return Int(a > b); }, type);
      checkInteger(
          "setp.ge" + dot, [](Int a, Int b, Int) { return Int(a >= b); }, type);
      if (kind == "s") continue;
      checkInteger(
          "setp.lo" + dot, [](Int a, Int b, Int) { return Int(a < b); }, type);
      checkInteger(
          "setp.ls" + dot, [](Int a, Int b, Int) { return Int(a <= b); }, type);
      checkInteger(
          "setp.hi" + dot, [](Int a, Int b, Int) { return Int(a > b); }, type);
      checkInteger(
          "setp.hs" + dot, [](Int a, Int b, Int) { return Int(a >= b); }, type);
    }
  }
});

}  // namespace
}  // namespace ptxtest
