// Declarations of variables in a PTX module.
#pragma once

#include <vector>

#include "token_stream.h"

namespace ptxemu {

// ".align 4 .b8 name[16][2] = {...}, other ;" after the state space.
std::vector<Variable> parseVariables(TokenStream& tokens, Space space, bool external);

}  // namespace ptxemu
