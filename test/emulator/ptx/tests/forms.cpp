#include "forms.h"

#include <cmath>

#include "../decoder.h"
#include "numbers.h"

namespace ptxtest {
namespace {

using ptxemu::OperandType;

std::map<std::string, bool>& checked() {
  static std::map<std::string, bool> all;
  return all;
}

const std::vector<uint64_t>& edges(Draw draw) {
  static const std::vector<uint64_t> integers = {0,
                                                 1,
                                                 2,
                                                 3,
                                                 5,
                                                 7,
                                                 8,
                                                 15,
                                                 16,
                                                 17,
                                                 31,
                                                 32,
                                                 33,
                                                 63,
                                                 64,
                                                 65,
                                                 127,
                                                 128,
                                                 255,
                                                 256,
                                                 0x7fff,
                                                 0x8000,
                                                 0xffff,
                                                 0x10000,
                                                 0x7fffffff,
                                                 0x80000000,
                                                 0xffffffff,
                                                 0x100000000,
                                                 0x7fffffffffffffff,
                                                 0x8000000000000000,
                                                 0xffffffffffffffff};
  static const std::vector<uint64_t> halves = {0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400,
                                               0x3c00, 0xbc00, 0x3c01, 0x7bff, 0xfbff, 0x7c00,
                                               0xfc00, 0x7e00, 0x3800, 0x4000, 0x3555};
  static const std::vector<uint64_t> bfloats = {0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080,
                                                0x3f80, 0xbf80, 0x3f81, 0x7f7f, 0xff7f, 0x7f80,
                                                0xff80, 0x7fc0, 0x3f00, 0x4000, 0x3eab};
  static const std::vector<uint64_t> singles = {0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff,
                                                0x00800000, 0x3f800000, 0xbf800000, 0x3f000000, 0x7f7fffff,
                                                0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x40490fdb,
                                                0x3dcccccd, 0x4b800000, 0xcf000000};
  static const std::vector<uint64_t> doubles = {0,
                                                0x8000000000000000,
                                                1,
                                                0x000fffffffffffff,
                                                0x0010000000000000,
                                                0x3ff0000000000000,
                                                0xbff0000000000000,
                                                0x3fe0000000000000,
                                                0x7fefffffffffffff,
                                                0x7ff0000000000000,
                                                0xfff0000000000000,
                                                0x7ff8000000000000,
                                                0x400921fb54442d18,
                                                0x3fb999999999999a,
                                                0x41dfffffffc00000,
                                                0xc1e0000000000000};
  switch (draw) {
    case Draw::half:
      return halves;
    case Draw::bfloat:
      return bfloats;
    case Draw::single:
      return singles;
    case Draw::wide:
      return doubles;
    default:
      return integers;
  }
}

uint64_t randomOperand(Draw draw) {
  const uint64_t bits = random()();
  // Half of the floats near one, so that operands meet in magnitude.
  const bool near = bits >> 63 & 1;
  switch (draw) {
    case Draw::single:
      return near ? (bits & 0x80ffffff) | 0x3f000000 : bits & 0xffffffff;
    case Draw::wide:
      return near ? (bits & 0x800fffffffffffff) | 0x3ff0000000000000 : bits;
    case Draw::half:
      return near ? (bits & 0x83ff) | 0x3800 : bits & 0xffff;
    case Draw::bfloat:
      return near ? (bits & 0x80ff) | 0x3f00 : bits & 0xffff;
    case Draw::small:
      return bits & (bits >> 32 & 1 ? 63 : 0xffffffffffffffff);
    case Draw::integer:
      return bits >> 60 == 0 ? bits & 255 : bits;
  }
  return bits;
}

constexpr size_t kRandom = 512;

// All pairs of edges, or their triples cycled, then random operands. Packed halves get a value in each half.
std::vector<std::vector<uint64_t>> operandSets(size_t sources, Draw draw, bool packed) {
  const std::vector<uint64_t>& edge = edges(draw);
  std::vector<std::vector<uint64_t>> sets;
  const size_t count = sources >= 2 ? edge.size() * edge.size() : edge.size();
  for (size_t i = 0; i < count; i++) {
    std::vector<uint64_t> set;
    for (size_t s = 0; s < sources; s++) {
      const size_t which = s == 0 ? i % edge.size() : s == 1 ? i / edge.size() : (i * 7 + s) % edge.size();
      uint64_t value = edge[which % edge.size()];
      if (packed) value = (value & 0xffff) | (edge[(which + 3) % edge.size()] & 0xffff) << 16;
      set.push_back(value);
    }
    sets.push_back(std::move(set));
  }
  for (size_t i = 0; i < kRandom; i++) {
    std::vector<uint64_t> set;
    for (size_t s = 0; s < sources; s++) {
      uint64_t value = randomOperand(draw);
      if (packed) value = (value & 0xffff) | (randomOperand(draw) & 0xffff) << 16;
      set.push_back(value);
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

// Registers and moves between memory (64 bits an operand) and an operand of the type.
struct Slot {
  std::string reg, load, store;
};
Slot slotOf(OperandType type, size_t index) {
  const std::string n = std::to_string(index);
  switch (type) {
    case OperandType::predicate:
      return {"%q" + n, "ld.global.u32 %r20, [ADDRESS]; setp.ne.u32 %q" + n + ", %r20, 0;",
              "selp.u32 %r20, 1, 0, %q" + n + "; cvt.u64.u32 %d20, %r20; st.global.u64 [ADDRESS], %d20;"};
    case OperandType::bits16:
      return {"%h" + n, "ld.global.u16 %h" + n + ", [ADDRESS];",
              "cvt.u64.u16 %d20, %h" + n + "; st.global.u64 [ADDRESS], %d20;"};
    case OperandType::bits32:
      return {"%r" + n, "ld.global.u32 %r" + n + ", [ADDRESS];",
              "cvt.u64.u32 %d20, %r" + n + "; st.global.u64 [ADDRESS], %d20;"};
    case OperandType::float32:
      return {"%f" + n, "ld.global.f32 %f" + n + ", [ADDRESS];",
              "mov.b32 %r20, %f" + n + "; cvt.u64.u32 %d20, %r20; st.global.u64 [ADDRESS], %d20;"};
    case OperandType::float64:
      return {"%g" + n, "ld.global.f64 %g" + n + ", [ADDRESS];", "st.global.f64 [ADDRESS], %g" + n + ";"};
    default:
      return {"%d" + n, "ld.global.u64 %d" + n + ", [ADDRESS];", "st.global.u64 [ADDRESS], %d" + n + ";"};
  }
}
std::string at(std::string text, const std::string& address) {
  const size_t found = text.find("ADDRESS");
  return text.replace(found, 7, address);
}

uint64_t keep(uint64_t bits, OperandType type) {
  const int bytes = ptxemu::bytesOf(type);
  if (type == OperandType::predicate) return bits & 1;
  return bytes == 8 ? bits : bits & ((1ull << 8 * bytes) - 1);
}

bool closeEnough(double got, double want, double relative, double absolute) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want) || std::isinf(got)) return got == want;
  return std::fabs(got - want) <= relative * std::fabs(want) + absolute;
}

bool agree(uint64_t got, uint64_t want, Compare compare, int bytes) {
  if (got == want) return true;
  auto halves = [&](auto equal) {
    for (int shift = 0; shift < 8 * bytes; shift += 16) {
      const uint16_t a = static_cast<uint16_t>(got >> shift), b = static_cast<uint16_t>(want >> shift);
      if (a != b && !equal(a, b)) return false;
    }
    return true;
  };
  switch (compare) {
    case Compare::bits:
      return false;
    case Compare::float16:
      return halves(
          [](uint16_t a, uint16_t b) { return std::isnan(halfValue(a)) && std::isnan(halfValue(b)); });
    case Compare::bfloat16:
      return halves(
          [](uint16_t a, uint16_t b) { return std::isnan(bfloatValue(a)) && std::isnan(bfloatValue(b)); });
    case Compare::float32:
      return std::isnan(f32(got)) && std::isnan(f32(want));
    case Compare::float64:
      return std::isnan(f64(got)) && std::isnan(f64(want));
    case Compare::close32:
      return closeEnough(f32(got), f32(want), 1e-6, 1e-37);
    case Compare::close64:
      return closeEnough(f64(got), f64(want), 1e-5, 1e-300);
    case Compare::close16:
      return halves(
          [](uint16_t a, uint16_t b) { return closeEnough(halfValue(a), halfValue(b), 2e-3, 1e-7); });
    case Compare::closeBf16:
      return halves(
          [](uint16_t a, uint16_t b) { return closeEnough(bfloatValue(a), bfloatValue(b), 1e-2, 1e-38); });
  }
  return false;
}

std::string hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace

void markChecked(const std::string& spelling) { checked()[spelling] = true; }
const std::map<std::string, bool>& checkedForms() { return checked(); }

void checkForm(const std::string& spelling, Compare compare, Draw draw, const Model& model) {
  markChecked(spelling);
  const ptxemu::Form* form = ptxemu::FormTable::instance().find(spelling);
  if (!form) return check(false, "there is no form " + spelling);
  const bool packed = spelling.size() > 2 && spelling.compare(spelling.size() - 2, 2, "x2") == 0 &&
                      (draw == Draw::half || draw == Draw::bfloat);
  const size_t sources = form->sources.size();
  const auto sets = operandSets(sources, draw, packed);

  // Thread i works on set i: sources at p0 + 64 i, the result at p1 + 8 i. A mask of odd lanes runs the same
  // again, which the other lanes must not notice.
  std::string body =
      "mov.u32 %r21, %ctaid.x; mov.u32 %r22, %ntid.x; mov.u32 %r23, %tid.x;\n"
      "mad.lo.u32 %r21, %r21, %r22, %r23; setp.ge.u32 %q15, %r21, " +
      std::to_string(sets.size()) +
      "; @%q15 ret;\nmul.wide.u32 %d21, %r21, 64; add.u64 %d22, %p0, %d21;\n"
      "mul.wide.u32 %d23, %r21, 8; add.u64 %d24, %p1, %d23; add.u64 %d25, %p2, %d23;\n";
  const Slot result = slotOf(form->destinations[0], 10);
  std::string instruction = spelling + " " + result.reg;
  for (size_t s = 0; s < sources; s++) {
    const Slot slot = slotOf(form->sources[s], s);
    body += at(slot.load, "%d22+" + std::to_string(8 * s)) + "\n";
    instruction += ", " + slot.reg;
  }
  body += instruction + ";\n" + at(result.store, "%d24") + "\n";
  body += "and.b32 %r24, %r21, 1; setp.eq.u32 %q14, %r24, 1;\n@%q14 " + instruction + ";\n" +
          at(result.store, "%d25");

  std::vector<uint64_t> operands(sets.size() * 8, 0);
  for (size_t i = 0; i < sets.size(); i++) {
    for (size_t s = 0; s < sources; s++) operands[8 * i + s] = keep(sets[i][s], form->sources[s]);
  }
  ptxemu::Memory memory;
  const Buffer<uint64_t> in(memory, operands), out(memory, sets.size()), masked(memory, sets.size());
  Launch launch;
  launch.block.x = 128;
  launch.grid.x = static_cast<uint32_t>((sets.size() + 127) / 128);
  const auto outcome = run(memory, kernel(body, 3), {in.address(), out.address(), masked.address()}, launch);
  check(outcome.ok && outcome.reports.empty(), spelling + " runs without reports: " + describe(outcome));
  const auto got = out.values(), again = masked.values();
  size_t wrong = 0;
  std::string first;
  for (size_t i = 0; i < sets.size(); i++) {
    const uint64_t* o = &operands[8 * i];
    const uint64_t want = keep(model(o[0], o[1], o[2], o[3]), form->destinations[0]);
    const int bytes = ptxemu::bytesOf(form->destinations[0]);
    if (agree(got[i], want, compare, bytes) && got[i] == again[i]) continue;
    if (wrong++ == 0) {
      first = "(" + hex(o[0]) + ", " + hex(o[1]) + ", " + hex(o[2]) + ", " + hex(o[3]) + ") gave " +
              hex(got[i]) + " (under a mask " + hex(again[i]) + "), wanted " + hex(want);
    }
  }
  check(wrong == 0, spelling + " wrong for " + std::to_string(wrong) + " of " + std::to_string(sets.size()) +
                        " operands, first " + first);
}

}  // namespace ptxtest
