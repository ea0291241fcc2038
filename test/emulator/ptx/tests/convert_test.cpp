// cvt in all its combinations, packing moves, carries, and the general forms of setp and set.
#include <cmath>
#include <limits>

#include "forms.h"
#include "numbers.h"

namespace ptxtest {
namespace {

using ptxemu::Memory;

struct NumberType {
  std::string name;
  int bits;
  bool isFloat, isSigned;
};
const NumberType kTypes[] = {{"u8", 8, false, false},   {"s8", 8, false, true},    {"u16", 16, false, false},
                             {"s16", 16, false, true},  {"u32", 32, false, false}, {"s32", 32, false, true},
                             {"u64", 64, false, false}, {"s64", 64, false, true},  {"f16", 16, true, true},
                             {"bf16", 16, true, true},  {"f32", 32, true, true},   {"f64", 64, true, true}};

// Runs an instruction on 64-bit values: the source arrives in a register of the type's size, the result
// leaves one.
std::vector<uint64_t> runUnary(const std::string& instruction, int sourceBits, int resultBits,
                               const std::vector<uint64_t>& in) {
  auto reg = [](int bits, int n) {
    return (bits == 64 ? "%d" : bits == 32 ? "%r" : "%h") + std::to_string(n);
  };
  const int source = std::max(sourceBits, 16), result = std::max(resultBits, 16);
  std::string body =
      "mov.u32 %r30, %tid.x; mov.u32 %r31, %ctaid.x; mad.lo.u32 %r30, %r31, 128, %r30;\n"
      "setp.ge.u32 %q0, %r30, " +
      std::to_string(in.size()) +
      "; @%q0 ret;\n"
      "mul.wide.u32 %d30, %r30, 8; add.u64 %d31, %p0, %d30; add.u64 %d30, %p1, %d30;\n"
      "ld.global.u" +
      std::to_string(source) + " " + reg(source, 5) + ", [%d31];\n";
  std::string text = instruction;
  text.replace(text.find("DST"), 3, reg(result, 6));
  text.replace(text.find("SRC"), 3, reg(source, 5));
  body += text + ";\nst.global.u" + std::to_string(result) + " [%d30], " + reg(result, 6) + ";";
  Memory memory;
  const Buffer<uint64_t> source64(memory, in), out(memory, std::vector<uint64_t>(in.size(), 0));
  Launch launch;
  launch.block.x = 128;
  launch.grid.x = static_cast<uint32_t>((in.size() + 127) / 128);
  const auto outcome = run(memory, kernel(body, 2), {source64.address(), out.address()}, launch);
  check(outcome.ok && outcome.reports.empty(), instruction + ": " + describe(outcome));
  return out.values();
}

Wide floatValue(const NumberType& type, uint64_t bits) {
  if (type.name == "f16") return halfValue(static_cast<uint16_t>(bits));
  if (type.name == "bf16") return bfloatValue(static_cast<uint16_t>(bits));
  return type.bits == 32 ? Wide(f32(bits)) : Wide(f64(bits));
}
Wide integerValue(const NumberType& type, uint64_t bits) {
  const uint64_t kept = type.bits == 64 ? bits : bits & ((1ull << type.bits) - 1);
  if (!type.isSigned || !(kept >> (type.bits - 1) & 1)) return Wide(kept);
  return Wide(kept) - Wide(2) * Wide(1ull << (type.bits - 1));
}
uint64_t encode(const NumberType& type, Wide value, Toward mode) {
  if (type.name == "f16") return toHalfModel(value, mode);
  if (type.name == "bf16") return toBfloatModel(value, mode);
  if (type.bits == 32) return bits(roundWide<float>(value, mode));
  return bits(roundWide<double>(value, mode));
}
Wide integral(Wide value, Toward mode) {
  // Beyond 2^62 everything representable here is integral, or saturates.
  if (value != value || value > Wide(4e18) || value < Wide(-4e18)) return value;
  const Wide whole = Wide(static_cast<int64_t>(value));
  if (whole == value) return value;
  const Wide down = value < whole ? whole - 1 : whole, rest = value - down;
  if (mode == Toward::down) return down;
  if (mode == Toward::up) return down + 1;
  if (mode == Toward::zero) return value < 0 ? down + 1 : down;
  if (rest == Wide(0.5)) return static_cast<int64_t>(down) % 2 ? down + 1 : down;
  return rest > Wide(0.5) ? down + 1 : down;
}
uint64_t clamped(const NumberType& type, Wide value) {
  const Wide top = Wide(1ull << (type.bits - 1)) * (type.isSigned ? 1 : 2),
             low = type.isSigned ? -top : Wide(0);
  if (value != value) return 0;
  if (value >= top) return type.isSigned ? ~0ull >> (65 - type.bits) : ~0ull >> (64 - type.bits);
  if (value <= low) return type.isSigned ? 1ull << (type.bits - 1) : 0;
  return value < 0 ? 0 - static_cast<uint64_t>(-value) : static_cast<uint64_t>(value);
}

std::vector<uint64_t> inputs(const NumberType& type) {
  std::vector<uint64_t> values;
  for (int i = 0; i < 600; i++) {
    uint64_t value = random()();
    if (i < 64) value = (i & 1 ? ~0ull : 0) ^ (1ull << i);
    if (type.isFloat && i >= 64 && i % 3) {
      // Of moderate size, many of them halfway between integers.
      const double moderate =
          static_cast<double>(static_cast<int64_t>(random()() % 20001) - 10000) / (i % 2 ? 2 : 64);
      value = encode(type, moderate, Toward::nearest);
    }
    values.push_back(type.bits == 64 ? value : value & ((1ull << type.bits) - 1));
  }
  return values;
}

// The register keeps the type's bits; 8-bit types leave theirs extended in 16.
uint64_t extended(const NumberType& type, uint64_t bits) {
  if (type.bits != 8) return type.bits == 64 ? bits : bits & ((1ull << type.bits) - 1);
  return (type.isSigned ? static_cast<uint64_t>(static_cast<int64_t>(static_cast<int8_t>(bits)))
                        : bits & 255) &
         0xffff;
}

void compare(const std::string& name, const NumberType& to, const NumberType& from,
             const std::function<uint64_t(uint64_t)>& model) {
  const auto in = inputs(from);
  const auto out = runUnary(name + " DST, SRC", from.bits, to.bits, in);
  size_t wrong = 0, first = 0;
  for (size_t i = 0; i < in.size(); i++) {
    const uint64_t want = extended(to, model(in[i]));
    const bool bothNan = to.isFloat && floatValue(to, want) != floatValue(to, want) &&
                         floatValue(to, out[i]) != floatValue(to, out[i]);
    if (out[i] != want && !bothNan && wrong++ == 0) first = i;
  }
  char text[160] = "";
  if (wrong)
    std::snprintf(text, sizeof text, " wrong for %zu, first 0x%llx gave 0x%llx", wrong,
                  (unsigned long long)in[first], (unsigned long long)out[first]);
  check(wrong == 0, name + text);
}

const std::pair<const char*, Toward> kRounding[] = {
    {"rn", Toward::nearest}, {"rz", Toward::zero}, {"rm", Toward::down}, {"rp", Toward::up}};

const Test conversions("cvt", [] {
  for (const NumberType& to : kTypes) {
    for (const NumberType& from : kTypes) {
      const std::string types = "." + to.name + "." + from.name;
      if (!to.isFloat && !from.isFloat) {
        compare("cvt" + types, to, from, [&](uint64_t x) {
          const Wide value = integerValue(from, x);
          return value < 0 ? 0 - static_cast<uint64_t>(-value) : static_cast<uint64_t>(value);
        });
        compare("cvt.sat" + types, to, from, [&](uint64_t x) { return clamped(to, integerValue(from, x)); });
      } else if (!to.isFloat) {
        for (const auto& [mode, toward] : kRounding) {
          const Toward t = toward;
          compare("cvt." + std::string(mode) + "i" + types, to, from,
                  [&](uint64_t x) { return clamped(to, integral(floatValue(from, x), t)); });
        }
      } else if (!from.isFloat) {
        for (const auto& [mode, toward] : kRounding) {
          const Toward t = toward;
          compare("cvt." + std::string(mode) + types, to, from,
                  [&](uint64_t x) { return encode(to, integerValue(from, x), t); });
        }
      } else if (to.bits < from.bits) {
        for (const auto& [mode, toward] : kRounding) {
          const Toward t = toward;
          compare("cvt." + std::string(mode) + types, to, from, [&](uint64_t x) {
            return (floatValue(from, x) == 0 ? (x >> (from.bits - 1)) << (to.bits - 1)
                                             : encode(to, floatValue(from, x), t));
          });
        }
      } else if (to.bits > from.bits) {
        compare("cvt" + types, to, from,
                [&](uint64_t x) { return encode(to, floatValue(from, x), Toward::nearest); });
      }
    }
  }
  const NumberType f32Type = kTypes[10];
  for (const auto& [mode, toward] : kRounding) {
    const Toward t = toward;
    compare("cvt." + std::string(mode) + "i.f32.f32", f32Type, f32Type, [&](uint64_t x) {
      const float whole = static_cast<float>(integral(floatValue(f32Type, x), t));
      return bits(whole == 0 ? std::copysign(0.0f, f32(x)) : whole);
    });
  }
  compare("cvt.sat.f32.f32", f32Type, f32Type, [](uint64_t x) {
    const float v = f32(x);
    return bits(v > 0 ? (v < 1 ? v : 1.0f) : 0.0f);
  });
  compare("cvt.rna.tf32.f32", f32Type, f32Type, [](uint64_t x) {
    const uint64_t magnitude = x & 0x7fffffff;
    return magnitude > 0x7f800000
               ? 0x7fffffff
               : (x & 0x80000000) | ((magnitude + (magnitude < 0x7f800000 ? 0x1000 : 0)) & 0x7fffe000);
  });
});

const Test pairs("packing conversions, packing moves, carries", [] {
  Memory memory;
  std::vector<float> in(64);
  for (float& x : in) x = static_cast<float>(static_cast<int>(random()() % 2000) - 1000) / 7;
  const Buffer<float> source(memory, in);
  const Buffer<uint32_t> out(memory, 32 * 8);
  const auto result = run(
      memory,
      kernel(
          "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 8; add.u64 %d2, %p0, %d1; mul.wide.u32 %d1, %r1, 32; "
          "add.u64 %d3, %p1, %d1;\n"
          "ld.global.v2.f32 {%f1, %f2}, [%d2]; cvt.rn.bf16x2.f32 %r2, %f1, %f2; cvt.rn.f16x2.f32 %r3, %f1, "
          "%f2;\n"
          "cvt.rn.relu.bf16x2.f32 %r4, %f1, %f2; mov.b32 {%h1, %h2}, %r2; mov.b32 %r5, {%h2, %h1};\n"
          "mov.b64 %d4, {%r2, %r3}; mov.b64 {%r6, %r7}, %d4; st.global.v4.u32 [%d3], {%r2, %r3, %r4, %r5};\n"
          "add.cc.u32 %r8, %r2, %r3; addc.u32 %r9, %r2, 0; sub.cc.u32 %r10, %r2, %r3; subc.u32 %r11, %r3, "
          "0;\n"
          "st.global.v4.u32 [%d3+16], {%r6, %r7, %r9, %r11};",
          2),
      {source.address(), out.address()});
  const auto got = out.values();
  bool same = result.reports.empty();
  for (int lane = 0; lane < 32; lane++) {
    const float a = in[2 * lane], b = in[2 * lane + 1];
    const uint32_t bf = uint32_t(toBfloatModel(a)) << 16 | toBfloatModel(b),
                   h = uint32_t(toHalfModel(a)) << 16 | toHalfModel(b);
    const uint32_t* g = &got[8 * lane];
    same &= g[0] == bf && g[1] == h && g[3] == (bf << 16 | bf >> 16) && g[4] == bf && g[5] == h;
    same &= g[2] == (uint32_t(toBfloatModel(std::max(a, 0.0f))) << 16 | toBfloatModel(std::max(b, 0.0f)));
    same &= g[6] == bf + (uint64_t(bf) + h > 0xffffffff) && g[7] == h - (bf < h);
  }
  check(same, "packing conversions, moves and carries: " + describe(result));
});

const Test generalSetp("setp and set with boolean operators", [] {
  Memory memory;
  const Buffer<uint32_t> out(memory, 32);
  const auto result = run(
      memory,
      kernel(
          "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 4; add.u64 %d1, %p0, %d1; setp.lt.u32 %q1, %r1, 20;\n"
          "setp.gt.and.u32 %q2|%q3, %r1, 10, %q1; setp.gt.or.u32 %q4, %r1, 28, !%q1; setp.eq.xor.u32 %q5, "
          "%r1, 3, %q1;\n"
          "set.lt.u32.u32 %r2, %r1, 5; set.ge.f32.s32 %f1, %r1, 30; mov.b32 %r3, %f1;\n"
          "mov.u32 %r4, 0x40003c00; mov.u32 %r5, 0x3c003c00; setp.gt.f16x2 %q6|%q7, %r4, %r5; "
          "set.eq.f16x2.f16x2 %r6, %r4, %r5;\n"
          "selp.u32 %r10, 1, 0, %q2; selp.u32 %r11, 2, 0, %q3; selp.u32 %r12, 4, 0, %q4; selp.u32 %r13, 8, "
          "0, %q5;\n"
          "selp.u32 %r14, 16, 0, %q6; selp.u32 %r15, 32, 0, %q7; or.b32 %r10, %r10, %r11; or.b32 %r10, %r10, "
          "%r12;\n"
          "or.b32 %r10, %r10, %r13; or.b32 %r10, %r10, %r14; or.b32 %r10, %r10, %r15; and.b32 %r2, %r2, 64; "
          "or.b32 %r10, %r10, %r2;\n"
          "setp.ne.u32 %q8, %r3, 0; selp.u32 %r16, 128, 0, %q8; or.b32 %r10, %r10, %r16; setp.eq.u32 %q9, "
          "%r6, 0x3c00;\n"
          "selp.u32 %r17, 256, 0, %q9; or.b32 %r10, %r10, %r17; st.global.u32 [%d1], %r10;",
          1),
      {out.address()});
  bool same = result.reports.empty();
  for (uint32_t i = 0; i < 32; i++) {
    const bool c = i < 20;
    const uint32_t want = (i > 10 && c ? 1 : 0) | (i <= 10 && c ? 2 : 0) | (i > 28 || !c ? 4 : 0) |
                          ((i == 3) != c ? 8 : 0) | 32 | (i < 5 ? 64 : 0) | (i >= 30 ? 128 : 0) | 256;
    same &= out.values()[i] == want;
  }
  check(same, "combinations of predicates: " + describe(result));
});

}  // namespace
}  // namespace ptxtest
