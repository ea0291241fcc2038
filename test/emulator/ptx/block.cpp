#include "block.h"

#include <algorithm>
#include <cstring>

#include "mbarrier.h"

namespace ptxemu {

Block::Block(LaunchState& launch)
    : launch(launch), program(launch.program), checks(launch.config.checks), random_(0) {
  const LaunchConfig& config = launch.config;
  const uint64_t threads = config.block.count();
  const size_t warpCount = (threads + kLanes - 1) / kLanes;
  const size_t rowBytes = (program.rowBytes + 63) / 64 * 64, shadowBytes = rowBytes / 2;
  rows_.resize((rowBytes + shadowBytes) * warpCount + 64);
  rowsAligned_ = reinterpret_cast<uint8_t*>((reinterpret_cast<uint64_t>(rows_.data()) + 63) / 64 * 64);
  local_.resize(size_t(program.localBytes) * kLanes * warpCount);
  if (checks.definedness) localShadow_.resize(local_.size());
  shared.resize(launch.sharedBytes + 16);
  if (checks.definedness) sharedUndefined.resize(launch.sharedBytes + 16);
  params = static_cast<const uint8_t*>(config.paramBuffer);
  if (checks.races) races.configure(static_cast<int>(warpCount), launch.sharedBytes, program.sharedGranule);
  instCounters.resize(program.code.size());
  lastAllocation.resize(program.code.size());
  warps.resize(warpCount);
  for (size_t i = 0; i < warpCount; i++) {
    Warp& warp = warps[i];
    warp.id = static_cast<int>(i);
    warp.block = this;
    warp.program = &program;
    warp.rows = rowsAligned_ + (rowBytes + shadowBytes) * i;
    warp.shadows = warp.rows + rowBytes;
    const size_t localOffset = size_t(program.localBytes) * kLanes * i;
    warp.local = local_.data() + localOffset;
    warp.localShadow = localShadow_.empty() ? nullptr : localShadow_.data() + localOffset;
    warp.checking =
        checks.bounds || checks.definedness || checks.races || checks.alignment || checks.counters;
    warp.definedness = checks.definedness;
    const uint64_t first = i * kLanes;
    const uint64_t lanes = std::min<uint64_t>(kLanes, threads - first);
    warp.launched = lanes == kLanes ? kAllLanes : (1u << lanes) - 1;
    for (const ConstantRow& constant : program.constants) {
      for (int lane = 0; lane < kLanes; lane++) {
        if (constant.bytes == 0)
          *warp.row<Mask>(constant.offset) = static_cast<Mask>(constant.bits);
        else
          std::memcpy(warp.rows + constant.offset + lane * constant.bytes, &constant.bits,
                      std::min<size_t>(constant.bytes, 8));
      }
    }
    order_.push_back(static_cast<int>(i));
  }
}

Block::~Block() = default;

void Block::start(uint64_t linear) {
  const Dim3& grid = launch.config.grid;
  linearIndex = linear;
  index = {static_cast<uint32_t>(linear % grid.x), static_cast<uint32_t>(linear / grid.x % grid.y),
           static_cast<uint32_t>(linear / grid.x / grid.y)};
  random_.seed(launch.config.orderSeed * 0x9e3779b97f4a7c15ull + linear);
  aliveThreads_ = static_cast<uint32_t>(launch.config.block.count());
  executed_ = 0;
  barriers_.clear();
  mbarriers_.reset();
  idleRounds_ = 0;
  // What a block finds in shared memory is arbitrary: NaN as a float, a huge number as an integer.
  std::memset(shared.data(), 0xff, shared.size());
  std::fill(sharedUndefined.begin(), sharedUndefined.end(), 1);
  if (!local_.empty()) std::memset(local_.data(), 0xff, local_.size());
  std::fill(localShadow_.begin(), localShadow_.end(), 1);
  if (checks.races) races.start(linear);
  for (Warp& warp : warps) {
    warp.alive = warp.launched;
    warp.groups.assign(1, {0, warp.launched, Group::State::ready, -1});
    warp.copies.clear();
    warp.copiesIssued = 0;
    warp.committed.fill(0);
    warp.products.reset();
    warp.spin = 0;
    warp.sincePoll = kNeverPolled;
    warp.pollsBarrier = false;
    warp.yield = false;
    if (checks.definedness) {
      if (warp.tainted) std::memset(warp.shadows, 0, (program.rowBytes + 63) / 64 * 32);
      warp.tainted = !program.undefinedAtEntry.empty();
      for (uint32_t row : program.undefinedAtEntry) std::memset(warp.shadow(row), 0xff, kLanes);
    }
    setSpecials(warp, !specialsSet_);
  }
  specialsSet_ = true;
}

void Block::setSpecials(Warp& warp, bool first) {
  for (const SpecialRow& special : program.specials) {
    const bool changes = special.which >= Special::ctaidX && special.which <= Special::ctaidZ;
    if (!first && !changes) continue;
    for (int lane = 0; lane < kLanes; lane++) {
      const uint64_t value = specialValue(special.which, warp, lane);
      std::memcpy(warp.rows + special.offset + lane * special.bytes, &value, special.bytes);
    }
  }
}

uint64_t Block::specialValue(Special which, const Warp& warp, int lane) const {
  const Dim3 &block = launch.config.block, &grid = launch.config.grid;
  const uint32_t thread = static_cast<uint32_t>(warp.id * kLanes + lane);
  const uint32_t bit = 1u << lane;
  switch (which) {
    case Special::tidX:
      return thread % block.x;
    case Special::tidY:
      return thread / block.x % block.y;
    case Special::tidZ:
      return thread / block.x / block.y;
    case Special::ntidX:
      return block.x;
    case Special::ntidY:
      return block.y;
    case Special::ntidZ:
      return block.z;
    case Special::ctaidX:
      return index.x;
    case Special::ctaidY:
      return index.y;
    case Special::ctaidZ:
      return index.z;
    case Special::nctaidX:
      return grid.x;
    case Special::nctaidY:
      return grid.y;
    case Special::nctaidZ:
      return grid.z;
    case Special::laneid:
      return static_cast<uint64_t>(lane);
    case Special::warpid:
      return static_cast<uint64_t>(warp.id);
    case Special::nwarpid:
      return warps.size();
    case Special::nsmid:
    case Special::clusterOne:
      return 1;
    case Special::maskEq:
      return bit;
    case Special::maskLt:
      return bit - 1;
    case Special::maskLe:
      return bit | (bit - 1);
    case Special::maskGt:
      return ~(bit | (bit - 1));
    case Special::maskGe:
      return ~(bit - 1);
    case Special::dynamicShared:
      return launch.config.dynamicShared;
    case Special::totalShared:
      return launch.sharedBytes;
    case Special::smid:
    case Special::gridid:
    case Special::gridWorkspaceHigh:
      return launch.gridWorkspace >> 32;
    case Special::gridWorkspaceLow:
      return launch.gridWorkspace & 0xffffffffu;
    case Special::zero:
    case Special::none:
      return 0;
  }
  return 0;
}

MBarrierSet& Block::mbarriers() {
  if (!mbarriers_) mbarriers_ = std::make_unique<MBarrierSet>();
  return *mbarriers_;
}

void Block::collect() { launch.merge(counters, instCounters); }

void Warp::report(const char* kind, const Inst& inst, int lane, uint64_t address,
                  const std::string& message) {
  block->launch.report(kind, inst, block->index, id, lane, address, message);
}

void Warp::fault(Fault fault, const char* kind, const Inst& inst, int lane, uint64_t address,
                 const std::string& message) {
  report(kind, inst, lane, address, message);
  block->launch.stop(fault);
}

}  // namespace ptxemu
