// wgmma.mma_async against plain loops: every shape, both orders of storage, all swizzles, A from registers; and
// when its results may be read and its operands overwritten.
#include <algorithm>
#include <cmath>

#include "forms.h"
#include "numbers.h"

namespace ptxtest {
namespace {

using ptxemu::Memory;

enum class Element { f16, bf16, tf32 };
const char* nameOf(Element element) {
  return element == Element::f16 ? "f16" : element == Element::bf16 ? "bf16" : "tf32";
}
int bytesOf(Element element) { return element == Element::tf32 ? 4 : 2; }

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

// An operand in shared memory: `outer` rows of A or columns of B, `depth` along the sum. Lines of 128 bytes have
// eight chunks of 16; line i has its chunks permuted by the exclusive or with i modulo 8, 4 or 2.
struct Layout {
  Element element = Element::bf16;
  int outer = 64;
  bool transposed = false;  // along the sum lie rows, not consecutive elements
  int swizzle = 128;        // 0, 32, 64, 128
  uint32_t begin = 0;       // of the image in shared memory, at a multiple of 1024
  int advance = 0;          // elements along the sum that lie before the operand, within a span

  int perChunk() const { return 16 / bytesOf(element); }
  int perSpan() const { return (swizzle ? swizzle : 16) / bytesOf(element); }
  int depth() const { return 32 / bytesOf(element); }
  // Distances of groups, with room between them so that the two cannot be taken for one another.
  uint32_t leading() const {
    if (swizzle == 0) return 128;
    return transposed ? 6 * 8 * swizzle : 16;
  }
  uint32_t stride() const {
    if (swizzle == 0) return 3 * 128;
    return transposed ? 8 * swizzle : 2 * 8 * swizzle;
  }
  uint32_t bytes() const { return 96 * 1024; }

  uint32_t offset(int row, int k) const {
    uint32_t linear;
    if (!transposed && swizzle == 0) {
      linear = row / 8 * stride() + k / perChunk() * leading() + row % 8 * 16 + k % perChunk() * bytesOf(element);
    } else if (!transposed) {
      linear = row / 8 * stride() + row % 8 * swizzle + k * bytesOf(element);
    } else if (swizzle == 0) {
      linear = row / perChunk() * stride() + k / 8 * leading() + k % 8 * 16 + row % perChunk() * bytesOf(element);
    } else {
      linear = row / perSpan() * leading() + k / 8 * stride() + k % 8 * swizzle + row % perSpan() * bytesOf(element);
    }
    const uint32_t line = linear / 128, chunk = linear / 16 % 8, period = swizzle ? swizzle / 16 : 1;
    return line * 128 + (chunk ^ line % period) * 16 + linear % 16;
  }
  uint64_t descriptor() const {
    const uint64_t start = begin + advance * bytesOf(element);
    const uint64_t mode = swizzle == 128 ? 1 : swizzle == 64 ? 2 : swizzle == 32 ? 3 : 0;
    return start >> 4 | uint64_t(leading() >> 4) << 16 | uint64_t(stride() >> 4) << 32 | mode << 62;
  }
};

struct Case {
  Element element = Element::bf16;
  int columns = 64;
  int swizzleA = 128, swizzleB = 128;
  bool transposeA = false, transposeB = false, registersA = false;
  int signA = 1, signB = 1;
  bool adds = true;
  int advance = 0;  // along the sum, in elements
};

std::string spellingOf(Element element, int columns) {
  const std::string type = nameOf(element);
  return "wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) + "k" + (element == Element::tf32 ? "8" : "16") +
         ".f32." + type + "." + type;
}

std::string registerList(const std::string& prefix, int count) {
  std::string text = "{";
  for (int i = 0; i < count; i++) text += (i ? ", " : "") + prefix + std::to_string(i);
  return text + "}";
}

// Fills shared memory from p0 and leaves its number of 16-byte units in %d5; thread number in %r1.
std::string fillShared(uint32_t bytes) {
  return "mov.u32 %r1, %tid.x; mov.u32 %r3, area; shl.b32 %r4, %r1, 4;\n"
         "COPY: cvt.u64.u32 %d1, %r4; add.u64 %d1, %d1, %p0; ld.global.v4.u32 {%r5,%r6,%r7,%r8}, [%d1];\n"
         "add.u32 %r9, %r3, %r4; st.shared.v4.u32 [%r9], {%r5,%r6,%r7,%r8}; add.u32 %r4, %r4, 2048;\n"
         "setp.lt.u32 %q1, %r4, " +
         std::to_string(bytes) +
         "; @%q1 bra COPY;\nfence.proxy.async; bar.sync 0; shr.u32 %r3, %r3, 4; cvt.u64.u32 %d5, %r3;\n";
}

// Loads or stores all accumulators of a thread at %d8.
std::string moveAccumulators(bool load, int count) {
  std::string text;
  for (int i = 0; i < count; i++) {
    const std::string place = "[%d8+" + std::to_string(4 * i) + "]", reg = "%acc" + std::to_string(i);
    text += load ? "ld.global.f32 " + reg + ", " + place + ";\n" : "st.global.f32 " + place + ", " + reg + ";\n";
  }
  return text;
}

void expect(const Case& c) {
  const std::string spelling = spellingOf(c.element, c.columns);
  markChecked(spelling);
  Layout a{c.element, 64, c.transposeA, c.swizzleA, 0, c.advance};
  Layout b{c.element, c.columns, c.transposeB, c.swizzleB, a.bytes(), c.advance};
  const int depth = a.depth(), registers = c.columns / 2;
  std::vector<uint8_t> image(a.bytes() + b.bytes());
  std::vector<uint32_t> fragments(128 * 4, 0);
  std::vector<double> left(64 * depth), right(c.columns * depth);
  for (int row = 0; row < 64; row++) {
    for (int k = 0; k < depth; k++) {
      const uint32_t element = randomElement(c.element);
      left[row * depth + k] = valueOf(c.element, element);
      std::memcpy(&image[a.begin + a.offset(row, k + c.advance)], &element, bytesOf(c.element));
      // As mma.m16n8k16 and m16n8k8 have it, 16 rows a warp.
      const int warp = row / 16, r = row % 16;
      if (c.element == Element::tf32) {
        fragments[4 * (32 * warp + r % 8 * 4 + k % 4) + r / 8 + k / 4 * 2] = element;
      } else {
        fragments[4 * (32 * warp + r % 8 * 4 + k % 8 / 2) + r / 8 + k / 8 * 2] |= element << 16 * (k % 2);
      }
    }
  }
  for (int column = 0; column < c.columns; column++) {
    for (int k = 0; k < depth; k++) {
      const uint32_t element = randomElement(c.element);
      right[column * depth + k] = valueOf(c.element, element);
      std::memcpy(&image[b.begin + b.offset(column, k + c.advance)], &element, bytesOf(c.element));
    }
  }
  std::vector<float> start(128 * registers);
  for (float& value : start) value = static_cast<float>(random()() % 100) / 10;

  std::string body = ".reg .f32 %acc<128>;\n" + fillShared(static_cast<uint32_t>(image.size()));
  body += "mul.lo.u32 %r10, %r1, " + std::to_string(4 * registers) +
          "; cvt.u64.u32 %d6, %r10; add.u64 %d8, %p1, %d6;\n" + moveAccumulators(true, registers) +
          "mul.wide.u32 %d9, %r1, 16; add.u64 %d9, %p3, %d9; ld.global.v4.u32 {%r11,%r12,%r13,%r14}, [%d9];\n"
          "add.u64 %d10, %d5, " +
          std::to_string(a.descriptor()) + "; add.u64 %d11, %d5, " + std::to_string(b.descriptor()) +
          ";\nsetp.ne.u32 %q0, " + (c.adds ? "1" : "0") + ", 0;\nwgmma.fence.sync.aligned;\n" + spelling + " " +
          registerList("%acc", registers) + ", " + (c.registersA ? "{%r11,%r12,%r13,%r14}" : "%d10") +
          ", %d11, %q0, " + std::to_string(c.signA) + ", " + std::to_string(c.signB);
  if (c.element != Element::tf32) {
    if (!c.registersA) body += c.transposeA ? ", 1" : ", 0";
    body += c.transposeB ? ", 1" : ", 0";
  }
  body +=
      ";\nwgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\nadd.u64 %d8, %p2, %d6;\n" +
      moveAccumulators(false, registers);
  Memory memory;
  const Buffer<uint8_t> in(memory, image);
  const Buffer<float> sums(memory, start), out(memory, start.size());
  const Buffer<uint32_t> words(memory, fragments);
  Launch launch;
  launch.block.x = 128;
  const auto result = run(
      memory,
      kernel(body, 4, ".shared .align 1024 .b8 area[" + std::to_string(image.size()) + "];\n", "sm_90a"),
      {in.address(), sums.address(), out.address(), words.address()}, launch);
  const std::vector<float> got = out.values();
  double worst = 0;
  for (int row = 0; row < 64; row++) {
    for (int column = 0; column < c.columns; column++) {
      const int thread = row / 16 * 32 + row % 8 * 4 + column % 8 / 2;
      const size_t at = size_t(thread) * registers + column / 8 * 4 + row % 16 / 8 * 2 + column % 2;
      double sum = c.adds ? start[at] : 0;
      for (int k = 0; k < depth; k++)
        sum += c.signA * left[row * depth + k] * c.signB * right[column * depth + k];
      const double difference = std::fabs(got[at] - sum);
      worst = difference <= worst ? worst : difference;  // keeps a NaN
    }
  }
  check(worst < 1e-5 && result.reports.empty(),
        spelling + " swizzles " + std::to_string(c.swizzleA) + " " + std::to_string(c.swizzleB) +
            (c.transposeA ? " A transposed" : "") + (c.transposeB ? " B transposed" : "") +
            (c.registersA ? " A in registers" : "") + " differs by " + std::to_string(worst) + " " +
            describe(result));
  check(result.counters.mma == 4 && result.counters.mmaFlops == uint64_t(2 * 64 * c.columns * depth),
        "counts of " + spelling);
}

const int kSwizzles[] = {0, 32, 64, 128};

const Test shapes("wgmma shapes", [] {
  int turn = 0;
  for (const Element element : {Element::f16, Element::bf16, Element::tf32}) {
    const bool mayTranspose = element != Element::tf32;
    for (int columns = 8; columns <= 256; columns += 8, turn++) {
      Case c;
      c.element = element;
      c.columns = columns;
      c.swizzleA = kSwizzles[turn % 4];
      c.swizzleB = kSwizzles[turn / 2 % 4];
      c.transposeA = mayTranspose && turn % 3 == 1;
      c.transposeB = mayTranspose && turn % 5 > 2;
      c.registersA = turn % 7 == 3;
      c.signA = turn % 4 == 2 ? -1 : 1;
      c.signB = turn % 6 == 4 ? -1 : 1;
      c.adds = turn % 8 != 5;
      expect(c);
    }
  }
});

const Test layouts("wgmma layouts", [] {
  for (const Element element : {Element::f16, Element::bf16}) {
    for (const int swizzle : kSwizzles) {
      for (int orders = 0; orders < 4; orders++) {
        Case c;
        c.element = element;
        c.columns = 72;
        c.swizzleA = c.swizzleB = swizzle;
        c.transposeA = orders & 1;
        c.transposeB = orders & 2;
        expect(c);
      }
      Case c;
      c.element = element;
      c.swizzleB = swizzle;
      c.registersA = true;
      expect(c);
      c.transposeB = true;
      expect(c);
    }
  }
  // The second, third and fourth step along the sum within a span of 128 bytes.
  for (const Element element : {Element::bf16, Element::tf32}) {
    for (int step = 1; step < 4; step++) {
      Case c;
      c.element = element;
      c.advance = step * 32 / bytesOf(element);
      expect(c);
    }
  }
});

const Test refused("wgmma forms that are refused", [] {
  Memory memory;
  const auto refuses = [&](const std::string& spelling, int registers, const std::string& rest) {
    std::string message;
    try {
      ptxemu::Module::parse(kernel(".reg .f32 %acc<128>;\n" + spelling + " " + registerList("%acc", registers) + rest +
                                       ";",
                                   0, "", "sm_90a"),
                            memory);
    } catch (const ptxemu::ParseError& error) {
      message = error.what();
    }
    check(message.find("unsupported instruction form '" + spelling) != std::string::npos,
          spelling + " is refused at load: " + message);
  };
  const std::string rest = ", %d0, %d1, %q0, 1, 1, 0, 0";
  refuses("wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16", 6, rest);
  refuses("wgmma.mma_async.sync.aligned.m64n264k16.f32.bf16.bf16", 128, rest);
  refuses("wgmma.mma_async.sync.aligned.m64n64k8.f32.bf16.bf16", 32, rest);
  refuses("wgmma.mma_async.sync.aligned.m64n64k16.f16.f16.f16", 16, rest);
  refuses("wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3", 32, rest);
  refuses("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16", 31, rest);
  refuses("wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32", 32, rest);
});

// -- waits
// ----------------------------------------------------------------------------------------------------------

constexpr const char* kProduct =
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0,%f1,%f2,%f3}, %d10, %d11, %q0, 1, 1, 0, 0;\n";
constexpr const char* kFence = "wgmma.fence.sync.aligned;\n";
constexpr const char* kCommit = "wgmma.commit_group.sync.aligned;\n";
std::string waitFor(int keep) { return "wgmma.wait_group.sync.aligned " + std::to_string(keep) + ";\n"; }
constexpr const char* kStore = "st.global.f32 [%d12], %f0;\n";

// All operands are ones, so one product adds 16. p0: the image, p1: one float a thread.
ptxemu::LaunchResult runProducts(const std::string& body, std::vector<float>* got = nullptr, uint64_t seed = 0,
                                 const ptxemu::CheckOptions& checks = ptxemu::CheckOptions::all()) {
  Memory memory;
  const Buffer<uint16_t> in(memory, std::vector<uint16_t>(4096, 0x3f80));
  const Buffer<float> out(memory, 128);
  Launch launch;
  launch.block.x = 128;
  launch.seed = seed;
  launch.checks = checks;
  const Layout a{Element::bf16, 64, false, 32, 0, 0}, b{Element::bf16, 8, false, 32, 4096, 0};
  const auto result =
      run(memory,
          kernel(fillShared(8192) + "add.u64 %d10, %d5, " + std::to_string(a.descriptor()) + "; add.u64 %d11, %d5, " +
                     std::to_string(b.descriptor()) +
                     ";\nmul.wide.u32 %d12, %r1, 4; add.u64 %d12, %p1, %d12; setp.ne.u32 %q0, 1, 0;\n"
                     "mov.f32 %f0, 0f3F800000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;\n" +
                     body,
                 2, ".shared .align 1024 .b8 area[8192];\n", "sm_90a"),
          {in.address(), out.address()}, launch);
  if (got) *got = out.values();
  return result;
}

void expectProducts(const std::string& name, const std::string& kind, const std::string& body, float value = 0) {
  for (const uint64_t seed : {0, 1, 2}) {
    std::vector<float> got;
    const auto result = runProducts(body, &got, seed);
    check(onlyReports(result, kind), name + (kind.empty() ? " has no report" : " is reported as " + kind) +
                                         " (seed " + std::to_string(seed) + "): " + describe(result));
    if (!kind.empty()) continue;
    check(std::all_of(got.begin(), got.end(), [&](float v) { return v == value; }),
          name + " gives " + std::to_string(value) + ", not " + std::to_string(got[0]));
  }
}

const Test waits("wgmma waits", [] {
  const std::string product = std::string(kProduct) + kCommit;
  expectProducts("a product that is waited for", "", kFence + product + waitFor(0) + kStore, 17);
  expectProducts("two products of one group", "", kFence + std::string(kProduct) + product + waitFor(0) + kStore, 33);
  expectProducts("two groups, then a wait for both", "", kFence + product + product + waitFor(0) + kStore, 33);
  expectProducts("waiting in two steps", "", kFence + product + product + waitFor(1) + waitFor(0) + kStore, 33);
  expectProducts("a product between waits", "", kFence + product + waitFor(0) + kFence + product + waitFor(0) + kStore,
                 33);
  expectProducts("no wait at all", "undefined-value", kFence + product + kStore + waitFor(0));
  expectProducts("a wait that leaves the group", "undefined-value", kFence + product + waitFor(1) + kStore + waitFor(0));
  expectProducts("a wait that leaves the second product", "undefined-value",
                 kFence + product + product + waitFor(1) + kStore + waitFor(0));
  expectProducts("a group never committed", "undefined-value", kFence + std::string(kProduct) + waitFor(0) + kStore);
  expectProducts("no fence", "race", product + waitFor(0) + kStore);
  expectProducts("reading another register meanwhile", "",
                 kFence + product + "mov.f32 %f9, 0f40000000; st.global.f32 [%d12], %f9;\n" + waitFor(0), 2);
  expectProducts("accumulators in another order", "bad-operand",
                 kFence + product +
                     "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f0,%f2,%f3}, %d10, %d11, %q0, 1, 1, "
                     "0, 0;\n" +
                     kCommit + waitFor(0));
  std::vector<float> got;
  runProducts(kFence + product + kStore + waitFor(0), &got, 0, ptxemu::CheckOptions::none());
  check(std::isnan(got[0]), "what is read early is not the sum, checkers or none");
});

const Test overwriting("wgmma operands", [] {
  const std::string product = std::string(kProduct) + kCommit;
  // Thread 0 of warp 0 writes a row that warp 3 reads: address 3584 holds row 56.
  const std::string overwrite =
      "setp.ne.u32 %q2, %r1, 0; mov.u32 %r15, area; @!%q2 st.shared.u32 [%r15+3584], 0;\n";
  expectProducts("overwriting behind wait and barrier", "",
                 kFence + product + waitFor(0) + "bar.sync 0;\n" + overwrite + kStore, 17);
  expectProducts("overwriting behind the wait only", "race", kFence + product + waitFor(0) + overwrite + kStore);
  expectProducts("overwriting behind the barrier only", "race",
                 kFence + product + "bar.sync 0;\n" + overwrite + waitFor(0) + kStore);
  expectProducts("a descriptor over the end", "shared-bounds",
                 "add.u64 %d11, %d11, 256;\n" + std::string(kFence) + product + waitFor(0));
});

}  // namespace
}  // namespace ptxtest
