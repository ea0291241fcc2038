// Gives registers rows. PTX is close to SSA, so a kernel names thousands of registers of which few are live
// at once: rows are reused, which keeps a warp's state in the cache.
#pragma once

#include <cstdint>
#include <vector>

namespace ptxemu {

// One instruction as liveness sees it.
struct FlowInst {
  std::vector<uint32_t> uses, kills;  // registers; a predicated write is a use too, as it keeps the old value
  std::vector<int> successors;
  bool keepsRows = false;  // what it writes arrives later, so that its rows are not used for other registers
};

struct RowAllocation {
  std::vector<uint32_t> offsets;  // of each register, in bytes
  uint32_t bytes = 0;
  uint32_t peakWords = 0;              // most 32-bit values alive at once
  std::vector<uint32_t> aliveAtEntry;  // read before written on some path
};

// Bytes of a row for a register of this size (0: predicate).
uint32_t rowBytesFor(uint8_t registerBytes);

RowAllocation allocateRows(const std::vector<FlowInst>& code, const std::vector<uint8_t>& registerBytes);

}  // namespace ptxemu
