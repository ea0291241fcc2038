// One memory access of a warp: where its lanes point, whether they may, and what it costs.
#pragma once

#include <array>

#include "block.h"

namespace ptxemu {

enum class Use : uint8_t { load, store, atomic };

struct Access {
  Space space = Space::global;
  uint32_t bytes = 0;
  std::array<uint64_t, kLanes> address;  // in that space
  std::array<uint8_t*, kLanes> pointer;  // on the host
};

// Resolves the next part of the mask that lies in one state space, runs all checks on it and counts it.
// Returns the lanes covered: all of the mask but for generic addresses that point into several spaces; 0
// after a fault. Addresses are row + Inst::immediate.
Mask resolve(Warp& warp, const Inst& inst, Mask mask, uint32_t bytes, Use use, Access& access);

// The same for addresses the caller computed.
bool checkAccess(Warp& warp, const Inst& inst, Mask mask, Use use, Access& access);

// Addresses of a row in the given space, without any check.
void addressesOf(Warp& warp, const Inst& inst, uint32_t op, uint8_t rowBytes, int64_t offset, Access& access);

// Undefined bytes of `bytes` (at most 16) at a resolved lane.
uint32_t undefinedBytesAt(Warp& warp, const Inst& inst, const Access& access, int lane, uint32_t at,
                          uint32_t bytes);
void setUndefinedBytesAt(Warp& warp, const Access& access, int lane, uint32_t at, uint32_t bytes,
                         uint32_t mask);

// The host pointer behind a generic address of a lane, without any check.
uint8_t* hostPointer(Warp& warp, int lane, uint64_t address);
// A lane's shared address in a row of 64 bits, if bit `op` of Inst::vector is set, else of 32.
uint32_t sharedAddress(Warp& warp, const Inst& inst, int op, int lane);

// Global sectors, shared wavefronts. `ideal` is what the same lanes need without conflicts.
uint32_t countSectors(const uint64_t* addresses, Mask mask, uint32_t bytes);
struct Wavefronts {
  uint32_t actual = 0, ideal = 0;
};
Wavefronts countWavefronts(const uint64_t* addresses, Mask mask, uint32_t bytes);
void countShared(Warp& warp, const Inst& inst, const uint64_t* addresses, Mask mask, uint32_t bytes,
                 bool newRequest);

// Runs visit(access, lanes) for each part of the mask.
template <class Visit>
inline void forParts(Warp& warp, const Inst& inst, Mask mask, uint32_t bytes, Use use, Visit visit) {
  Access access;
  while (mask) {
    const Mask part = resolve(warp, inst, mask, bytes, use, access);
    if (!part) return;
    visit(access, part);
    mask &= ~part;
  }
}

}  // namespace ptxemu
