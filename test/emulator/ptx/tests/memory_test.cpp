// Loads, stores, atomics, address spaces, asynchronous copies, mbarriers and host-side memory.
#include <numeric>

#include "harness.h"

namespace ptxtest {
namespace {

using ptxemu::Memory;

const Test widths("loads and stores of every width", [] {
  Memory memory;
  std::vector<uint8_t> bytes(64 * 32);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random()());
  const Buffer<uint8_t> in(memory, bytes);
  const Buffer<uint64_t> out(memory, 32 * 16);
  const auto result =
      run(memory,
          kernel("mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 64; add.u64 %d2, %p0, %d1; mul.wide.u32 %d1, "
                 "%r1, 128; add.u64 %d3, %p1, %d1;\n"
                 "ld.global.u8 %h1, [%d2]; ld.global.s8 %r2, [%d2+1]; ld.global.u16 %r3, [%d2+2]; "
                 "ld.global.s16 %d4, [%d2+4];\n"
                 "ld.global.s32 %d5, [%d2+8]; ld.global.nc.v2.u32 {%r4, %r5}, [%d2+16]; ld.global.v4.u16 "
                 "{%h2, %h3, %h4, %h5}, [%d2+24];\n"
                 "ld.global.L1::no_allocate.L2::128B.v2.u64 {%d6, %d7}, [%d2+32]; ld.u32 %r6, [%d2+12];\n"
                 "cvt.u64.u16 %d8, %h1; cvt.s64.s32 %d9, %r2; cvt.u64.u32 %d10, %r3; cvt.u64.u32 %d11, %r4; "
                 "cvt.u64.u32 %d12, %r5;\n"
                 "cvt.u64.u16 %d13, %h5; cvt.u64.u32 %d14, %r6;\n"
                 "st.global.v2.u64 [%d3], {%d8, %d9}; st.global.u64 [%d3+16], %d10; st.global.u64 [%d3+24], "
                 "%d4; st.global.u64 [%d3+32], %d5;\n"
                 "st.global.u64 [%d3+40], %d11; st.global.u64 [%d3+48], %d12; st.global.u64 [%d3+56], %d13; "
                 "st.global.u64 [%d3+64], %d6;\n"
                 "st.global.u64 [%d3+72], %d7; st.global.u64 [%d3+80], %d14; st.global.u8 [%d3+88], %r4; "
                 "st.global.u8 [%d3+89], %h5;\n"
                 "st.global.u16 [%d3+90], %r5; st.global.v2.u8 [%d3+92], {%h1, %h2}; st.global.v2.u16 "
                 "[%d3+96], {%h2, %h3};",
                 2),
          {in.address(), out.address()});
  const auto got = out.values();
  bool same = result.reports.empty();
  for (int lane = 0; lane < 32; lane++) {
    const uint8_t* b = &bytes[64 * lane];
    auto at = [&](auto sample, int offset) {
      std::memcpy(&sample, b + offset, sizeof sample);
      return sample;
    };
    const uint64_t* g = &got[16 * lane];
    const uint64_t want[] = {b[0],
                             uint64_t(int64_t(at(int8_t(), 1))),
                             at(uint16_t(), 2),
                             uint64_t(int64_t(at(int16_t(), 4))),
                             uint64_t(int64_t(at(int32_t(), 8))),
                             at(uint32_t(), 16),
                             at(uint32_t(), 20),
                             at(uint16_t(), 30),
                             at(uint64_t(), 32),
                             at(uint64_t(), 40),
                             at(uint32_t(), 12)};
    same &= std::memcmp(g, want, sizeof want) == 0;
    const uint8_t* stored = reinterpret_cast<const uint8_t*>(g) + 88;
    same &= stored[0] == b[16] && stored[1] == b[30] && stored[2] == b[20] && stored[3] == b[21] &&
            stored[4] == b[0] && stored[5] == b[24] && std::memcmp(stored + 8, b + 24, 4) == 0;
  }
  check(same, "every width: " + describe(result));
});

const Test spaces("address spaces", [] {
  Memory memory;
  const Buffer<uint32_t> out(memory, 32 * 8);
  const std::string module =
      ".const .align 4 .u32 table[4] = {11, 22, 33, 44};\n.global .align 4 .u32 counter = 7;\n"
      ".global .align 8 .u64 pointer = counter;\n.extern .shared .align 16 .b8 dynamic[];\n.shared .align 4 "
      ".b8 fixed[128];\n";
  Launch launch;
  launch.dynamicShared = 256;
  const auto result = run(
      memory,
      kernel(
          ".local .align 8 .b8 depot[32];\n"
          "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 32; add.u64 %d2, %p0, %d1; and.b32 %r2, %r1, 3; "
          "mul.wide.u32 %d3, %r2, 4;\n"
          "mov.u64 %d4, table; add.u64 %d4, %d4, %d3; ld.const.u32 %r3, [%d4]; ld.const.u32 %r4, [table+8];\n"
          "ld.global.u64 %d5, [pointer]; ld.global.u32 %r5, [%d5];\n"
          "mov.u64 %d6, depot; cvta.local.u64 %d7, %d6; add.u32 %r6, %r1, 100; st.local.u32 [%d6+4], %r6; "
          "ld.u32 %r7, [%d7+4];\n"
          "shl.b32 %r8, %r1, 2; mov.u32 %r9, dynamic; add.u32 %r9, %r9, %r8; st.shared.u32 [%r9], %r1; "
          "mov.u64 %d8, fixed;\n"
          "cvt.u64.u32 %d9, %r9; cvta.shared.u64 %d10, %d9; ld.u32 %r10, [%d10]; isspacep.shared %q0, %d10; "
          "isspacep.local %q1, %d10;\n"
          "selp.u32 %r11, 1, 0, %q0; selp.u32 %r12, 2, 0, %q1; or.b32 %r11, %r11, %r12; mov.u32 %r13, "
          "%dynamic_smem_size;\n"
          "setp.lt.u32 %q2, %r1, 16; selp.b64 %d11, %d10, %d7, %q2; @!%q2 add.u64 %d11, %d11, 4; ld.u32 "
          "%r14, [%d11];\n"
          "st.global.v4.u32 [%d2], {%r3, %r4, %r5, %r7}; st.global.v4.u32 [%d2+16], {%r10, %r11, %r13, "
          "%r14};",
          1, module),
      {out.address()}, launch);
  bool same = result.reports.empty();
  for (uint32_t i = 0; i < 32; i++) {
    const uint32_t want[] = {11 * (i % 4 + 1), 33, 7, i + 100, i, 1, 256, i < 16 ? i : i + 100};
    for (int k = 0; k < 8; k++) same &= out.values()[8 * i + k] == want[k];
  }
  check(same, "const, global, local, shared and generic addresses: " + describe(result));
});

const Test atomics("atomics", [] {
  struct Case {
    std::string operation, type;
    uint64_t start, want;
  };
  // Lanes 0..31 of 8 blocks apply their lane number plus 1.
  const Case cases[] = {
      {"add", "u32", 5, 5 + 8 * 528}, {"add", "u64", 5, 5 + 8 * 528}, {"min", "s32", 100, 1},
      {"max", "s32", 3, 32},          {"min", "u32", 100, 1},         {"max", "u64", 3, 32},
      {"and", "b32", 0xff, 0},        {"or", "b32", 0, 63},           {"xor", "b32", 9, 9},
      {"exch", "b32", 77, 0},         {"inc", "u32", 0, 0},           {"dec", "u32", 0, 0}};
  for (const Case& c : cases) {
    for (const std::string space : {"global", "generic"}) {
      const bool wide = c.type == "u64";
      Memory memory;
      const Buffer<uint64_t> cell(memory, std::vector<uint64_t>{c.start});
      Launch launch;
      launch.grid.x = 8;
      launch.threads = 2;
      const auto result = run(memory,
                              kernel("mov.u32 %r1, %tid.x; add.u32 %r1, %r1, 1; cvt.u64.u32 %d1, %r1;\nred" +
                                         std::string(space == "global" ? ".global." : ".") + c.operation +
                                         "." + c.type + " [%p0], " + (wide ? "%d1;" : "%r1;"),
                                     1),
                              {cell.address()}, launch);
      const uint64_t got = cell.values()[0];
      const bool orderless = c.operation != "exch" && c.operation != "inc" && c.operation != "dec";
      check(result.ok && result.reports.empty() && (!orderless || got == c.want),
            "red." + space + "." + c.operation + "." + c.type + " gave " + std::to_string(got) + " " +
                describe(result));
      check(result.counters.globalAtomics == 256, "atomics are counted by lane");
    }
  }
  Memory memory;
  const Buffer<uint32_t> cells(memory, std::vector<uint32_t>{0, 0, 0, 0});
  const Buffer<float> sum(memory, std::vector<float>{0.5f});
  const auto result =
      run(memory,
          kernel("mov.u32 %r1, %tid.x; mov.u32 %r9, area; setp.ne.u32 %q0, %r1, 0; @!%q0 st.shared.u32 "
                 "[%r9], 0; bar.sync 0;\n"
                 "atom.shared.add.u32 %r2, [%r9], 2; bar.sync 0; ld.shared.u32 %r3, [%r9]; @!%q0 "
                 "st.global.u32 [%p0], %r3;\n"
                 "atom.global.inc.u32 %r4, [%p0+4], 9; atom.global.cas.b32 %r5, [%p0+8], %r1, 40; "
                 "cvt.rn.f32.u32 %f1, %r1;\n"
                 "atom.global.add.f32 %f2, [%p1], %f1; atom.global.exch.b32 %r6, [%p0+12], 6;",
                 2, ".shared .align 4 .b8 area[4];"),
          {cells.address(), sum.address()});
  const auto got = cells.values();
  check(result.reports.empty() && got[0] == 64 && got[1] == 32 % 10 && got[2] == 40 && got[3] == 6 &&
            sum.values()[0] == 496.5f,
        "shared atomics, inc, cas, exch and f32 add: " + describe(result));
});

const Test copies("cp.async fills with zeros", [] {
  Memory memory;
  std::vector<uint32_t> values(128);
  std::iota(values.begin(), values.end(), 1u);
  const Buffer<uint32_t> in(memory, values), out(memory, 128);
  const auto result = run(
      memory,
      kernel("mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 4; mov.u32 %r3, area; add.u32 %r3, %r3, %r2; "
             "cvt.u64.u32 %d1, %r2;\n"
             "add.u64 %d2, %p0, %d1; add.u64 %d3, %p1, %d1; and.b32 %r4, %r1, 3; shl.b32 %r4, %r4, 2;\n"
             "cp.async.cg.shared.global.L2::128B [%r3], [%d2], 16, %r4; cp.async.commit_group; "
             "cp.async.wait_group 0;\n"
             "ld.shared.v4.u32 {%r5, %r6, %r7, %r8}, [%r3]; st.global.v4.u32 [%d3], {%r5, %r6, %r7, %r8};",
             2, ".shared .align 16 .b8 area[512];"),
      {in.address(), out.address()});
  bool same = result.reports.empty();
  for (uint32_t i = 0; i < 128; i++) same &= out.values()[i] == (i % 4 < i / 4 % 4 ? values[i] : 0);
  check(same, "source sizes of 0, 4, 8 and 12 bytes: " + describe(result));
});

const Test mbarriers("mbarriers", [] {
  const std::string module = ".shared .align 16 .b8 area[1024];\n.shared .align 8 .b8 bar[8];\n";
  const std::string start =
      "mov.u32 %r1, %tid.x; mov.u32 %r2, bar; mov.u32 %r3, area; shl.b32 %r4, %r1, 2; add.u32 %r5, %r3, "
      "%r4;\n"
      "setp.eq.u32 %q0, %r1, 0; mul.wide.u32 %d1, %r1, 4; add.u64 %d2, %p1, %d1;\n"
      "xor.b32 %r6, %r4, 128; add.u32 %r6, %r6, %r3;\n";
  const std::string wait =
      "\nWAIT: mbarrier.try_wait.parity.shared::cta.b64 %q1, [%r2], 0; @!%q1 bra WAIT;\n";
  auto outcome = [&](const std::string& body, const std::string& kind, const std::string& what,
                     uint32_t third = 0) {
    for (const uint64_t seed : {0, 1}) {
      Memory memory;
      std::vector<uint32_t> values(256);
      std::iota(values.begin(), values.end(), 5u);
      const Buffer<uint32_t> in(memory, values), out(memory, 64);
      Launch launch;
      launch.block.x = 64;
      launch.seed = seed;
      launch.checks.definedness = kind.empty();
      const auto result =
          run(memory, kernel(start + body, 2, module, "sm_90"), {in.address(), out.address()}, launch);
      check(onlyReports(result, kind), what + ": " + describe(result));
      if (kind.empty()) check(out.values()[3] == third, what + " brings the right value");
    }
  };
  const std::string init = "@%q0 mbarrier.init.shared::cta.b64 [%r2], 64; bar.sync 0;\n";
  outcome(init + "st.shared.u32 [%r5], %r1; mbarrier.arrive.shared::cta.b64 %d3, [%r2];" + wait +
              "ld.shared.u32 %r7, [%r6]; st.global.u32 [%d2], %r7;",
          "", "threads meet at an mbarrier", 35);
  outcome(init +
              "st.shared.u32 [%r5], %r1; mbarrier.arrive.shared::cta.b64 %d3, [%r2];\n"
              "ld.shared.u32 %r7, [%r6]; st.global.u32 [%d2], %r7;",
          "race", "an mbarrier nobody waits for");
  outcome(
      "@%q0 mbarrier.init.shared::cta.b64 [%r2], 1; bar.sync 0;\n@%q0 "
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 256;\n"
      "@%q0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%p0], 256, [%r2];" +
          wait + "ld.shared.u32 %r7, [%r5]; st.global.u32 [%d2], %r7;",
      "", "a bulk copy that is waited for", 8);
  outcome(
      "@%q0 mbarrier.init.shared::cta.b64 [%r2], 1; bar.sync 0;\n@%q0 "
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 256;\n"
      "@%q0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%p0], 256, [%r2]; "
      "bar.sync 0;\n"
      "ld.shared.u32 %r7, [%r5]; st.global.u32 [%d2], %r7;",
      "race", "a bulk copy used without waiting");
  outcome(init + "@%q0 mbarrier.arrive.shared::cta.b64 %d3, [%r2];" + wait, "deadlock",
          "an mbarrier that never completes");
});

const Test host("host-side memory", [] {
  Memory memory;
  const uint64_t a = memory.allocate(10000);
  check(a % 512 == 0 && memory.contains(a, 10000) && !memory.contains(a, 10001), "bounds of an allocation");
  check(memory.undefinedBytes(a, 10000) == 10000, "a fresh allocation is undefined");
  const std::vector<uint8_t> bytes(5000, 9);
  check(memory.write(a + 100, bytes.data(), 5000) && memory.undefinedBytes(a, 10000) == 5000,
        "writing defines");
  const uint64_t b = memory.allocate(10000);
  check(memory.copy(b, a, 10000) && memory.undefinedBytes(b, 10000) == 5000 &&
            memory.undefinedBytes(b + 100, 5000) == 0,
        "definedness travels with copies");
  check(memory.fill(b, 0x01020304, 4, 2500) && memory.undefinedBytes(b, 10000) == 0, "filling defines");
  check(!memory.write(a + 9999, bytes.data(), 2), "writing over the end is refused");
  check(memory.bytesInUse() == 20000 && memory.allocations().size() == 2, "what is in use");
  check(memory.free(a) == Memory::FreeStatus::ok && memory.free(a) == Memory::FreeStatus::alreadyFreed &&
            memory.free(b + 1) == Memory::FreeStatus::notAnAllocation,
        "freeing once, twice, and what is no allocation");
  check(memory.findFreed(a + 5).has_value() && !memory.find(a).has_value(),
        "a freed allocation is remembered");
});

const Test parsing("unsupported forms stop at load", [] {
  Memory memory;
  auto error = [&](const std::string& body) -> std::string {
    try {
      ptxemu::Module::parse(kernel(body, 0), memory);
    } catch (const ptxemu::ParseError& failure) {
      return failure.what();
    }
    return "";
  };
  check(error("frobnicate.u32 %r1, %r2;").find("frobnicate.u32") != std::string::npos,
        "an unknown instruction is named");
  check(error("frobnicate.u32 %r1, %r2;").find("PTX line 14") != std::string::npos,
        "with its line: " + error("frobnicate.u32 %r1, %r2;"));
  check(!error("add.u32 %r1, %r2;").empty(), "an operand is missing");
  check(!error("add.u32 %d1, %r2, %r3;").empty(), "a register of another size");
  check(!error("bra NOWHERE;").empty(), "a label that is not there");
  check(!error("ld.global.weird.u32 %r1, [%d1];").empty(), "an unknown modifier");
  check(!error("mov.u32 %r1, nothing;").empty(), "an unknown name");
});

const Test orders("the order of blocks is seeded", [] {
  auto result = [](uint64_t seed) {
    Memory memory;
    const Buffer<float> sum(memory, std::vector<float>{0});
    Launch launch;
    launch.grid.x = 64;
    launch.block.x = 1;
    launch.seed = seed;
    run(memory,
        kernel("mov.u32 %r1, %ctaid.x; cvt.rn.f32.u32 %f1, %r1; add.f32 %f1, %f1, 0f3DCCCCCD; rcp.rn.f32 "
               "%f1, %f1;\n"
               "red.global.add.f32 [%p0], %f1;",
               1),
        {sum.address()}, launch);
    return sum.values()[0];
  };
  check(result(0) == result(0) && result(5) == result(5), "one seed, one result");
  check(result(0) != result(5) || result(0) != result(6), "an order-dependent sum differs between seeds");
});

const Test resident("blocks that wait for each other", [] {
  Memory memory;
  const Buffer<uint32_t> flag(memory, std::vector<uint32_t>{0});
  Launch launch;
  launch.grid.x = 2;
  launch.block.x = 1;
  const auto result = run(
      memory,
      kernel("mov.u32 %r1, %ctaid.x; setp.ne.u32 %q0, %r1, 0; @%q0 bra SET;\n"
             "WAIT: ld.acquire.gpu.global.u32 %r2, [%p0]; setp.eq.u32 %q1, %r2, 0; @%q1 bra WAIT; bra END;\n"
             "SET: st.release.gpu.global.u32 [%p0], 1;\nEND:",
             1),
      {flag.address()}, launch);
  check(result.ok && result.reports.empty(),
        "block 0 waits for block 1 on one host thread: " + describe(result));
});

const Test bankConflicts("counters of memory", [] {
  auto counters = [](const std::string& body) {
    Memory memory;
    const Buffer<uint32_t> in(memory, std::vector<uint32_t>(4096, 1));
    return run(memory,
               kernel("mov.u32 %r1, %tid.x; mov.u32 %r2, area;\n" + body, 1,
                      ".shared .align 16 .b8 area[8192];"),
               {in.address()})
        .counters;
  };
  auto shared = [&](int stride) {
    return counters("mad.lo.u32 %r3, %r1, " + std::to_string(stride) + ", %r2; st.shared.u32 [%r3], %r1;");
  };
  check(shared(4).sharedWavefronts == 1 && shared(4).sharedIdealWavefronts == 1,
        "neighbouring words: one wavefront");
  check(shared(8).sharedWavefronts == 2, "every other word: two");
  check(shared(128).sharedWavefronts == 32 && shared(128).sharedIdealWavefronts == 1, "one bank: 32");
  check(shared(132).sharedWavefronts == 1, "a padded row: one");
  auto global = [&](int stride) {
    return counters("mul.wide.u32 %d1, %r1, " + std::to_string(stride) +
                    "; add.u64 %d1, %d1, %p0; ld.global.u32 %r3, [%d1];");
  };
  check(global(4).globalLoadSectors == 4 && global(4).globalLoadBytes == 128 &&
            global(4).globalLoadRequests == 1,
        "128 bytes: 4 sectors");
  check(global(32).globalLoadSectors == 32 && global(0).globalLoadSectors == 1,
        "scattered and broadcast loads");
});

}  // namespace
}  // namespace ptxtest
