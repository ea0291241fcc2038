// Shuffles, votes, matches, reductions, barriers of a warp, divergence and control flow.
#include <numeric>

#include "harness.h"

namespace ptxtest {
namespace {

using ptxemu::Memory;

// Runs 32 threads with a source value each; the body finds it in %r0 (and thread number in %r1) and leaves
// its result in %r2.
std::vector<uint32_t> runLanes(const std::string& body, const std::vector<uint32_t>& in, uint64_t seed = 0) {
  Memory memory;
  const Buffer<uint32_t> source(memory, in), out(memory, in.size());
  Launch launch;
  launch.block.x = static_cast<uint32_t>(in.size());
  launch.seed = seed;
  const auto result = run(memory,
                          kernel("mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 4; add.u64 %d2, %p0, %d1;\n"
                                 "add.u64 %d3, %p1, %d1; ld.global.u32 %r0, [%d2];\n" +
                                     body + "\nst.global.u32 [%d3], %r2;",
                                 2),
                          {source.address(), out.address()}, launch);
  check(result.ok && result.reports.empty(), "no reports: " + describe(result));
  return out.values();
}

std::vector<uint32_t> randomLanes() {
  std::vector<uint32_t> values(32);
  for (uint32_t& value : values) value = static_cast<uint32_t>(random()());
  return values;
}

// Shuffle as the PTX manual writes it.
struct Shuffled {
  uint32_t value;
  bool valid;
};
Shuffled shuffleModel(const std::string& mode, const std::vector<uint32_t>& a, int lane, uint32_t b,
                      uint32_t c) {
  const int bval = static_cast<int>(b & 31), cval = static_cast<int>(c & 31),
            mask = static_cast<int>(c >> 8 & 31);
  const int maxLane = (lane & mask) | (cval & ~mask), minLane = lane & mask;
  int j = 0;
  bool valid = false;
  if (mode == "up") j = lane - bval, valid = j >= maxLane;
  if (mode == "down") j = lane + bval, valid = j <= maxLane;
  if (mode == "bfly") j = lane ^ bval, valid = j <= maxLane;
  if (mode == "idx") j = minLane | (bval & ~mask), valid = j <= maxLane;
  if (!valid) j = lane;
  return {a[j], valid};
}

const Test shuffles("shfl.sync", [] {
  for (const std::string mode : {"up", "down", "bfly", "idx"}) {
    for (const uint32_t width : {32u, 16u, 8u, 1u}) {
      for (const uint32_t b : {0u, 1u, 5u, 16u, 31u}) {
        const uint32_t c = (32 - width) << 8 | (mode == "up" ? 0 : 31);
        const auto in = randomLanes();
        const auto out = runLanes("shfl.sync." + mode + ".b32 %r2|%q0, %r0, " + std::to_string(b) + ", " +
                                      std::to_string(c) +
                                      ", 0xffffffff; selp.u32 %r3, 0x80000000, 0, %q0;\n"
                                      "and.b32 %r2, %r2, 0x7fffffff; or.b32 %r2, %r2, %r3;",
                                  in);
        bool same = true;
        for (int lane = 0; lane < 32; lane++) {
          const Shuffled want = shuffleModel(mode, in, lane, b, c);
          same &= out[lane] == ((want.value & 0x7fffffff) | (want.valid ? 0x80000000 : 0));
        }
        check(same,
              "shfl.sync." + mode + " by " + std::to_string(b) + " in segments of " + std::to_string(width));
      }
    }
  }
});

const Test votes("votes, matches, redux, activemask", [] {
  auto in = randomLanes();
  for (uint32_t& value : in) value &= 3;
  const auto ballot = runLanes("setp.eq.u32 %q0, %r0, 1; vote.sync.ballot.b32 %r2, %q0, 0xffffffff;", in);
  uint32_t want = 0;
  for (int lane = 0; lane < 32; lane++) want |= uint32_t(in[lane] == 1) << lane;
  check(ballot == std::vector<uint32_t>(32, want), "ballot");
  const auto negated = runLanes("setp.eq.u32 %q0, %r0, 1; vote.sync.ballot.b32 %r2, !%q0, 0xffffffff;", in);
  check(negated == std::vector<uint32_t>(32, ~want), "ballot of a negated predicate");
  const char* names[] = {"all", "any", "uni"};
  for (const uint32_t value : {0u, 1u, 9u}) {
    std::vector<uint32_t> flags(32, value == 9 ? 0 : value);
    if (value == 9) flags[7] = 1;
    const uint32_t count = std::accumulate(flags.begin(), flags.end(), 0u);
    const bool expected[] = {count == 32, count > 0, count == 0 || count == 32};
    for (int i = 0; i < 3; i++) {
      const auto got = runLanes(std::string("setp.ne.u32 %q0, %r0, 0; vote.sync.") + names[i] +
                                    ".pred %q1, %q0, 0xffffffff; selp.u32 %r2, 1, 0, %q1;",
                                flags);
      check(got == std::vector<uint32_t>(32, expected[i]), std::string("vote.") + names[i]);
    }
  }
  const auto match = runLanes("match.any.sync.b32 %r2, %r0, 0xffffffff;", in);
  const auto match64 = runLanes("cvt.u64.u32 %d5, %r0; match.any.sync.b64 %r2, %d5, 0xffffffff;", in);
  bool same = true;
  for (int lane = 0; lane < 32; lane++) {
    uint32_t mask = 0;
    for (int other = 0; other < 32; other++) mask |= uint32_t(in[other] == in[lane]) << other;
    same &= match[lane] == mask && match64[lane] == mask;
  }
  check(same, "match.any");
  const std::string all =
      "match.all.sync.b32 %r2|%q0, %r0, 0xffffffff; selp.u32 %r3, 1, 0, %q0; add.u32 %r2, %r2, %r3;";
  check(runLanes(all, std::vector<uint32_t>(32, 5)) == std::vector<uint32_t>(32, 0),
        "match.all of equal values");
  check(runLanes(all, {in.begin(), in.end()}) == std::vector<uint32_t>(32, 0),
        "match.all of different values");
  const std::pair<const char*, std::function<uint32_t(uint32_t, uint32_t)>> reductions[] = {
      {"add.u32", [](uint32_t a, uint32_t b) { return a + b; }},
      {"add.s32", [](uint32_t a, uint32_t b) { return a + b; }},
      {"min.u32", [](uint32_t a, uint32_t b) { return std::min(a, b); }},
      {"max.u32", [](uint32_t a, uint32_t b) { return std::max(a, b); }},
      {"min.s32", [](uint32_t a, uint32_t b) { return uint32_t(std::min(int32_t(a), int32_t(b))); }},
      {"max.s32", [](uint32_t a, uint32_t b) { return uint32_t(std::max(int32_t(a), int32_t(b))); }},
      {"and.b32", [](uint32_t a, uint32_t b) { return a & b; }},
      {"or.b32", [](uint32_t a, uint32_t b) { return a | b; }},
      {"xor.b32", [](uint32_t a, uint32_t b) { return a ^ b; }}};
  for (const auto& [name, combine] : reductions) {
    const auto values = randomLanes();
    uint32_t expected = values[0];
    for (int lane = 1; lane < 32; lane++) expected = combine(expected, values[lane]);
    check(runLanes(std::string("redux.sync.") + name + " %r2, %r0, 0xffffffff;", values) ==
              std::vector<uint32_t>(32, expected),
          std::string("redux.sync.") + name);
  }
  const auto active = runLanes(
      "and.b32 %r3, %r1, 1; setp.eq.u32 %q0, %r3, 0; activemask.b32 %r2;\n"
      "@%q0 bra EVEN; activemask.b32 %r2; EVEN:",
      std::vector<uint32_t>(32, 0));
  check(active[0] == 0xffffffff && active[1] == 0xaaaaaaaa, "activemask under divergence");
  const auto elected =
      runLanes("elect.sync %r3|%q0, 0xffffffff; selp.u32 %r2, 1, 0, %q0; add.u32 %r2, %r2, %r3;",
               std::vector<uint32_t>(32, 0));
  check(elected[0] == 1 && elected[1] == 0, "elect.sync picks the lowest lane");
});

const Test divergence("divergence and reconvergence", [] {
  // Lane l runs l rounds; then all shuffle together.
  const auto loops = runLanes(
      "mov.u32 %r4, 0; mov.u32 %r5, 0;\nLOOP: setp.ge.u32 %q0, %r4, %r1; @%q0 bra DONE;\n"
      "add.u32 %r5, %r5, %r4; add.u32 %r4, %r4, 1; bra LOOP;\n"
      "DONE: shfl.sync.idx.b32 %r2, %r5, 31, 31, 0xffffffff; add.u32 %r2, %r2, %r5;",
      std::vector<uint32_t>(32, 0));
  bool same = true;
  for (uint32_t lane = 0; lane < 32; lane++) same &= loops[lane] == 31 * 30 / 2 + lane * (lane - 1) / 2;
  check(same, "a loop with another trip count in each lane");

  const auto table = runLanes(
      "and.b32 %r3, %r1, 3; TABLE: .branchtargets A, B, C, D;\nbrx.idx %r3, TABLE;\n"
      "A: mov.u32 %r2, 10; bra END;\nB: mov.u32 %r2, 20; bra END;\nC: mov.u32 %r2, 30; bra END;\n"
      "D: mov.u32 %r2, 40;\nEND:",
      std::vector<uint32_t>(32, 0));
  same = true;
  for (uint32_t lane = 0; lane < 32; lane++) same &= table[lane] == 10 * (lane % 4 + 1);
  check(same, "brx.idx");

  // Halves of the warp at different bar.warp.sync and shuffles with their own member masks.
  const auto apart = runLanes(
      "setp.lt.u32 %q0, %r1, 16; @%q0 bra LOW;\n"
      "shfl.sync.bfly.b32 %r2, %r0, 1, 31, 0xffff0000; bra JOIN;\n"
      "LOW: shfl.sync.bfly.b32 %r2, %r0, 2, 31, 0x0000ffff;\nJOIN: bar.warp.sync 0xffffffff;",
      [] {
        std::vector<uint32_t> v(32);
        std::iota(v.begin(), v.end(), 0u);
        return v;
      }());
  same = true;
  for (uint32_t lane = 0; lane < 32; lane++) same &= apart[lane] == (lane < 16 ? lane ^ 2 : lane ^ 1);
  check(same, "shuffles with partial member masks");

  // One half waits at a shuffle for the other, which jumps back to it from further down.
  const auto behind = runLanes(
      "bra START;\nMEET: shfl.sync.bfly.b32 %r2, %r1, 16, 31, 0xffffffff; bra END;\n"
      "START: setp.lt.u32 %q0, %r1, 16; @%q0 bra MEET; bra MEET;\nEND:",
      std::vector<uint32_t>(32, 0));
  same = true;
  for (uint32_t lane = 0; lane < 32; lane++) same &= behind[lane] == (lane ^ 16);
  check(same, "a shuffle that half of the warp comes to by a jump back");

  // A lane waits, in a loop, for another lane of its warp: all lanes must make progress.
  Memory memory;
  const Buffer<uint32_t> flag(memory, std::vector<uint32_t>{0, 0});
  const auto spin =
      run(memory,
          kernel("mov.u32 %r1, %tid.x; setp.ne.u32 %q0, %r1, 0; @%q0 bra SET;\n"
                 "WAIT: ld.volatile.global.u32 %r2, [%p0]; setp.eq.u32 %q1, %r2, 0; @%q1 bra WAIT;\n"
                 "bra END;\nSET: st.volatile.global.u32 [%p0], 1;\nEND:",
                 1),
          {flag.address()}, [] {
            Launch launch;
            launch.block.x = 2;
            return launch;
          }());
  check(spin.ok && spin.reports.empty(), "a lane that polls for another lane: " + describe(spin));

  // No lane starves where a warp comes together now and then, however long it runs: a barrier needs all lanes.
  const auto longLoop =
      run(memory,
          kernel("mov.u32 %r1, %tid.x; mov.u32 %r2, 0;\n"
                 "LOOP: setp.ne.u32 %q0, %r1, 0; @%q0 bra JOIN; add.u32 %r3, %r2, 1;\n"
                 "JOIN: bar.sync 0; add.u32 %r2, %r2, 1; setp.lt.u32 %q1, %r2, 60000; @%q1 bra LOOP;",
                 1),
          {flag.address()}, [] {
            Launch launch;
            launch.block.x = 32;
            launch.seed = 2;
            return launch;
          }());
  check(longLoop.ok && longLoop.reports.empty(), "a long loop with a barrier: " + describe(longLoop));
});

const Test calls("functions", [] {
  const std::string functions =
      ".func (.param .b32 result) twice(.param .b32 x) { .reg .b32 %v; ld.param.b32 %v, [x]; add.u32 %v, %v, "
      "%v;\n"
      "st.param.b32 [result], %v; ret; }\n"
      ".func (.param .b32 result) choose(.param .b32 x) { .reg .b32 %v; .reg .pred %c; ld.param.b32 %v, "
      "[x];\n"
      "setp.gt.u32 %c, %v, 10; @%c bra BIG; st.param.b32 [result], %v; ret;\n"
      "BIG: { .param .b32 a; .param .b32 r; st.param.b32 [a], %v; call (r), twice, (a); ld.param.b32 %v, "
      "[r]; }\n"
      "st.param.b32 [result], %v; ret; }\n"
      ".global .align 8 .u64 table[2] = {twice, choose};\n";
  Memory memory;
  const Buffer<uint32_t> out(memory, 32);
  const std::string body =
      "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 4; add.u64 %d1, %p0, %d1;\n"
      "{ .param .b32 a; .param .b32 r; st.param.b32 [a], %r1; call.uni (r), choose, (a); ld.param.b32 %r2, "
      "[r]; }\n"
      "and.b32 %r3, %r1, 1; mul.wide.u32 %d2, %r3, 8; mov.u64 %d3, table; add.u64 %d3, %d3, %d2; "
      "ld.global.u64 %d4, [%d3];\n"
      "{ .param .b32 a; .param .b32 r; st.param.b32 [a], %r2;\n"
      "proto: .callprototype (.param .b32 _) _ (.param .b32 _);\n"
      "call (r), %d4, (a), proto; ld.param.b32 %r2, [r]; }\n"
      "st.global.u32 [%d1], %r2;";
  const auto result = run(memory, kernel(body, 1, functions), {out.address()});
  const auto choose = [](uint32_t x) { return x > 10 ? 2 * x : x; };
  bool same = result.ok && result.reports.empty();
  for (uint32_t lane = 0; lane < 32; lane++) {
    const uint32_t first = choose(lane);
    same &= out.values()[lane] == (lane % 2 ? choose(first) : 2 * first);
  }
  check(same, "calls, nested calls and calls through a table: " + describe(result));
});

const Test barrierVotes("bar.red over two warps", [] {
  for (const uint32_t limit : {0u, 1u, 40u, 64u}) {
    std::vector<uint32_t> in(64);
    std::iota(in.begin(), in.end(), 0u);
    const auto out = runLanes("setp.lt.u32 %q0, %r0, " + std::to_string(limit) +
                                  "; bar.red.and.pred %q1, 0, %q0; bar.red.or.pred %q2, 0, %q0;\n"
                                  "selp.u32 %r2, 2, 0, %q1; selp.u32 %r3, 1, 0, %q2; or.b32 %r2, %r2, %r3;",
                              in);
    const uint32_t want = (limit == 64 ? 2 : 0) | (limit > 0 ? 1 : 0);
    bool same = true;
    for (const uint32_t value : out) same &= value == want;
    check(same, "bar.red of the lanes below " + std::to_string(limit));
  }
});

}  // namespace
}  // namespace ptxtest
