// Shared by the matrix instructions.
#pragma once

#include <string>
#include <vector>

#include "machine.h"

namespace ptxemu {

// Reports and says no when lanes are missing.
bool wholeWarp(Warp& warp, const Inst& inst, Mask mask);

void listMmaForms(std::vector<std::string>& names);

}  // namespace ptxemu
