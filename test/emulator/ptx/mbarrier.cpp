// mbarrier.*: init, arrive with and without expected bytes, test_wait, try_wait. A state token is the phase
// in its low and the pending count in its high half.
#include "mbarrier.h"

#include <cstring>

#include "access.h"
#include "async.h"
#include "decoder.h"
#include "definedness.h"

namespace ptxemu {

MBarrier* MBarrierSet::find(uint32_t address) {
  const auto found = barriers_.find(address);
  return found == barriers_.end() ? nullptr : &found->second;
}

MBarrier& MBarrierSet::create(uint32_t address, uint32_t count) {
  MBarrier& barrier = barriers_[address];
  barrier = MBarrier();
  barrier.count = barrier.pending = count;
  return barrier;
}

void MBarrierSet::completeIfDone(MBarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.phase++;
  barrier.pending = barrier.count;
  // Who waits for a phase has all earlier ones behind it too, so the clock is kept and only grows.
  barrier.completed = barrier.arriving;
}

void MBarrierSet::landDeferred(uint32_t barrier) {
  std::vector<Deferred> due;
  for (size_t i = 0; i < deferred_.size();) {
    if (deferred_[i].barrier != barrier) {
      i++;
      continue;
    }
    due.push_back(std::move(deferred_[i]));
    deferred_.erase(deferred_.begin() + static_cast<ptrdiff_t>(i));
  }
  for (const Deferred& work : due) work.land();
}

namespace {

enum MBarrierOperation : uint8_t {
  kInit,
  kInvalidate,
  kArrive,
  kArriveDrop,
  kArriveExpect,
  kExpect,
  kComplete,
  kTestWait,
  kTestWaitParity,
  kPendingCount
};

// The barrier a lane names, with checks: it must exist, and its making must be ordered before this use.
MBarrier* barrierAt(Warp& warp, const Inst& inst, int lane, uint32_t address) {
  MBarrier* barrier = warp.block->mbarriers().find(address);
  if (!barrier) {
    warp.fault(Fault::illegalAddress, "bad-operand", inst, lane, address,
               "there is no mbarrier at this address");
  }
  return barrier;
}

void release(Warp& warp, MBarrier& barrier) {
  if (warp.block->checks.races) warp.block->races.arrive(warp.id, barrier.arriving);
}

void arrive(Warp& warp, const Inst& inst, int lane, uint32_t address, MBarrier& barrier, uint32_t count) {
  if (count > barrier.pending) {
    warp.report("bad-operand", inst, lane, address, "more threads arrive at an mbarrier than it expects");
    barrier.pending = 0;
  } else {
    barrier.pending -= count;
  }
  MBarrierSet::completeIfDone(barrier);
}

// op: [destination], address, [value], [...]; Inst::flag is the operation, immediate the address offset.
void executeMBarrier(Warp& warp, const Inst& inst, Mask mask) {
  Block& block = *warp.block;
  const auto operation = static_cast<MBarrierOperation>(inst.flag);
  const uint32_t* value = inst.op + inst.destinations + 1;
  const bool hasValue = inst.sources > 1;
  forParts(warp, inst, mask, 8, Use::atomic, [&](const Access& access, Mask part) {
    if (access.space != Space::shared) {
      warp.fault(Fault::illegalAddress, "shared-bounds", inst, firstLane(part),
                 access.address[firstLane(part)], "an mbarrier must lie in shared memory");
      return;
    }
    Mask passed = 0;
    for (Mask rest = part; rest && !block.launch.stopped; rest &= rest - 1) {
      const int lane = firstLane(rest);
      const uint32_t address = static_cast<uint32_t>(access.address[lane]);
      if (operation == kInit) {
        block.mbarriers().create(address, warp.row<uint32_t>(value[0])[lane]);
        if (block.checks.races) {
          const int other = block.races.writeShared(warp.id, address, 8);
          if (other >= 0)
            warp.report("race", inst, lane, address, "an mbarrier is made over memory still in use");
        }
        if (warp.definedness) setUndefinedBytesAt(warp, access, lane, 0, 8, 0);
        continue;
      }
      if (operation == kTestWait || operation == kTestWaitParity) block.mbarriers().landDeferred(address);
      MBarrier* barrier = barrierAt(warp, inst, lane, address);
      if (!barrier) return;
      if (block.checks.races && operation != kInvalidate) {
        const int other = block.races.readShared(warp.id, address, 8);
        if (other >= 0)
          warp.report("race", inst, lane, address, "an mbarrier is used unordered with its making");
      }
      const uint64_t state = barrier->phase | uint64_t(barrier->pending) << 32;
      switch (operation) {
        case kInvalidate:
          block.mbarriers().remove(address);
          break;
        case kArrive:
        case kArriveDrop: {
          const uint32_t count = hasValue ? warp.row<uint32_t>(value[0])[lane] : 1;
          if (operation == kArriveDrop) barrier->count -= std::min(barrier->count, count);
          // The clock before the arrival may complete the phase.
          release(warp, *barrier);
          arrive(warp, inst, lane, address, *barrier, count);
          break;
        }
        case kArriveExpect:
          barrier->bytes += warp.row<uint32_t>(value[0])[lane];
          release(warp, *barrier);
          arrive(warp, inst, lane, address, *barrier, 1);
          break;
        case kExpect:
          barrier->bytes += warp.row<uint32_t>(value[0])[lane];
          break;
        case kComplete:
          barrier->bytes -= warp.row<uint32_t>(value[0])[lane];
          MBarrierSet::completeIfDone(*barrier);
          break;
        case kTestWait:
          passed |= Mask(static_cast<uint32_t>(warp.row<uint64_t>(value[0])[lane]) != barrier->phase) << lane;
          break;
        case kTestWaitParity: {
          const uint32_t parity = warp.row<uint32_t>(value[0])[lane] & 1;
          passed |= Mask((barrier->phase & 1) != parity) << lane;
          break;
        }
        default:
          break;
      }
      if ((operation == kTestWait || operation == kTestWaitParity) && (passed >> lane & 1) &&
          block.checks.races) {
        block.races.leave(warp.id, barrier->completed);
      }
      if (inst.destinations &&
          (operation == kArrive || operation == kArriveDrop || operation == kArriveExpect)) {
        warp.row<uint64_t>(inst.op[0])[lane] = state;
      }
    }
    if (operation == kTestWait || operation == kTestWaitParity) {
      warp.setPredicate(inst.op[0], passed, part);
      if (passed != part) warp.yield = warp.pollsBarrier = true;
    }
    for (int i = 0; i < inst.destinations; i++) clearShadow(warp, inst.op[i], part);
  });
}

void executePendingCount(Warp& warp, const Inst& inst, Mask mask) {
  uint32_t* d = warp.row<uint32_t>(inst.op[0]);
  const uint64_t* state = warp.row<uint64_t>(inst.op[1]);
  forLanes(mask, [&](int lane) { d[lane] = static_cast<uint32_t>(state[lane] >> 32); });
}

// cp.async.mbarrier.arrive: the arrival comes when the thread's earlier copies have landed.
void executeCopyArrive(Warp& warp, const Inst& inst, Mask mask) {
  forParts(warp, inst, mask, 8, Use::atomic, [&](const Access& access, Mask part) {
    forLanes(part, [&](int lane) {
      const uint32_t address = static_cast<uint32_t>(access.address[lane]);
      MBarrier* barrier = barrierAt(warp, inst, lane, address);
      if (!barrier) return;
      if (!inst.flag) barrier->pending++;
      const uint64_t issued = warp.copiesIssued;
      Warp* self = &warp;
      const Inst* instruction = &inst;
      warp.block->mbarriers().defer(address, [self, instruction, lane, address, issued] {
        landCopiesBefore(*self, 1u << lane, issued);
        MBarrier* barrier = self->block->mbarriers().find(address);
        if (!barrier) return;
        release(*self, *barrier);
        arrive(*self, *instruction, lane, address, *barrier, 1);
      });
    });
  });
}

void takeScopes(Decoder& decoder) {
  decoder.takeAny({"release", "acquire", "relaxed"});
  decoder.takeAny({"cta", "cluster"});
}

bool finish(Decoder& decoder, MBarrierOperation operation) {
  Inst& inst = decoder.inst;
  inst.flag = operation;
  inst.execute = executeMBarrier;
  inst.propagate = propagateByItself;
  inst.category = Category::memory;
  inst.kind = operation == kTestWait || operation == kTestWaitParity ? Kind::yielding : Kind::plain;
  return true;
}

}  // namespace

bool decodeMBarrier(Decoder& decoder) {
  Inst& inst = decoder.inst;
  if (decoder.startsWith("cp.async.mbarrier.arrive")) {
    decoder.take("async"), decoder.take("mbarrier"), decoder.take("arrive");
    inst.flag = decoder.take("noinc");
    const bool shared = !decoder.takeAny({"shared::cta", "shared"}).empty();
    decoder.take("b64");
    decoder.allTaken();
    decoder.address(decoder.operand(0), shared ? Space::shared : Space::generic);
    inst.execute = executeCopyArrive;
    inst.propagate = propagateByItself;
    inst.category = Category::memory;
    return true;
  }
  if (decoder.base() != "mbarrier") return false;
  if (decoder.take("pending_count")) {
    decoder.destination(decoder.operand(0), OperandType::bits32);
    decoder.source(decoder.operand(1), OperandType::bits64);
    inst.execute = executePendingCount;
    inst.propagate = propagateAny;
    return true;
  }
  const std::string name = decoder.takeAny(
      {"init", "inval", "arrive_drop", "arrive", "expect_tx", "complete_tx", "test_wait", "try_wait"});
  const bool expects = name == "arrive" && decoder.take("expect_tx");
  const bool parity = decoder.take("parity");
  decoder.take("noComplete");
  takeScopes(decoder);
  const Space space =
      decoder.takeAny({"shared::cta", "shared::cluster", "shared"}).empty() ? Space::generic : Space::shared;
  decoder.take("b64");
  decoder.allTaken();
  size_t next = 0;
  const bool waits = name == "test_wait" || name == "try_wait", arrives = name.compare(0, 6, "arrive") == 0;
  if (waits) decoder.destination(decoder.operand(next++), OperandType::predicate);
  if (arrives) {
    if (decoder.operand(0).kind != Operand::Kind::address)
      decoder.destination(decoder.operand(next++), OperandType::bits64);
  }
  decoder.address(decoder.operand(next++), space);
  if (next < decoder.operandCount()) {
    const bool token = waits && !parity;
    decoder.source(decoder.operand(next), token ? OperandType::bits64 : OperandType::bits32);
  }
  if (name == "init") return finish(decoder, kInit);
  if (name == "inval") return finish(decoder, kInvalidate);
  if (name == "expect_tx") return finish(decoder, kExpect);
  if (name == "complete_tx") return finish(decoder, kComplete);
  if (waits) return finish(decoder, parity ? kTestWaitParity : kTestWait);
  if (name == "arrive_drop") return finish(decoder, kArriveDrop);
  if (name == "arrive") return finish(decoder, expects ? kArriveExpect : kArrive);
  decoder.unsupported();
}

}  // namespace ptxemu
