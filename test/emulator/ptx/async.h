#pragma once

#include "machine.h"

namespace ptxemu {

// Lets the copies of all but the last `keep` committed groups of these lanes land; -1: all, committed or not.
void landCopies(Warp& warp, Mask mask, int64_t keep);
// Lets those land that these lanes issued before the warp's copy of this number.
void landCopiesBefore(Warp& warp, Mask mask, uint64_t number);

}  // namespace ptxemu
