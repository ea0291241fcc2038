// Runs the warps of one block. A warp's lanes are in groups of equal program counter; the group with the
// lowest one runs first, and groups merge when they meet, so lanes reconverge at the end of loops and
// branches. A group stops at a barrier until the barrier is complete, and at a warp-wide instruction until
// the lanes it names have come.
#include <algorithm>
#include <chrono>
#include <sstream>

#include "block.h"
#include "definedness.h"

namespace ptxemu {
namespace {

constexpr uint64_t kWholeSlice = 1 << 16;
// Blocks of a cooperative launch wait for each other, so they take turns often.
constexpr uint64_t kCooperativeSlice = 1 << 10;
// A group that ran this long while others of its warp wait is taken to poll for them.
constexpr uint64_t kSpinLimit = 1 << 18;
constexpr int kAnyPlace = -2;  // Group::barrier of bar.warp.sync
constexpr int kRoundsBeforeYield = 256, kCooperativeRoundsBeforeYield = 2;
// A warp that polls an mbarrier in a short loop, over and over, with nobody else doing anything, never gets
// on.
constexpr uint64_t kLongestPoll = 512;
constexpr int kMostIdleRounds = 4096;

}  // namespace

bool Block::hasReadyGroup(const Warp& warp) const {
  return std::any_of(warp.groups.begin(), warp.groups.end(),
                     [](const Group& group) { return group.state == Group::State::ready; });
}

int Block::pickGroup(Warp& warp) const {
  int best = -1;
  for (size_t i = 0; i < warp.groups.size(); i++) {
    const Group& group = warp.groups[i];
    if (group.state == Group::State::ready && (best < 0 || group.pc < warp.groups[best].pc))
      best = static_cast<int>(i);
  }
  if (warp.spin > kSpinLimit || warp.yield) {
    // Let a group go that would otherwise starve: the ready one with the highest program counter.
    warp.spin = 0;
    for (size_t i = 0; i < warp.groups.size(); i++) {
      const Group& group = warp.groups[i];
      if (group.state == Group::State::ready && group.pc > warp.groups[best].pc) best = static_cast<int>(i);
    }
  }
  warp.yield = false;
  return best;
}

Mask Block::memberMask(Warp& warp, const Inst& inst, Mask mask) const {
  if (inst.member == 255) return warp.alive;
  return warp.row<Mask>(inst.op[inst.member])[firstLane(mask)] & warp.alive;
}

// Of the lanes, those that name the same members as the first: tiles of a warp may meet at one instruction.
Mask Block::sameMembers(Warp& warp, const Inst& inst, Mask mask) const {
  if (inst.member == 255) return mask;
  const Mask* members = warp.row<Mask>(inst.op[inst.member]);
  const Mask first = members[firstLane(mask)];
  Mask same = 0;
  for (int lane = 0; lane < kLanes; lane++) same |= Mask(members[lane] == first) << lane;
  return same & mask;
}

// Undefined guards: a branch, memory or warp-wide instruction takes effect, anything else just spreads the
// doubt.
void Block::checkGuard(Warp& warp, const Inst& inst, Mask mask) {
  const Mask doubtful = undefinedLanes(warp, inst.predicate) & mask;
  if (!doubtful) return;
  const bool spreads = inst.kind == Kind::plain && inst.category != Category::memory;
  if (!spreads)
    return reportUndefined(warp, inst, inst.predicate, mask, "decides whether this instruction runs");
  for (int i = 0; i < inst.destinations; i++) setShadow(warp, inst.op[i], 0xff, doubtful);
}

template <bool kChecking>
void Block::runWarp(Warp& warp) {
  const Inst* const code = program.code.data();
  uint64_t budget = slice();
  const uint64_t granted = budget;
  uint64_t lastTogether = budget;
  for (;;) {
    const int picked = pickGroup(warp);
    if (picked < 0) break;
    int32_t pc = warp.groups[picked].pc;
    Mask mask = warp.groups[picked].mask;
    warp.groups.erase(warp.groups.begin() + picked);
    // Lanes that wait here for company join; `limit` is the next place where company may be found.
    int32_t limit = INT32_MAX;
    for (size_t i = 0; i < warp.groups.size();) {
      const Group& group = warp.groups[i];
      const bool joinable = group.state == Group::State::ready ||
                            (group.state == Group::State::converging && group.barrier != kAnyPlace);
      if (joinable && group.pc == pc) {
        mask |= group.mask;
        warp.groups.erase(warp.groups.begin() + i);
        continue;
      }
      if (joinable && group.pc > pc) limit = std::min(limit, group.pc);
      i++;
    }
    if (mask == warp.alive) {
      warp.spin = 0;
      lastTogether = budget;
    }
    bool stay = true;
    while (stay) {
      const Inst& inst = code[pc];
      Mask active = mask;
      if (inst.predicate != kNone) {
        const Mask holds = warp.predicate(inst.predicate);
        active &= inst.predicateNegated ? ~holds : holds;
      }
      if constexpr (kChecking) {
        InstCounters& counter = instCounters[inst.index];
        counter.executions++;
        counter.lanes += static_cast<uint64_t>(__builtin_popcount(active));
        if (warp.tainted && active && inst.propagate && inst.kind != Kind::convergeHere)
          inst.propagate(warp, inst, active);
        if (warp.tainted && inst.predicate != kNone) checkGuard(warp, inst, mask);
      }
      budget--;
      switch (inst.kind) {
        case Kind::plain:
          if (active) inst.execute(warp, inst, active);
          pc++;
          break;
        case Kind::branch:
          if (active == mask) {
            pc = inst.target;
          } else if (!active) {
            pc++;
          } else {
            counters.divergentBranches++;
            warp.groups.push_back({inst.target, active, Group::State::ready, -1});
            warp.groups.push_back({pc + 1, mask & ~active, Group::State::ready, -1});
            stay = false;
          }
          break;
        case Kind::branchTable: {
          const std::vector<int32_t>& table = program.branchTables[inst.target];
          const uint32_t* choice = warp.row<uint32_t>(inst.op[0]);
          if constexpr (kChecking) {
            if (warp.tainted) reportUndefined(warp, inst, inst.op[0], active, "chooses a branch");
          }
          if (mask & ~active) warp.groups.push_back({pc + 1, mask & ~active, Group::State::ready, -1});
          for (Mask rest = active; rest;) {
            const uint32_t index = choice[firstLane(rest)];
            Mask same = 0;
            forLanes(rest, [&](int lane) { same |= Mask(choice[lane] == index) << lane; });
            rest &= ~same;
            if (index >= table.size()) {
              warp.fault(Fault::trap, "trap", inst, firstLane(same), index, "index outside the branch table");
              return;
            }
            warp.groups.push_back({table[index], same, Group::State::ready, -1});
          }
          stay = false;
          break;
        }
        case Kind::exit:
          exitLanes(warp, active);
          mask &= ~active;
          pc++;
          stay = mask != 0;
          break;
        case Kind::barrier:
          if (active && !arriveAtBarrier(warp, inst, active)) {
            if (mask & ~active) warp.groups.push_back({pc + 1, mask & ~active, Group::State::ready, -1});
            warp.groups.push_back(
                {pc + 1, active, Group::State::atBarrier,
                 static_cast<int>(warp.row<uint32_t>(inst.op[inst.address])[firstLane(active)])});
            stay = false;
          }
          pc++;
          break;
        case Kind::convergeHere: {
          Mask incomplete = 0;
          for (Mask rest = active; rest;) {
            const Mask together = sameMembers(warp, inst, rest);
            const Mask wanted = memberMask(warp, inst, rest);
            rest &= ~together;
            if (wanted & ~mask) {
              incomplete |= together;
              continue;
            }
            if constexpr (kChecking) {
              if (warp.tainted && inst.propagate) inst.propagate(warp, inst, together);
            }
            inst.execute(warp, inst, together);
          }
          if (incomplete == active) incomplete = active ? mask : 0;  // lanes switched off may be named too
          // Lanes that went by others, which have waited here since, come again and join them.
          const bool others = std::any_of(warp.groups.begin(), warp.groups.end(), [&](const Group& group) {
            return group.state == Group::State::converging && group.barrier == -1 && group.pc == pc;
          });
          const Group::State state = others ? Group::State::ready : Group::State::converging;
          if (incomplete) warp.groups.push_back({pc, incomplete, state, -1});
          mask &= ~incomplete;
          stay = mask != 0;
          pc++;
          break;
        }
        case Kind::convergeWarp: {
          Mask incomplete = 0;
          for (Mask rest = active; rest;) {
            const Mask together = sameMembers(warp, inst, rest);
            if (!convergeWarp(warp, pc, together, memberMask(warp, inst, rest))) incomplete |= together;
            rest &= ~together;
          }
          mask &= ~incomplete;
          stay = mask != 0;
          pc++;
          break;
        }
        case Kind::yielding:
          if (active) inst.execute(warp, inst, active);
          pc++;
          if (warp.yield) {
            warp.groups.push_back({pc, mask, Group::State::ready, -1});
            executed_ += granted - budget;
            return;
          }
          break;
      }
      if (stay && (pc >= limit || budget == 0)) {
        warp.groups.push_back({pc, mask, Group::State::ready, -1});
        stay = false;
      }
    }
    if (launch.stopped.load(std::memory_order_relaxed)) return;
    if (budget == 0) break;
  }
  warp.spin += lastTogether - budget;
  executed_ += granted - budget;
}

uint64_t Block::slice() {
  if (launch.config.orderSeed == 0) return launch.config.cooperative ? kCooperativeSlice : kWholeSlice;
  return 1 + random_() % 256;
}

// -- exits and barriers
// ---------------------------------------------------------------------------------------------

void Block::exitLanes(Warp& warp, Mask lanes) {
  if (!lanes) return;
  warp.alive &= ~lanes;
  aliveThreads_ -= static_cast<uint32_t>(__builtin_popcount(lanes));
  // Those who waited for these lanes look again.
  for (Group& group : warp.groups) {
    if (group.state != Group::State::converging) continue;
    if (group.barrier == kAnyPlace) group.pc--;
    group.barrier = -1;
    group.state = Group::State::ready;
  }
  releaseCompleted();
}

bool Block::convergeWarp(Warp& warp, int32_t pc, Mask mask, Mask wanted) {
  Mask here = mask;
  for (const Group& group : warp.groups) {
    if (group.state == Group::State::converging && group.barrier == kAnyPlace) here |= group.mask;
  }
  if (wanted & ~here) {
    warp.groups.push_back({pc + 1, mask, Group::State::converging, kAnyPlace});
    return false;
  }
  for (Group& group : warp.groups) {
    if (group.state == Group::State::converging && group.barrier == kAnyPlace && (group.mask & wanted)) {
      group.state = Group::State::ready;
      group.barrier = -1;
    }
  }
  return true;
}

// bar operands: [destination], id, [count], [predicate]. inst.address is the id's place in op, inst.flag the
// kind of barrier, inst.vector how many of count and predicate follow.
bool Block::arriveAtBarrier(Warp& warp, const Inst& inst, Mask mask) {
  const int lane = firstLane(mask);
  const uint32_t id = warp.row<uint32_t>(inst.op[inst.address])[lane];
  const uint32_t count =
      inst.immediate & kBarrierHasCount ? warp.row<uint32_t>(inst.op[inst.address + 1])[lane] : 0;
  const bool aligned = inst.immediate & kBarrierAligned;
  counters.barriers++;
  if (aligned && mask != warp.alive && checks.races) {
    warp.report("barrier-divergence", inst, firstLane(warp.alive & ~mask), id,
                "an aligned barrier is executed by some lanes of the warp only");
  }
  if (id > 15) {
    warp.fault(Fault::trap, "bad-operand", inst, lane, id, "barrier number above 15");
    return true;
  }
  NamedBarrier& barrier = barriers_[static_cast<int>(id)];
  if (barrier.arrived == 0) {
    barrier.expected = count;
  } else if (barrier.expected != count) {
    warp.report("barrier-divergence", inst, lane, id,
                "barrier " + std::to_string(id) + " was entered with " + std::to_string(barrier.expected) +
                    " threads expected, now with " + std::to_string(count));
  }
  uint32_t threads = static_cast<uint32_t>(__builtin_popcount(mask));
  // Hardware counts warps: lanes that never existed or have left count too.
  if (count != 0 && aligned && mask == warp.alive) threads = kLanes;
  barrier.arrived += threads;
  if (inst.flag >= kBarrierPopc) {
    const uint32_t row = inst.op[inst.destinations + inst.sources - 1];
    Mask votes = warp.predicate(row);
    if (inst.immediate & kBarrierNegated) votes = ~votes;
    barrier.trueCount += static_cast<uint32_t>(__builtin_popcount(votes & mask));
    barrier.voters += static_cast<uint32_t>(__builtin_popcount(mask));
  }
  if (checks.races) races.arrive(warp.id, barrier.clock);
  const bool complete = barrier.arrived >= (count ? count : aliveThreads_);
  if (inst.flag == kBarrierArrive) {
    if (complete) release(static_cast<int>(id));
    return true;
  }
  if (!complete) return false;
  // The last to come: it is not among the waiting, so it takes its result here.
  warp.groups.push_back({0, mask, Group::State::atBarrier, static_cast<int>(id)});
  warp.groups.back().pc = static_cast<int32_t>(inst.index) + 1;
  release(static_cast<int>(id));
  warp.groups.pop_back();
  return true;
}

void Block::release(int id) {
  const NamedBarrier barrier = std::move(barriers_[id]);
  barriers_.erase(id);
  for (Warp& warp : warps) {
    bool waited = false;
    for (Group& group : warp.groups) {
      if (group.state != Group::State::atBarrier || group.barrier != id) continue;
      waited = true;
      group.state = Group::State::ready;
      group.barrier = -1;
      const Inst& inst = program.code[group.pc - 1];
      if (inst.flag == kBarrierPopc) {
        uint32_t* row = warp.row<uint32_t>(inst.op[0]);
        forLanes(group.mask, [&](int lane) { row[lane] = barrier.trueCount; });
      } else if (inst.flag == kBarrierAnd || inst.flag == kBarrierOr) {
        const bool value =
            inst.flag == kBarrierAnd ? barrier.trueCount == barrier.voters : barrier.trueCount > 0;
        warp.setPredicate(inst.op[0], value ? kAllLanes : 0, group.mask);
      }
    }
    if (waited && checks.races) races.leave(warp.id, barrier.clock);
  }
}

// Threads that have left are no longer waited for.
void Block::releaseCompleted() {
  std::vector<int> complete;
  for (const auto& [id, barrier] : barriers_) {
    if (barrier.expected == 0 && barrier.arrived > 0 && barrier.arrived >= aliveThreads_)
      complete.push_back(id);
  }
  for (int id : complete) release(id);
}

void Block::reportDeadlock() {
  std::ostringstream what;
  what << "no warp can go on:";
  Warp* first = nullptr;
  int32_t where = 0;
  for (Warp& warp : warps) {
    for (const Group& group : warp.groups) {
      if (!first) {
        first = &warp;
        where = group.state == Group::State::atBarrier ? group.pc - 1 : group.pc;
      }
      const int32_t pc =
          group.state == Group::State::atBarrier || group.barrier == kAnyPlace ? group.pc - 1 : group.pc;
      what << " warp " << warp.id << " lanes 0x" << std::hex << group.mask << std::dec
           << (group.state == Group::State::atBarrier ? " at barrier " + std::to_string(group.barrier)
               : group.state == Group::State::ready   ? " poll an mbarrier that never completes"
                                                      : " wait for other lanes")
           << " (PTX line " << program.positions[pc].ptxLine << ");";
    }
  }
  if (first) first->fault(Fault::deadlock, "deadlock", program.code[where], 0, 0, what.str());
}

// -- the block
// ------------------------------------------------------------------------------------------------------

Block::Status Block::run() {
  for (int round = 0; aliveThreads_ > 0; round++) {
    if (launch.stopped.load(std::memory_order_relaxed)) return Status::finished;
    const bool cooperative = launch.config.cooperative;
    if (round == (cooperative ? kCooperativeRoundsBeforeYield : kRoundsBeforeYield)) return Status::yielded;
    if (launch.config.orderSeed) std::shuffle(order_.begin(), order_.end(), random_);
    bool anyRan = false, onlyPolls = true;
    for (int id : order_) {
      Warp& warp = warps[id];
      if (!warp.alive || !hasReadyGroup(warp)) continue;
      anyRan = true;
      const uint64_t before = executed_;
      warp.pollsBarrier = false;
      if (warp.checking)
        runWarp<true>(warp);
      else
        runWarp<false>(warp);
      // A short slice may end before the next poll.
      warp.sincePoll = warp.pollsBarrier ? 0 : warp.sincePoll + (executed_ - before);
      onlyPolls &= warp.sincePoll < kLongestPoll;
      if (launch.stopped.load(std::memory_order_relaxed)) return Status::finished;
    }
    idleRounds_ = onlyPolls ? idleRounds_ + 1 : 0;
    if (!anyRan || idleRounds_ > kMostIdleRounds) {
      reportDeadlock();
      return Status::finished;
    }
    if (executed_ > launch.config.instructionLimit) {
      Warp& warp = *std::find_if(warps.begin(), warps.end(), [](const Warp& w) { return w.alive != 0; });
      const int32_t pc = warp.groups.empty() ? 0 : warp.groups[0].pc;
      warp.fault(Fault::deadlock, "hang", program.code[pc], 0, 0,
                 "the block ran longer than its instruction limit");
    }
  }
  return Status::finished;
}

}  // namespace ptxemu
