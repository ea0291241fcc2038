// Which bytes of which values were never written, and how that travels. Undefined values may be copied and
// computed with; they are reported where they take effect: in an address, a branch, a store to global memory,
// an atomic.
#pragma once

#include "machine.h"

namespace ptxemu {

// All bytes of all destinations are undefined where any byte of any source is.
void propagateAny(Warp& warp, const Inst& inst, Mask mask);
// Destination 0 takes over the undefined bytes of source 0, byte by byte (moves within one width).
void propagateCopy(Warp& warp, const Inst& inst, Mask mask);
// Truncation: destination 0 takes over the undefined bytes of source 0; those beyond Inst::flag bytes don't
// matter.
void propagateLowBytes(Warp& warp, const Inst& inst, Mask mask);
// Bitwise and, or, xor of two sources: byte by byte.
void propagateBytewise(Warp& warp, const Inst& inst, Mask mask);
// Destinations are always defined.
void propagateNothing(Warp& warp, const Inst& inst, Mask mask);
// The instruction sets the shadows of its destinations itself.
void propagateByItself(Warp& warp, const Inst& inst, Mask mask);

// Lanes whose row has an undefined byte.
Mask undefinedLanes(Warp& warp, uint32_t row);
void setShadow(Warp& warp, uint32_t row, uint8_t bytes, Mask lanes);
inline void clearShadow(Warp& warp, uint32_t row, Mask lanes) {
  if (warp.tainted) setShadow(warp, row, 0, lanes);
}
// Reports the lanes of the mask in which the row is undefined.
void reportUndefined(Warp& warp, const Inst& inst, uint32_t row, Mask mask, const char* use);

}  // namespace ptxemu
