// mbarrier against a plain count: phases, tokens and parities, arrivals with counts, expected bytes.
#include "harness.h"

namespace ptxtest {
namespace {

using ptxemu::Memory;

// One block; %r1 is the thread number, %r2 the barrier, %d3 the thread's word of the result, %q0 false in thread 0.
std::vector<uint32_t> runThreads(const std::string& body, uint32_t threads, const std::string& name,
                                 const std::string& kind = "") {
  std::vector<uint32_t> first;
  for (const uint64_t seed : {0, 1, 2}) {
    Memory memory;
    const Buffer<uint32_t> out(memory, std::vector<uint32_t>(threads, 0));
    Launch launch;
    launch.block.x = threads;
    launch.seed = seed;
    const auto result = run(
        memory,
        kernel("mov.u32 %r1, %tid.x; mov.u32 %r2, barrier; mul.wide.u32 %d3, %r1, 4; add.u64 %d3, %p0, %d3;\n"
               "setp.ne.u32 %q0, %r1, 0;\n" +
                   body,
               1, ".shared .align 8 .b8 barrier[64];\n.shared .align 16 .b8 area[1024];\n", "sm_90a"),
        {out.address()}, launch);
    check(onlyReports(result, kind), name + (kind.empty() ? " has no report" : " is reported as " + kind) +
                                         " (seed " + std::to_string(seed) + "): " + describe(result));
    if (seed == 0) first = out.values();
    if (kind.empty()) check(out.values() == first, name + " gives the same in any order of warps");
  }
  return first;
}

std::string init(int count) {
  return "@!%q0 mbarrier.init.shared::cta.b64 [%r2], " + std::to_string(count) + ";\nbar.sync 0;\n";
}
// The state of a phase that is over, in bits 1 and 0: by parity 0 and by parity 1.
const std::string kTestParities =
    "mbarrier.test_wait.parity.shared::cta.b64 %q3, [%r2], 0; mbarrier.test_wait.parity.shared::cta.b64 %q4, [%r2], 1;\n"
    "selp.u32 %r20, 2, 0, %q3; selp.u32 %r21, 1, 0, %q4; or.b32 %r20, %r20, %r21;\n";
const std::string kStore = "st.global.u32 [%d3], %r20;\n";

const Test phases("mbarrier phases", [] {
  // One thread; arrivals complete a phase when their count is reached. Of a fresh barrier the phase before, of
  // parity 1, is over.
  for (int count = 1; count <= 3; count++) {
    for (int arrivals = 0; arrivals <= 7; arrivals++) {
      std::string body = init(count);
      for (int i = 0; i < arrivals; i++) body += "mbarrier.arrive.shared::cta.b64 _, [%r2];\n";
      const auto out = runThreads(body + kTestParities + kStore, 1, "arrivals");
      const int phase = arrivals / count;
      check(out[0] == (phase % 2 ? 2u : 1u), std::to_string(arrivals) + " arrivals of " + std::to_string(count));
    }
  }
  const auto counted = runThreads(init(5) + "mbarrier.arrive.shared::cta.b64 %d1, [%r2], 3;\n"
                                            "mbarrier.arrive.shared::cta.b64 %d2, [%r2], 1;\n"
                                            "mbarrier.pending_count.b64 %r10, %d1; mbarrier.pending_count.b64 %r11, "
                                            "%d2; shl.b32 %r11, %r11, 8; or.b32 %r20, %r10, %r11;\n" + kStore,
                                  1, "tokens");
  check(counted[0] == (5 | 2 << 8), "a token holds the count before its arrival");
  const auto token = runThreads(
      init(2) + "mbarrier.arrive.shared::cta.b64 %d1, [%r2]; mbarrier.test_wait.shared::cta.b64 %q3, [%r2], %d1;\n"
                "mbarrier.arrive.shared::cta.b64 %d2, [%r2]; mbarrier.test_wait.shared::cta.b64 %q4, [%r2], %d1;\n"
                "mbarrier.try_wait.shared::cta.b64 %q5, [%r2], %d2;\n"
                "selp.u32 %r20, 4, 0, %q3; selp.u32 %r21, 2, 0, %q4; or.b32 %r20, %r20, %r21;\n"
                "selp.u32 %r21, 1, 0, %q5; or.b32 %r20, %r20, %r21;\n" + kStore,
      1, "tests by token");
  check(token[0] == 3, "a phase is over for the tokens of its arrivals");
  const auto dropped = runThreads(
      init(2) + "mbarrier.arrive_drop.shared::cta.b64 %d1, [%r2]; mbarrier.arrive.shared::cta.b64 _, [%r2];\n"
                "mbarrier.arrive.shared::cta.b64 _, [%r2];\n" + kTestParities + kStore,
      1, "arrive_drop");
  check(dropped[0] == 1, "later phases expect one arrival less: two phases are over");
});

const Test transactions("mbarrier expected bytes", [] {
  const std::string expectBytes = "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], 48;\n",
                    arrive = "mbarrier.arrive.shared::cta.b64 _, [%r2];\n";
  const auto complete = [](int bytes) {
    return "mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r2], " + std::to_string(bytes) + ";\n";
  };
  const auto state = [&](const std::string& body) {
    return runThreads(init(1) + body + kTestParities + kStore, 1, "expected bytes")[0];
  };
  check(state(expectBytes + arrive) == 1, "bytes are missing");
  check(state(expectBytes + arrive + complete(32)) == 1, "some bytes are missing");
  check(state(expectBytes + arrive + complete(32) + complete(16)) == 2, "all bytes have come");
  check(state(expectBytes + complete(48)) == 1, "the arrival is missing");
  check(state(expectBytes + complete(48) + arrive) == 2, "the arrival comes last");
  check(state("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 16;\n") == 1, "arrival and bytes in one");
  check(state("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 16;\n" + complete(16)) == 2,
        "arrival and bytes in one, and the bytes come");
});

const Test order("mbarrier order", [] {
  // Warp 0 writes, warp 1 waits and reads what warp 0 wrote, and back, for four turns of a ring of one place.
  const std::string place =
      "mov.u32 %r3, area; and.b32 %r4, %r1, 31; shl.b32 %r4, %r4, 2; add.u32 %r5, %r3, %r4; mov.u32 %r6, 0;\n"
      "mov.u32 %r20, 0; setp.ge.u32 %q5, %r1, 32;\n";
  const std::string make =
      "@!%q0 mbarrier.init.shared::cta.b64 [%r2], 32;\n@!%q0 mbarrier.init.shared::cta.b64 [%r2+8], 32;\nbar.sync 0;\n"
      "@%q5 bra CONSUMER;\n";
  const std::string produce = "P: shr.u32 %r7, %r6, 0; and.b32 %r7, %r7, 1; xor.b32 %r8, %r7, 1;\n";
  const std::string waitEmpty =
      "PW: mbarrier.try_wait.parity.shared::cta.b64 %q3, [%r2+8], %r8; @!%q3 bra PW;\n";
  const std::string write =
      "mad.lo.u32 %r9, %r6, 100, %r1; st.shared.u32 [%r5], %r9; mbarrier.arrive.shared::cta.b64 _, [%r2];\n"
      "add.u32 %r6, %r6, 1; setp.lt.u32 %q6, %r6, 4; @%q6 bra P; bra END;\n";
  const std::string consume = "CONSUMER: and.b32 %r7, %r6, 1;\n";
  const std::string waitFull = "CW: mbarrier.try_wait.parity.shared::cta.b64 %q3, [%r2], %r7; @!%q3 bra CW;\n";
  const std::string read = "ld.shared.u32 %r9, [%r5]; add.u32 %r20, %r20, %r9;\n";
  const std::string arriveEmpty = "mbarrier.arrive.shared::cta.b64 _, [%r2+8];\n";
  const std::string again = "add.u32 %r6, %r6, 1; setp.lt.u32 %q6, %r6, 4; @%q6 bra CONSUMER;\nEND:\n" + kStore;
  const auto out = runThreads(
      place + make + produce + waitEmpty + write + consume + waitFull + read + arriveEmpty + again, 64, "a ring");
  bool right = true;
  for (uint32_t i = 0; i < 32; i++) right &= out[32 + i] == 4 * i + 600;
  check(right, "the consumer reads every turn's values");
  runThreads(place + make + produce + write + consume + waitFull + read + arriveEmpty + again, 64,
             "a producer that does not wait until its place is empty", "race|deadlock");
  runThreads(place + make + produce + waitEmpty + write + consume + waitFull + arriveEmpty + read + again, 64,
             "a consumer that gives its place back too early", "race");
  runThreads(place + make + produce + waitEmpty + write + consume + waitFull + read + again, 64,
             "a consumer that never gives its place back", "deadlock");
  runThreads("mbarrier.arrive.shared::cta.b64 _, [%r2];\n", 1, "arriving at a barrier never made", "bad-operand");
  runThreads(init(1) + "mbarrier.inval.shared::cta.b64 [%r2]; mbarrier.arrive.shared::cta.b64 _, [%r2];\n", 1,
             "arriving at a barrier that is no more", "bad-operand");
  runThreads(init(1) + "mbarrier.arrive.shared::cta.b64 _, [%r2], 2;\n", 1, "more arrivals than expected",
             "bad-operand");
});

const Test copies("cp.async.mbarrier.arrive", [] {
  // Each thread copies 16 bytes and arrives when they are there; everybody waits.
  for (const bool waits : {true, false}) {
    Memory memory;
    std::vector<uint32_t> values(128);
    for (uint32_t& value : values) value = static_cast<uint32_t>(random()());
    const Buffer<uint32_t> in(memory, values), out(memory, 128);
    Launch launch;
    launch.checks.definedness = waits;
    const auto result =
        run(memory,
            kernel("mov.u32 %r1, %tid.x; mov.u32 %r2, barrier; mov.u32 %r3, area; setp.ne.u32 %q0, %r1, 0;\n" +
                       init(32) +
                       "mul.wide.u32 %d1, %r1, 16; add.u64 %d2, %p0, %d1; add.u64 %d3, %p1, %d1; shl.b32 %r4, %r1, 4;\n"
                       "add.u32 %r5, %r3, %r4; cp.async.ca.shared.global [%r5], [%d2], 16;\n"
                       "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r2];\n" +
                       (waits ? "W: mbarrier.try_wait.parity.shared::cta.b64 %q3, [%r2], 0; @!%q3 bra W;\n" : "") +
                       "xor.b32 %r4, %r4, 16; add.u32 %r5, %r3, %r4; ld.shared.v4.u32 {%r6,%r7,%r8,%r9}, [%r5];\n"
                       "st.global.v4.u32 [%d3], {%r6,%r7,%r8,%r9};",
                   2, ".shared .align 8 .b8 barrier[8];\n.shared .align 16 .b8 area[512];\n", "sm_90a"),
            {in.address(), out.address()}, launch);
    check(onlyReports(result, waits ? "" : "race"), "copies that arrive at a barrier: " + describe(result));
    if (!waits) continue;
    bool right = true;
    for (int i = 0; i < 128; i++) right &= out.values()[i] == values[i ^ 4];
    check(right, "copies that arrive at a barrier are there behind it");
  }
});

}  // namespace
}  // namespace ptxtest
