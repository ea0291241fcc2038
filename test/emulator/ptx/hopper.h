// What sm_90 adds: mbarriers, tensor copies, warpgroup matrix instructions.
#pragma once

#include <map>

#include "machine.h"
#include "races.h"

namespace ptxemu {

class MBarrierSet {};

}  // namespace ptxemu
