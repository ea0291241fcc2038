// Each checker: a kernel with a bug that it must report, and the right version that it must not.
#include "harness.h"

namespace ptxtest {
namespace {

using ptxemu::Memory;

struct Case {
  std::string name, kind;  // "" for the right version
  std::string body;
  Launch launch;
  std::string module;
};

Launch threads(uint32_t count, uint32_t blocks = 1) {
  Launch launch;
  launch.block.x = count;
  launch.grid.x = blocks;
  return launch;
}

// p0: 256 defined words, p1: 256 undefined words, p2: 256 zero words.
void expect(const Case& test) {
  for (const uint64_t seed : {0, 1, 2}) {
    Memory memory;
    const Buffer<uint32_t> in(memory, std::vector<uint32_t>(256, 3)), out(memory, 256),
        zeros(memory, std::vector<uint32_t>(256, 0));
    Launch launch = test.launch;
    launch.seed = seed;
    const std::string start =
        "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mul.wide.u32 %d1, %r1, 4;\n"
        "add.u64 %d2, %p0, %d1; add.u64 %d3, %p1, %d1; add.u64 %d4, %p2, %d1;\n"
        "mov.u32 %r3, area; shl.b32 %r4, %r1, 2; add.u32 %r5, %r3, %r4;\n";
    const auto result =
        run(memory, kernel(start + test.body, 3, ".shared .align 16 .b8 area[1024];\n" + test.module),
            {in.address(), out.address(), zeros.address()}, launch);
    check(onlyReports(result, test.kind),
          test.name + (test.kind.empty() ? " has no report" : " is reported as " + test.kind) + " (seed " +
              std::to_string(seed) + "): " + describe(result));
  }
}

const Test bounds("bounds and alignment", [] {
  expect({"reading the last word", "", "ld.global.u32 %r6, [%p0+1020];", threads(32), ""});
  expect(
      {"reading behind an allocation", "global-bounds", "ld.global.u32 %r6, [%p0+1024];", threads(32), ""});
  expect({"writing before an allocation", "global-bounds", "st.global.u32 [%p0+-4], %r1;", threads(32), ""});
  expect({"a vector over the end", "global-bounds", "ld.global.v4.u32 {%r6,%r7,%r8,%r9}, [%p0+1016];",
          [] {
            Launch l;
            l.checks.alignment = false;
            return l;
          }(),
          ""});
  expect({"a null pointer", "global-bounds", "mov.u64 %d5, 0; ld.global.u32 %r6, [%d5];", threads(1), ""});
  expect({"shared memory up to its end", "", "st.shared.u32 [%r3+1020], %r2;", threads(1), ""});
  expect({"shared memory over its end", "shared-bounds", "st.shared.u32 [%r3+1024], %r2;", threads(1), ""});
  expect({"shared memory through a generic address", "shared-bounds",
          "cvt.u64.u32 %d5, %r3; cvta.shared.u64 %d6, %d5; st.u32 [%d6+1024], %r2;", threads(1), ""});
  expect({"local memory over its end", "local-bounds",
          ".local .align 4 .b8 depot[16]; mov.u64 %d5, depot; st.local.u32 [%d5+16], %r1;", threads(32), ""});
  expect({"a parameter over the end", "param-bounds", "ld.param.u64 %d5, [p2+8];", threads(1), ""});
  expect({"an aligned vector", "", "ld.global.v4.u32 {%r6,%r7,%r8,%r9}, [%p0+16];", threads(1), ""});
  expect(
      {"a vector at 4 bytes", "misaligned", "ld.global.v4.u32 {%r6,%r7,%r8,%r9}, [%p0+4];", threads(1), ""});
  expect({"a word at 2 bytes", "misaligned", "st.shared.u32 [%r3+2], %r2;", threads(1), ""});
});

const Test definedness("definedness", [] {
  expect({"storing an undefined word", "undefined-value",
          "ld.global.u32 %r6, [%d3]; st.global.u32 [%d4], %r6;", threads(32), ""});
  expect(
      {"dropping an undefined word", "", "ld.global.u32 %r6, [%d3]; add.u32 %r6, %r6, 1;", threads(32), ""});
  expect({"choosing against an undefined word", "",
          "ld.global.u32 %r6, [%d3]; setp.lt.u32 %q0, %r1, 40; selp.u32 %r7, %r1, %r6, %q0; st.global.u32 "
          "[%d4], %r7;",
          threads(32), ""});
  expect(
      {"a sum with an undefined word", "undefined-value",
       "ld.global.u32 %r6, [%d3]; ld.global.u32 %r7, [%d2]; add.u32 %r6, %r6, %r7; st.global.u32 [%d4], %r6;",
       threads(32), ""});
  expect({"branching on an undefined word", "undefined-value",
          "ld.global.u32 %r6, [%d3]; setp.eq.u32 %q0, %r6, 0; @%q0 bra END; add.u32 %r7, %r1, 1;\nEND:",
          threads(32), ""});
  expect({"an undefined address", "undefined-value",
          "ld.shared.u32 %r6, [%r5]; and.b32 %r6, %r6, 252; add.u32 %r6, %r6, %r3; ld.shared.u32 %r7, [%r6];",
          threads(32), ""});
  expect({"shared memory written first", "",
          "st.shared.u32 [%r5], %r1; ld.shared.u32 %r6, [%r5]; st.global.u32 [%d4], %r6;", threads(32), ""});
  expect({"undefined through shared memory", "undefined-value",
          "ld.global.u32 %r6, [%d3]; st.shared.u32 [%r5], %r6; ld.shared.u32 %r7, [%r5]; st.global.u32 "
          "[%d4], %r7;",
          threads(32), ""});
  expect({"undefined through a shuffle", "undefined-value",
          "mov.u32 %r6, 1; setp.ne.u32 %q0, %r1, 5; @!%q0 ld.global.u32 %r6, [%d3];\n"
          "shfl.sync.idx.b32 %r7, %r6, 5, 31, 0xffffffff; st.global.u32 [%d4], %r7;",
          threads(32), ""});
  expect({"another lane of the same shuffle", "",
          "mov.u32 %r6, 1; setp.ne.u32 %q0, %r1, 5; @!%q0 ld.global.u32 %r6, [%d3];\n"
          "shfl.sync.idx.b32 %r7, %r6, 6, 31, 0xffffffff; st.global.u32 [%d4], %r7;",
          threads(32), ""});
  expect({"the defined half of a packed register", "",
          "ld.global.u16 %h1, [%d3]; mov.u16 %h2, 7; mov.b32 %r6, {%h1, %h2}; mov.b32 {%h3, %h4}, %r6;\n"
          "st.global.u16 [%d4], %h4;",
          threads(32), ""});
  expect({"the undefined half of a packed register", "undefined-value",
          "ld.global.u16 %h1, [%d3]; mov.u16 %h2, 7; mov.b32 %r6, {%h1, %h2}; mov.b32 {%h3, %h4}, %r6;\n"
          "st.global.u16 [%d4], %h3;",
          threads(32), ""});
  expect({"a register never written", "undefined-value", "st.global.u32 [%d4], %r20;", threads(32), ""});
  expect({"a register written under the same guard", "",
          "setp.lt.u32 %q0, %r1, 9; @%q0 mov.u32 %r20, 4; @%q0 st.global.u32 [%d4], %r20;", threads(32), ""});
  expect(
      {"an atomic on undefined memory", "undefined-value", "red.global.add.u32 [%d3], 1;", threads(32), ""});
  expect({"local memory never written", "undefined-value",
          ".local .align 4 .b8 depot[16]; mov.u64 %d5, depot; ld.local.u32 %r6, [%d5+4]; st.global.u32 "
          "[%d4], %r6;",
          threads(32), ""});
  // mma: an undefined row of A spoils its row of D only.
  const std::string mma =
      "mov.u32 %r10, 0; mov.u32 %r11, 0; setp.lt.u32 %q0, %r1, 4; @%q0 ld.global.u32 %r10, [%d3];\n"
      "mov.f32 %f0, 0f00000000;\n"
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4,%f5,%f6,%f7}, {%r10,%r11,%r11,%r11}, "
      "{%r11,%r11}, {%f0,%f0,%f0,%f0};\n";
  expect({"the clean rows of an mma", "", mma + "@!%q0 st.global.f32 [%d4], %f4; st.global.f32 [%d4], %f6;",
          threads(32), ""});
  expect(
      {"the spoiled row of an mma", "undefined-value", mma + "st.global.f32 [%d4], %f4;", threads(32), ""});
});

const std::string kExchange = "xor.b32 %r6, %r4, 128; add.u32 %r6, %r6, %r3; st.shared.u32 [%r5], %r1;\n";

const Test races("races in shared memory", [] {
  expect(
      {"exchange with a barrier", "", kExchange + "bar.sync 0; ld.shared.u32 %r7, [%r6];", threads(64), ""});
  expect({"exchange without a barrier", "race", kExchange + "ld.shared.u32 %r7, [%r6]; bar.sync 0;",
          [] {
            Launch l = threads(64);
            l.checks.definedness = false;
            return l;
          }(),
          ""});
  expect({"writing again without a barrier", "race",
          kExchange + "bar.sync 0; ld.shared.u32 %r7, [%r6]; st.shared.u32 [%r5], %r7;", threads(64), ""});
  expect({"writing again behind a barrier", "",
          kExchange + "bar.sync 0; ld.shared.u32 %r7, [%r6]; bar.sync 0; st.shared.u32 [%r5], %r7;",
          threads(64), ""});
  expect({"two warps write one word", "race", "st.shared.u32 [%r3], %r1;", threads(64), ""});
  expect({"two warps write halves of one word", "",
          "shr.u32 %r6, %r1, 5; shl.b32 %r6, %r6, 1; add.u32 %r6, %r6, %r3; mov.u16 %h1, 5; st.shared.u16 "
          "[%r6], %h1;",
          threads(64), ""});
  expect({"atomics of two warps", "",
          "setp.ne.u32 %q0, %r1, 0; @!%q0 st.shared.u32 [%r3], 0; bar.sync 0;\n"
          "atom.shared.add.u32 %r6, [%r3], 1;",
          threads(64), ""});
  // Named barriers: warp 0 produces, warp 1 consumes; 64 threads in all.
  const std::string produce =
      "setp.ge.u32 %q0, %r1, 32; @%q0 bra CONSUME;\nst.shared.u32 [%r5], %r1; bar.arrive 1, 64; bra END;\n";
  expect({"producer and consumer at a named barrier", "",
          produce + "CONSUME: bar.sync 1, 64; ld.shared.u32 %r7, [%r5+-128];\nEND:", threads(64), ""});
  expect({"a producer that overwrites too early", "race",
          "setp.ge.u32 %q0, %r1, 32; @%q0 bra CONSUME;\nst.shared.u32 [%r5], %r1; bar.arrive 1, 64; "
          "st.shared.u32 [%r5], %r1; bra END;\n"
          "CONSUME: bar.sync 1, 64; ld.shared.u32 %r7, [%r5+-128];\nEND:",
          threads(64), ""});
  expect({"bar.red orders too", "",
          kExchange + "setp.eq.u32 %q1, %r1, 3; bar.red.popc.u32 %r8, 0, %q1; ld.shared.u32 %r7, [%r6];",
          threads(64), ""});
});

const Test globalRaces("races in global memory", [] {
  const std::string slot =
      "mad.lo.u32 %r6, %r2, 4, 0; cvt.u64.u32 %d5, %r6; add.u64 %d5, %p2, %d5; setp.ne.u32 %q0, %r1, 0;\n";
  expect({"blocks write their own words", "", slot + "@!%q0 st.global.u32 [%d5], %r2;", threads(32, 8), ""});
  expect({"blocks write one word", "race", "setp.ne.u32 %q0, %r1, 0; @!%q0 st.global.u32 [%p2], %r2;",
          threads(32, 8), ""});
  expect({"a block reads what another writes", "race",
          slot + "@!%q0 st.global.u32 [%d5], %r2; ld.global.u32 %r7, [%p2];", threads(32, 8), ""});
  expect({"all blocks read, one writes", "race",
          "ld.global.u32 %r7, [%p0]; setp.eq.u32 %q1, %r2, 3; @%q1 st.global.u32 [%p0], 1;", threads(1, 8),
          ""});
  expect({"atomics of all blocks", "", "red.global.add.u32 [%p2], 1;", threads(32, 8), ""});
  expect({"warps of a block at a barrier", "",
          "st.global.u32 [%d4], %r1; bar.sync 0; xor.b32 %r6, %r4, 128; cvt.u64.u32 %d5, %r6; add.u64 %d5, "
          "%p2, %d5; ld.global.u32 %r7, [%d5];",
          threads(64), ""});
  expect({"warps of a block without a barrier", "race",
          "st.global.u32 [%d4], %r1; xor.b32 %r6, %r4, 128; cvt.u64.u32 %d5, %r6; add.u64 %d5, %p2, %d5; "
          "ld.global.u32 %r7, [%d5];",
          threads(64), ""});
  // The last block sums what the others wrote: fence, then a counter.
  const std::string last = slot + "@%q0 bra END; st.global.u32 [%d5], 1;\n";
  const std::string sum =
      "atom.global.add.u32 %r7, [%p2+512], 1; setp.ne.u32 %q1, %r7, 7; @%q1 bra END;\n"
      "membar.gl; ld.global.u32 %r8, [%p2]; ld.global.u32 %r9, [%p2+28];\nEND:";
  expect({"the last block, with fences", "", last + "membar.gl; " + sum, threads(32, 8), ""});
  expect({"the last block, without a fence", "race", last + sum, threads(32, 8), ""});
});

const Test barriers("barriers and deadlocks", [] {
  expect({"a barrier that half a warp skips", "barrier-divergence",
          "and.b32 %r6, %r1, 1; setp.eq.u32 %q0, %r6, 0; @%q0 bar.sync 0;\n@!%q0 bar.sync 0;", threads(32),
          ""});
  expect({"threads that left are not waited for", "", "setp.ge.u32 %q0, %r1, 32; @%q0 ret; bar.sync 0;",
          threads(64), ""});
  expect({"a barrier that a warp never reaches", "deadlock",
          "setp.ge.u32 %q0, %r1, 32; @%q0 bra OTHER; bar.sync 1, 64; bra END;\nOTHER: bar.sync 2, 64;\nEND:",
          threads(64), ""});
  expect({"an endless loop", "hang", "LOOP: add.u32 %r6, %r1, 1; bra LOOP;",
          [] {
            Launch l;
            l.instructionLimit = 1 << 20;
            return l;
          }(),
          ""});
  expect({"a shuffle with a lane that never comes", "deadlock",
          "setp.eq.u32 %q0, %r1, 0; @%q0 bra ZERO; shfl.sync.idx.b32 %r6, %r1, 0, 31, 0xffffffff; bra END;\n"
          "ZERO: bar.warp.sync 0xffffffff;\nEND:",
          threads(32), ""});
  expect({"a shuffle from a lane outside the members", "inactive-lane",
          "setp.lt.u32 %q0, %r1, 16; @!%q0 bra END; shfl.sync.idx.b32 %r6, %r1, 20, 31, 0x0000ffff;\nEND:",
          threads(32), ""});
  expect({"a trap", "trap", "trap;", threads(32), ""});
});

const Test copies("cp.async", [] {
  const std::string copy =
      "shl.b32 %r6, %r1, 4; add.u32 %r7, %r3, %r6; cvt.u64.u32 %d5, %r6; add.u64 %d6, %p0, %d5;\n"
      "cp.async.cg.shared.global [%r7], [%d6], 16; cp.async.commit_group;\n";
  const std::string use = "ld.shared.u32 %r8, [%r7]; st.global.u32 [%d4], %r8;";
  expect({"a copy that is waited for", "", copy + "cp.async.wait_group 0; " + use, threads(32), ""});
  expect(
      {"a copy that is waited for with wait_all", "", copy + "cp.async.wait_all; " + use, threads(32), ""});
  Launch noRaces = threads(32), noDefinedness = threads(32);
  noRaces.checks.races = false;
  noDefinedness.checks.definedness = false;
  expect({"a wait that leaves one group", "undefined-value", copy + "cp.async.wait_group 1; " + use, noRaces,
          ""});
  expect({"a copy still in flight", "race", copy + "cp.async.wait_group 1; " + use, noDefinedness, ""});
  expect({"another warp's copy behind a barrier", "",
          copy + "cp.async.wait_group 0; bar.sync 0; xor.b32 %r9, %r6, 512; add.u32 %r9, %r9, %r3; "
                 "ld.shared.u32 %r8, [%r9];",
          threads(64), ""});
  noDefinedness = threads(64);
  noDefinedness.checks.definedness = false;
  expect(
      {"another warp's copy without a barrier", "race",
       copy +
           "cp.async.wait_group 0; xor.b32 %r9, %r6, 512; add.u32 %r9, %r9, %r3; ld.shared.u32 %r8, [%r9];",
       noDefinedness, ""});
});

const Test lines("reports name their place", [] {
  Memory memory;
  const std::string ptx =
      ".version 8.3\n.target sm_80\n.address_size 64\n.visible .entry test(.param .u64 p0)\n{\n"
      ".reg .b64 %d<4>; .reg .b32 %r<4>;\n.loc 1 17 3\nld.param.u64 %d1, [p0];\n.loc 1 42 5\n"
      "st.global.u32 [%d1+400], 1;\nret;\n}\n.file 1 \"kernels/demo.cu\"\n";
  const Buffer<uint32_t> out(memory, 4);
  Launch launch;
  launch.grid = {3, 1, 1};
  const auto result = run(memory, ptx, {out.address()}, launch);
  check(!result.ok && result.fault == ptxemu::Fault::illegalAddress, "an illegal address is a fault");
  const ptxemu::Report report = result.reports.empty() ? ptxemu::Report() : result.reports[0];
  check(report.file == "kernels/demo.cu" && report.line == 42 && report.ptxLine == 10,
        "line of the report: " + report.text());
  check(report.kernel == "test" && report.block.x == 0 && report.warp == 0 && report.lane == 0,
        "thread of the report");
});

}  // namespace
}  // namespace ptxtest
