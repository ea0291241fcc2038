// cp.async.bulk and tiles of one to five dimensions against plain loops, and the checkers around them.
#include <algorithm>
#include <array>

#include "../../driver/tensor_map.h"
#include "harness.h"

namespace ptxtest {
namespace {

using ptxemu::Memory;
using softmoe::emulator::TensorMap;

constexpr uint32_t kAreaBytes = 32768;
const char* const kModule =
    ".shared .align 1024 .b8 area[32768];\n.shared .align 8 .b8 barrier[16];\n";

// Thread 0 makes a barrier for one arrival in %r2; the area is in %r3, the thread number in %r1.
const std::string kSetUp =
    "mov.u32 %r1, %tid.x; mov.u32 %r2, barrier; mov.u32 %r3, area; setp.ne.u32 %q0, %r1, 0;\n"
    "@!%q0 mbarrier.init.shared::cta.b64 [%r2], 1;\nfence.mbarrier_init.release.cluster; bar.sync 0;\n";

// Waits until the phase of the given parity is over.
std::string waitFor(int parity) {
  return "WAIT" + std::to_string(parity) + ": mbarrier.try_wait.parity.shared::cta.b64 %q2, [%r2], " +
         std::to_string(parity) + "; @!%q2 bra WAIT" + std::to_string(parity) + ";\n";
}

std::string expectBytes(uint32_t bytes) {
  return "@!%q0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], " + std::to_string(bytes) + ";\n";
}

// Copies the area to p1, 16 bytes a thread and turn.
const std::string kDump =
    "shl.b32 %r4, %r1, 4;\nDUMP: setp.ge.u32 %q1, %r4, BYTES; @%q1 bra DONE; add.u32 %r9, %r3, %r4;\n"
    "ld.shared.v4.u32 {%r5,%r6,%r7,%r8}, [%r9]; cvt.u64.u32 %d1, %r4; add.u64 %d1, %d1, %p1;\n"
    "st.global.v4.u32 [%d1], {%r5,%r6,%r7,%r8}; mov.u32 %r10, %ntid.x; shl.b32 %r10, %r10, 4;\n"
    "add.u32 %r4, %r4, %r10; bra DUMP;\nDONE:\n";
std::string dump(uint32_t bytes) {
  std::string text = kDump;
  return text.replace(text.find("BYTES"), 5, std::to_string(bytes));
}

struct Tile {
  int rank = 2;
  uint32_t elementBytes = 2;
  int swizzle = 0;  // 0 none, 1 32 bytes, 2 64 bytes, 3 128 bytes
  bool nan = false;
  std::array<int, 5> extent{1, 1, 1, 1, 1}, box{1, 1, 1, 1, 1}, start{};

  uint32_t bytes() const {
    uint32_t count = elementBytes;
    for (int i = 0; i < rank; i++) count *= box[i];
    return count;
  }
  // Rows of the tensor are padded to 16 bytes and some more.
  uint64_t rowPitch() const { return (extent[0] * elementBytes + 15) / 16 * 16 + 32; }
  uint64_t tensorBytes() const {
    uint64_t bytes = rowPitch();
    for (int i = 1; i < rank; i++) bytes *= extent[i];
    return bytes;
  }
  TensorMap map(uint64_t address) const {
    TensorMap map{};
    map.magic = TensorMap::mark;
    map.rank = static_cast<uint8_t>(rank);
    map.elementBytes = static_cast<uint8_t>(elementBytes);
    map.swizzle = static_cast<uint8_t>(swizzle);
    map.fillWithNan = nan;
    map.address = address;
    uint64_t pitch = rowPitch();
    for (int i = 0; i < rank; i++) {
      map.lastIndex[i] = static_cast<uint32_t>(extent[i] - 1);
      map.box[i] = static_cast<uint16_t>(box[i]);
      map.elementStrides[i] = 1;
      if (i > 0) map.strides[i - 1] = pitch, pitch *= extent[i];
    }
    return map;
  }
  // Calls visit(byte in shared memory, byte in the tensor or -1 when outside) for each byte of the tile. A tile
  // is packed; its lines of 128 bytes have eight chunks of 16, permuted by the exclusive or with the line's number
  // modulo 8, 4 or 2.
  template <class Visit>
  void forBytes(Visit visit) const {
    uint32_t linear = 0;
    std::array<int, 5> at{};
    const uint32_t period = 1u << swizzle;
    for (at[4] = 0; at[4] < box[4]; at[4]++)
      for (at[3] = 0; at[3] < box[3]; at[3]++)
        for (at[2] = 0; at[2] < box[2]; at[2]++)
          for (at[1] = 0; at[1] < box[1]; at[1]++)
            for (at[0] = 0; at[0] < box[0]; at[0]++) {
              bool inside = true;
              uint64_t pitch = rowPitch(), place = 0;
              for (int i = 0; i < rank; i++) {
                const int index = start[i] + at[i];
                inside &= index >= 0 && index < extent[i];
                place += i == 0 ? index * elementBytes : index * pitch;
                if (i > 0) pitch *= extent[i];
              }
              for (uint32_t byte = 0; byte < elementBytes; byte++, linear++) {
                const uint32_t line = linear / 128, chunk = linear / 16 % 8;
                visit(line * 128 + (chunk ^ line % period) * 16 + linear % 16,
                      inside ? static_cast<int64_t>(place + byte) : -1);
              }
            }
  }
  std::string coordinates() const {
    std::string text = "{";
    for (int i = 0; i < rank; i++) text += (i ? ", " : "") + std::to_string(start[i]);
    return text + "}";
  }
  std::string name() const {
    std::string text = std::to_string(rank) + "d of " + std::to_string(elementBytes) + " bytes, swizzle " +
                       std::to_string(swizzle) + " at " + coordinates();
    return text;
  }
};

std::vector<uint8_t> randomBytes(size_t count) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random()());
  return bytes;
}

template <class T>
std::vector<uint8_t> bytesOf(const T& value) {
  std::vector<uint8_t> bytes(128, 0);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

void expectLoad(const Tile& tile) {
  Memory memory;
  const std::vector<uint8_t> values = randomBytes(tile.tensorBytes());
  const Buffer<uint8_t> tensor(memory, values), out(memory, kAreaBytes);
  const Buffer<uint8_t> map(memory, bytesOf(tile.map(tensor.address())));
  Launch launch;
  launch.block.x = 64;
  const std::string body =
      kSetUp + expectBytes(tile.bytes()) + "@!%q0 cp.async.bulk.tensor." + std::to_string(tile.rank) +
      "d.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%p0, " + tile.coordinates() + "], [%r2];\n" +
      waitFor(0) + dump(tile.bytes());
  const auto result =
      run(memory, kernel(body, 2, kModule, "sm_90a"), {map.address(), out.address()}, launch);
  std::vector<uint8_t> want(tile.bytes());
  tile.forBytes([&](uint32_t place, int64_t at) { want[place] = at < 0 ? (tile.nan ? 0xff : 0) : values[at]; });
  std::vector<uint8_t> got = out.values();
  got.resize(want.size());
  check(got == want && result.reports.empty(), "tile load " + tile.name() + " " + describe(result));
  check(result.counters.tensorCopies == 1, "a tile load is counted");
}

void expectStore(const Tile& tile) {
  Memory memory;
  const std::vector<uint8_t> values = randomBytes(tile.bytes()), before = randomBytes(tile.tensorBytes());
  const Buffer<uint8_t> in(memory, values), tensor(memory, before);
  const Buffer<uint8_t> map(memory, bytesOf(tile.map(tensor.address())));
  Launch launch;
  launch.block.x = 64;
  const std::string body =
      kSetUp +
      "shl.b32 %r4, %r1, 4;\nFILL: setp.ge.u32 %q1, %r4, " + std::to_string(tile.bytes()) +
      "; @%q1 bra FULL; cvt.u64.u32 %d1, %r4; add.u64 %d1, %d1, %p1; ld.global.v4.u32 {%r5,%r6,%r7,%r8}, [%d1];\n"
      "add.u32 %r9, %r3, %r4; st.shared.v4.u32 [%r9], {%r5,%r6,%r7,%r8}; add.u32 %r4, %r4, 1024; bra FILL;\nFULL:\n"
      "fence.proxy.async.shared::cta; bar.sync 0;\n@!%q0 cp.async.bulk.tensor." +
      std::to_string(tile.rank) + "d.global.shared::cta.bulk_group [%p0, " + tile.coordinates() +
      "], [%r3];\ncp.async.bulk.commit_group; cp.async.bulk.wait_group 0;\n";
  const auto result =
      run(memory, kernel(body, 2, kModule, "sm_90a"), {map.address(), in.address()}, launch);
  std::vector<uint8_t> want = before;
  tile.forBytes([&](uint32_t place, int64_t at) {
    if (at >= 0) want[at] = values[place];
  });
  check(tensor.values() == want && result.reports.empty(), "tile store " + tile.name() + " " + describe(result));
}

const Test tiles("tensor tiles", [] {
  for (const uint32_t elementBytes : {1u, 2u, 4u, 8u}) {
    for (int rank = 1; rank <= 5; rank++) {
      for (int swizzle = 0; swizzle < 4; swizzle++) {
        Tile tile;
        tile.rank = rank;
        tile.elementBytes = elementBytes;
        tile.swizzle = swizzle;
        const int innerBytes = swizzle ? 16 << swizzle : 48;
        const std::array<int, 5> box{innerBytes / static_cast<int>(elementBytes), 11, 3, 2, 2};
        const std::array<int, 5> extent{box[0] * 2 + 3, 17, 5, 4, 3};
        for (int i = 0; i < rank; i++) tile.box[i] = box[i], tile.extent[i] = extent[i];
        // Inside; over the low edges; over the high ones; wholly outside.
        for (int place = 0; place < 4; place++) {
          for (int i = 0; i < rank; i++) {
            tile.start[i] = place == 0   ? 1
                            : place == 1 ? -(i + 2) / (i ? 2 : 1)
                            : place == 2 ? extent[i] - box[i] / 2 - 1
                                         : (i == rank - 1 ? extent[i] : 0);
          }
          tile.nan = place == 2 && elementBytes != 1;
          expectLoad(tile);
          if (place != 3 || rank < 3) expectStore(tile);
        }
      }
    }
  }
});

const Test ranges("bulk copies of ranges", [] {
  for (const uint32_t bytes : {16u, 48u, 1024u, 4096u}) {
    Memory memory;
    const std::vector<uint8_t> values = randomBytes(bytes);
    const Buffer<uint8_t> in(memory, values), out(memory, bytes), back(memory, bytes);
    const std::string size = std::to_string(bytes);
    const auto result = run(
        memory,
        kernel(kSetUp + expectBytes(bytes) +
                   "@!%q0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%p0], " + size +
                   ", [%r2];\n" + waitFor(0) + dump(bytes) +
                   "bar.sync 0; @!%q0 cp.async.bulk.global.shared::cta.bulk_group [%p2], [%r3], " + size +
                   "; cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;\n",
               3, kModule, "sm_90a"),
        {in.address(), out.address(), back.address()});
    check(out.values() == values && back.values() == values && result.reports.empty(),
          "a range of " + size + " bytes there and back: " + describe(result));
  }
});

// -- checkers
// -------------------------------------------------------------------------------------------------------

// p0: 4096 bytes, p1: as many for the result. Two warps.
void expect(const std::string& name, const std::string& kind, const std::string& body, bool definedness = true) {
  for (const uint64_t seed : {0, 1, 2}) {
    Memory memory;
    const Buffer<uint8_t> in(memory, randomBytes(4096)), out(memory, 4096);
    Launch launch;
    launch.block.x = 64;
    launch.seed = seed;
    launch.checks.definedness = definedness;
    const auto result =
        run(memory, kernel(kSetUp + body, 2, kModule, "sm_90a"), {in.address(), out.address()}, launch);
    check(onlyReports(result, kind), name + (kind.empty() ? " has no report" : " is reported as " + kind) +
                                         " (seed " + std::to_string(seed) + "): " + describe(result));
  }
}

const Test checkers("checkers of bulk copies", [] {
  const std::string copy =
      "@!%q0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%p0], 2048, [%r2];\n";
  const std::string load = expectBytes(2048) + copy, use = dump(2048);
  expect("a copy that is waited for", "", load + waitFor(0) + use);
  expect("a copy whose barrier nobody waits for", "race", load + use, false);
  expect("a wait for a phase that was over before", "race|deadlock", load + waitFor(1) + use, false);
  expect("only the thread that copies waits", "race",
         load + "@%q0 bra USE;\n" + waitFor(0) + "USE:\n" + use, false);
  expect("fewer bytes expected than come", "deadlock",
         expectBytes(1024) + copy + waitFor(0) + use + "bar.sync 0;\n", false);
  expect("more bytes expected than come", "deadlock", expectBytes(4096) + copy + waitFor(0) + use);
  expect("copying again behind a barrier", "",
         load + waitFor(0) + use + "bar.sync 0;\n" + load + waitFor(1));
  expect("copying again without a barrier", "race|deadlock", load + waitFor(0) + use + load + waitFor(1));
  expect("a copy over the end of shared memory", "shared-bounds",
         "add.u32 %r3, %r3, 31744;\n" + load + waitFor(0));
  expect("a copy over the end of global memory", "global-bounds", "add.u64 %p0, %p0, 3072;\n" + load + waitFor(0));
  expect("a copy to a place that is no multiple of 16", "misaligned", "add.u32 %r3, %r3, 8;\n" + load + waitFor(0));
  expect("a barrier that nobody made", "bad-operand", "add.u32 %r2, %r2, 8;\n" + load + waitFor(0));
});

const Test maps("tensor maps", [] {
  const auto runMap = [](const TensorMap& map, const std::string& place) {
    Memory memory;
    const Buffer<uint8_t> tensor(memory, randomBytes(4096));
    TensorMap full = map;
    full.address = tensor.address();
    const Buffer<uint8_t> buffer(memory, bytesOf(full)), out(memory, 4096);
    return run(memory,
               kernel(kSetUp + place + expectBytes(1024) +
                          "@!%q0 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                          "[%r3], [%p0, {0, 0}], [%r2];\n" +
                          waitFor(0),
                      2, kModule, "sm_90a"),
               {buffer.address(), out.address()});
  };
  Tile tile;
  tile.extent = {64, 16, 1, 1, 1};
  tile.box = {64, 8, 1, 1, 1};
  tile.swizzle = 3;
  const TensorMap good = tile.map(0);
  check(onlyReports(runMap(good, ""), ""), "a good map");
  check(onlyReports(runMap(good, "add.u32 %r3, %r3, 128;\n"), "misaligned"),
        "swizzled tiles need shared memory aligned to the swizzle's period");
  TensorMap map = good;
  map.magic = 1;
  check(onlyReports(runMap(map, ""), "bad-operand"), "bytes that are no map");
  map = good;
  map.rank = 3;
  check(onlyReports(runMap(map, ""), "bad-operand"), "a map of three dimensions and two coordinates");
  map = good;
  map.interleave = 1;
  check(onlyReports(runMap(map, ""), "unsupported"), "interleaved maps");
  map = good;
  map.elementStrides[1] = 2;
  check(onlyReports(runMap(map, ""), "unsupported"), "element strides");
  map = good;
  map.lastIndex[1] = 400;
  check(onlyReports(runMap(map, ""), ""), "a tensor larger than its memory, where the tile does not show it");
  map.strides[0] = 2048;
  check(onlyReports(runMap(map, ""), "global-bounds"), "a tile outside its memory");
});

}  // namespace
}  // namespace ptxtest
