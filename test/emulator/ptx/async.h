#pragma once

#include "machine.h"

namespace ptxemu {

// Lets the copies of all but the last `keep` committed groups of these lanes land; -1: all, committed or not.
void landCopies(Warp& warp, Mask mask, int64_t keep);

}  // namespace ptxemu
