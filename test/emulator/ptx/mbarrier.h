// mbarriers of a block, and the asynchronous work that completes on them.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "machine.h"
#include "races.h"

namespace ptxemu {

struct MBarrier {
  uint32_t count = 0;    // arrivals of a phase
  uint32_t pending = 0;  // of the current phase
  int64_t bytes = 0;     // of transfers still expected
  uint32_t phase = 0;
  SyncClock arriving, completed;
};

class MBarrierSet {
 public:
  MBarrier* find(uint32_t address);
  MBarrier& create(uint32_t address, uint32_t count);
  void remove(uint32_t address) { barriers_.erase(address); }
  // Moves on to the next phase when nothing is missing.
  static void completeIfDone(MBarrier& barrier);

  // Work that happens "some time later" is kept until someone polls its barrier: data that is used without
  // waiting is not there yet.
  struct Deferred {
    uint32_t barrier = 0;
    std::function<void()> land;
  };
  void defer(uint32_t barrier, std::function<void()> land) {
    deferred_.push_back({barrier, std::move(land)});
  }
  void landDeferred(uint32_t barrier);

 private:
  std::map<uint32_t, MBarrier> barriers_;
  std::vector<Deferred> deferred_;
};

}  // namespace ptxemu
