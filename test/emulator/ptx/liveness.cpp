// Backward data flow over basic blocks gives the registers alive at block borders. The interval of a register
// spans all positions at which it is alive, so a value carried around a loop covers the whole loop. A linear
// scan hands out rows. Registers of different sizes never share a row: lanes of one warp may be at different
// places of the program, and only with equal strides do their values stay apart.
#include "liveness.h"

#include <algorithm>
#include <map>

namespace ptxemu {

uint32_t rowBytesFor(uint8_t registerBytes) { return registerBytes == 0 ? 64 : registerBytes * 32u; }

namespace {

class BitSet {
 public:
  explicit BitSet(size_t bits = 0) : words_((bits + 63) / 64) {}
  void set(size_t bit) { words_[bit / 64] |= 1ull << bit % 64; }
  void clear(size_t bit) { words_[bit / 64] &= ~(1ull << bit % 64); }
  bool test(size_t bit) const { return words_[bit / 64] >> bit % 64 & 1; }
  // this |= other; says whether anything changed.
  bool merge(const BitSet& other) {
    bool changed = false;
    for (size_t i = 0; i < words_.size(); i++) {
      const uint64_t merged = words_[i] | other.words_[i];
      changed |= merged != words_[i];
      words_[i] = merged;
    }
    return changed;
  }
  void subtract(const BitSet& other) {
    for (size_t i = 0; i < words_.size(); i++) words_[i] &= ~other.words_[i];
  }
  template <class Visit>
  void forEach(Visit visit) const {
    for (size_t i = 0; i < words_.size(); i++) {
      for (uint64_t rest = words_[i]; rest; rest &= rest - 1) visit(i * 64 + __builtin_ctzll(rest));
    }
  }

 private:
  std::vector<uint64_t> words_;
};

struct BasicBlock {
  int begin = 0, end = 0;
  std::vector<int> successors;
  BitSet used, killed, liveIn, liveOut;
};

std::vector<BasicBlock> basicBlocks(const std::vector<FlowInst>& code, size_t registers) {
  const int count = static_cast<int>(code.size());
  std::vector<char> leader(code.size() + 1, 0);
  leader[0] = 1;
  for (int i = 0; i < count; i++) {
    const auto& next = code[i].successors;
    if (next.size() == 1 && next[0] == i + 1) continue;
    leader[i + 1] = 1;
    for (int target : next) leader[target] = 1;
  }
  std::vector<BasicBlock> blocks;
  std::vector<int> blockOf(code.size() + 1, -1);
  for (int i = 0; i < count; i++) {
    if (leader[i]) {
      blocks.emplace_back();
      blocks.back().begin = i;
      for (BitSet* set :
           {&blocks.back().used, &blocks.back().killed, &blocks.back().liveIn, &blocks.back().liveOut}) {
        *set = BitSet(registers);
      }
    }
    blockOf[i] = static_cast<int>(blocks.size()) - 1;
    BasicBlock& block = blocks.back();
    block.end = i;
    for (uint32_t reg : code[i].uses) {
      if (!block.killed.test(reg)) block.used.set(reg);
    }
    for (uint32_t reg : code[i].kills) block.killed.set(reg);
  }
  for (BasicBlock& block : blocks) {
    for (int next : code[block.end].successors) {
      if (next < count) block.successors.push_back(blockOf[next]);
    }
  }
  return blocks;
}

void solve(std::vector<BasicBlock>& blocks) {
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = blocks.size(); i-- > 0;) {
      BasicBlock& block = blocks[i];
      for (int next : block.successors) changed |= block.liveOut.merge(blocks[next].liveIn);
      BitSet through = block.liveOut;
      through.subtract(block.killed);
      through.merge(block.used);
      changed |= block.liveIn.merge(through);
    }
  }
}

struct Interval {
  uint32_t reg = 0;
  int first = -1, last = -1;
  void include(int position) {
    if (first < 0 || position < first) first = position;
    if (position > last) last = position;
  }
};

}  // namespace

RowAllocation allocateRows(const std::vector<FlowInst>& code, const std::vector<uint8_t>& registerBytes) {
  RowAllocation result;
  result.offsets.assign(registerBytes.size(), 0);
  if (code.empty()) return result;
  std::vector<BasicBlock> blocks = basicBlocks(code, registerBytes.size());
  solve(blocks);

  std::vector<Interval> intervals(registerBytes.size());
  for (size_t i = 0; i < intervals.size(); i++) intervals[i].reg = static_cast<uint32_t>(i);
  for (const BasicBlock& block : blocks) {
    block.liveIn.forEach([&](size_t reg) { intervals[reg].include(block.begin); });
    block.liveOut.forEach([&](size_t reg) { intervals[reg].include(block.end); });
  }
  for (size_t i = 0; i < code.size(); i++) {
    for (uint32_t reg : code[i].uses) intervals[reg].include(static_cast<int>(i));
    for (uint32_t reg : code[i].kills) {
      intervals[reg].include(static_cast<int>(i));
      if (code[i].keepsRows) intervals[reg].include(static_cast<int>(code.size()) - 1);
    }
  }
  blocks[0].liveIn.forEach([&](size_t reg) { result.aliveAtEntry.push_back(static_cast<uint32_t>(reg)); });

  intervals.erase(
      std::remove_if(intervals.begin(), intervals.end(), [](const Interval& i) { return i.first < 0; }),
      intervals.end());
  std::sort(intervals.begin(), intervals.end(), [](const Interval& a, const Interval& b) {
    return a.first != b.first ? a.first < b.first : a.reg < b.reg;
  });

  std::multimap<int, uint32_t> active;                 // by last position
  std::map<uint32_t, std::vector<uint32_t>> freeRows;  // by row size
  uint32_t words = 0;
  for (const Interval& interval : intervals) {
    while (!active.empty() && active.begin()->first < interval.first) {
      const uint32_t reg = active.begin()->second;
      freeRows[rowBytesFor(registerBytes[reg])].push_back(result.offsets[reg]);
      words -= (registerBytes[reg] + 3) / 4;
      active.erase(active.begin());
    }
    const uint32_t size = rowBytesFor(registerBytes[interval.reg]);
    std::vector<uint32_t>& free = freeRows[size];
    if (free.empty()) {
      result.offsets[interval.reg] = result.bytes;
      result.bytes += size;
    } else {
      result.offsets[interval.reg] = free.back();
      free.pop_back();
    }
    active.emplace(interval.last, interval.reg);
    words += (registerBytes[interval.reg] + 3) / 4;
    result.peakWords = std::max(result.peakWords, words);
  }
  return result;
}

}  // namespace ptxemu
