// ldmatrix, stmatrix, mma.sync and wmma against plain loops.
#include <cmath>

#include "forms.h"
#include "numbers.h"

namespace ptxtest {
namespace {

using ptxemu::Memory;

enum class Element { f16, bf16, tf32 };

struct MmaCase {
  std::string spelling;
  int k;
  Element element;
  bool halfAccumulator;
};

double valueOf(Element element, uint32_t bits) {
  if (element == Element::f16) return halfValue(static_cast<uint16_t>(bits));
  if (element == Element::bf16) return bfloatValue(static_cast<uint16_t>(bits));
  return f32(bits & 0xffffe000u);
}
uint32_t randomElement(Element element) {
  const double value = static_cast<double>(random()() % 2001) / 1000 - 1;
  if (element == Element::f16) return toHalfModel(value);
  if (element == Element::bf16) return toBfloatModel(value);
  return static_cast<uint32_t>(bits(static_cast<float>(value)));
}

// Where element (row, column) of a fragment lies: register, lane, half. From the figures of the PTX manual.
struct Place {
  int reg, lane, half;
};
Place placeA(const MmaCase& c, int row, int k) {
  if (c.element == Element::tf32) return {row / 8 + k / 4 * 2, row % 8 * 4 + k % 4, 0};
  return {row / 8 + k / 8 * 2, row % 8 * 4 + k % 8 / 2, k % 2};
}
Place placeB(const MmaCase& c, int k, int column) {
  if (c.element == Element::tf32) return {k / 4, column * 4 + k % 4, 0};
  return {k / 8, column * 4 + k % 8 / 2, k % 2};
}
Place placeC(const MmaCase& c, int row, int column) {
  const int lane = row % 8 * 4 + column / 2;
  return c.halfAccumulator ? Place{row / 8, lane, column % 2} : Place{row / 8 * 2 + column % 2, lane, 0};
}

const Test mma("mma.sync", [] {
  const MmaCase cases[] = {{"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 16, Element::bf16, false},
                           {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 16, Element::f16, false},
                           {"mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", 16, Element::f16, true},
                           {"mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 8, Element::bf16, false},
                           {"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", 8, Element::f16, false},
                           {"mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16", 8, Element::f16, true},
                           {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 8, Element::tf32, false},
                           {"mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", 4, Element::tf32, false}};
  for (const MmaCase& c : cases) {
    markChecked(c.spelling);
    const int perRegister = c.element == Element::tf32 ? 1 : 2;
    const int countA = 16 * c.k / 32 / perRegister, countB = 8 * c.k / 32 / perRegister,
              countC = c.halfAccumulator ? 2 : 4;
    // Words of all fragments, lane-major, 16 a lane: A from 0, B from 4, C from 8.
    std::vector<uint32_t> words(32 * 16, 0);
    auto put = [&](Place place, int base, uint32_t bits) {
      words[place.lane * 16 + base + place.reg] |= bits << 16 * place.half;
    };
    double a[16][16], b[16][8], sum[16][8];
    for (int row = 0; row < 16; row++) {
      for (int k = 0; k < c.k; k++) {
        const uint32_t element = randomElement(c.element);
        a[row][k] = valueOf(c.element, element);
        put(placeA(c, row, k), 0, element);
      }
    }
    for (int k = 0; k < c.k; k++) {
      for (int column = 0; column < 8; column++) {
        const uint32_t element = randomElement(c.element);
        b[k][column] = valueOf(c.element, element);
        put(placeB(c, k, column), 4, element);
      }
    }
    for (int row = 0; row < 16; row++) {
      for (int column = 0; column < 8; column++) {
        const uint32_t start = c.halfAccumulator ? randomElement(Element::f16)
                                                 : static_cast<uint32_t>(bits(float(row - column)));
        sum[row][column] = c.halfAccumulator ? halfValue(static_cast<uint16_t>(start)) : f32(start);
        put(placeC(c, row, column), 8, start);
        for (int k = 0; k < c.k; k++) sum[row][column] += a[row][k] * b[k][column];
      }
    }
    auto list = [&](const char* prefix, int first, int count) {
      std::string text = "{";
      for (int i = 0; i < count; i++) text += (i ? ", " : "") + (prefix + std::to_string(first + i));
      return text + "}";
    };
    std::string body =
        "mov.u32 %r30, %tid.x; mul.wide.u32 %d1, %r30, 64; add.u64 %d2, %p0, %d1; mul.wide.u32 %d1, %r30, "
        "16;\n"
        "add.u64 %d3, %p1, %d1;\n";
    for (int i = 0; i < 8; i++)
      body += "ld.global.u32 %r" + std::to_string(i) + ", [%d2+" + std::to_string(4 * i) + "];\n";
    const char* accumulator = c.halfAccumulator ? "%r" : "%f";
    for (int i = 0; i < countC; i++) {
      body += std::string(c.halfAccumulator ? "ld.global.u32 " : "ld.global.f32 ") + accumulator +
              std::to_string(10 + i) + ", [%d2+" + std::to_string(32 + 4 * i) + "];\n";
    }
    body += c.spelling + " " + list(accumulator, 14, countC) + ", " + list("%r", 0, countA) + ", " +
            list("%r", 4, countB) + ", " + list(accumulator, 10, countC) + ";\n";
    for (int i = 0; i < countC; i++) {
      body += std::string(c.halfAccumulator ? "st.global.u32 [%d3+" : "st.global.f32 [%d3+") +
              std::to_string(4 * i) + "], " + accumulator + std::to_string(14 + i) + ";\n";
    }
    Memory memory;
    const Buffer<uint32_t> in(memory, words), out(memory, std::vector<uint32_t>(128, 0));
    const auto result = run(memory, kernel(body, 2), {in.address(), out.address()});
    const auto got = out.values();
    double worst = 0;
    for (int row = 0; row < 16; row++) {
      for (int column = 0; column < 8; column++) {
        const Place place = placeC(c, row, column);
        const uint32_t word = got[place.lane * 4 + place.reg];
        const double value =
            c.halfAccumulator ? halfValue(static_cast<uint16_t>(word >> 16 * place.half)) : f32(word);
        worst = std::max(worst, std::fabs(value - sum[row][column]));
      }
    }
    check(result.reports.empty() && worst < (c.halfAccumulator ? 1e-2 : 1e-5),
          c.spelling + " differs by " + std::to_string(worst) + " " + describe(result));
    check(result.counters.mma == 1 && result.counters.mmaFlops == uint64_t(2 * 16 * 8 * c.k),
          "counts of " + c.spelling);
  }
});

const Test matrices("ldmatrix and stmatrix", [] {
  for (const int count : {1, 2, 4}) {
    for (const bool transposed : {false, true}) {
      const std::string form =
          ".sync.aligned.m8n8.x" + std::to_string(count) + (transposed ? ".trans" : "") + ".shared.b16 ";
      std::string registers = "{";
      for (int i = 0; i < count; i++) registers += (i ? ", " : "") + ("%r" + std::to_string(10 + i));
      registers += "}";
      std::vector<uint16_t> elements(256);
      for (uint16_t& element : elements) element = static_cast<uint16_t>(random()());
      // Row r of matrix m lies at 16 * (8 m + r); lane l gives the address of row l. Stored back transposed,
      // once more.
      const std::string body =
          "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 16; add.u64 %d2, %p0, %d1; add.u64 %d3, %p1, %d1; "
          "add.u64 %d4, %p2, %d1;\n"
          "mov.u32 %r2, area; shl.b32 %r3, %r1, 4; add.u32 %r3, %r3, %r2;\n"
          "ld.global.v4.u32 {%r4,%r5,%r6,%r7}, [%d2]; st.shared.v4.u32 [%r3], {%r4,%r5,%r6,%r7}; bar.sync "
          "0;\n"
          "ldmatrix" +
          form + registers + ", [%r3];\n" +
          [&] {
            std::string text;
            for (int i = 0; i < count; i++)
              text +=
                  "st.global.u32 [%d3+" + std::to_string(4 * i) + "], %r" + std::to_string(10 + i) + ";\n";
            return text;
          }() +
          "add.u32 %r8, %r3, 512; stmatrix" + form + "[%r8], " + registers +
          "; bar.sync 0;\n"
          "setp.ge.u32 %q0, %r1, " +
          std::to_string(8 * count) +
          "; @%q0 ret;\n"
          "ld.shared.v4.u32 {%r4,%r5,%r6,%r7}, [%r8]; st.global.v4.u32 [%d4], {%r4,%r5,%r6,%r7};";
      Memory memory;
      const Buffer<uint16_t> in(memory, elements), back(memory, std::vector<uint16_t>(256, 0));
      const Buffer<uint32_t> out(memory, std::vector<uint32_t>(128, 0));
      const auto result = run(memory, kernel(body, 3, ".shared .align 16 .b8 area[1024];", "sm_90"),
                              {in.address(), out.address(), back.address()});
      bool same = true;
      for (int m = 0; m < count; m++) {
        for (int lane = 0; lane < 32; lane++) {
          for (int half = 0; half < 2; half++) {
            const int row = lane / 4, column = lane % 4 * 2 + half;
            const uint16_t want = elements[64 * m + (transposed ? 8 * column + row : 8 * row + column)];
            same &= static_cast<uint16_t>(out.values()[4 * lane + m] >> 16 * half) == want;
          }
        }
      }
      check(same && result.reports.empty(), "ldmatrix" + form + describe(result));
      bool restored = true;
      for (int i = 0; i < 64 * count; i++) restored &= back.values()[i] == elements[i];
      check(restored, "stmatrix" + form + "undoes ldmatrix");
    }
  }
});

const Test wmma("wmma", [] {
  Memory memory;
  std::vector<uint16_t> a(16 * 24), b(16 * 24);
  for (uint16_t& element : a) element = static_cast<uint16_t>(randomElement(Element::f16));
  for (uint16_t& element : b) element = static_cast<uint16_t>(randomElement(Element::f16));
  const Buffer<uint16_t> inA(memory, a), inB(memory, b);
  const Buffer<float> out(memory, 256);
  const std::string eight = "{%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7}",
                    more = "{%r8,%r9,%r10,%r11,%r12,%r13,%r14,%r15}";
  const std::string sums = "{%f0,%f1,%f2,%f3,%f4,%f5,%f6,%f7}";
  std::string body;
  for (int i = 0; i < 8; i++) body += "mov.f32 %f" + std::to_string(i) + ", 0f3F800000;\n";
  body += "wmma.load.a.sync.aligned.row.m16n16k16.global.f16 " + eight +
          ", [%p0], 24;\n"
          "wmma.load.b.sync.aligned.col.m16n16k16.global.f16 " +
          more +
          ", [%p1], 24;\n"
          "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 " +
          sums + ", " + eight + ", " + more + ", " + sums +
          ";\n"
          "wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%p2], " +
          sums + ", 16;";
  const auto result = run(memory, kernel(body, 3), {inA.address(), inB.address(), out.address()});
  double worst = 0;
  for (int row = 0; row < 16; row++) {
    for (int column = 0; column < 16; column++) {
      double sum = 1;
      for (int k = 0; k < 16; k++) sum += halfValue(a[24 * row + k]) * halfValue(b[24 * column + k]);
      worst = std::max(worst, std::fabs(sum - out.values()[16 * row + column]));
    }
  }
  check(worst < 1e-5 && result.reports.empty(),
        "m16n16k16 f16 differs by " + std::to_string(worst) + " " + describe(result));
});

}  // namespace
}  // namespace ptxtest
