// The error that tells what is wrong with the indices of a routing.
#pragma once

#include "core/error.h"
#include "core/index_fault.h"

namespace softmoe {

// ERR_INVALID_ARGUMENT; the caller adds the operation's name.
Error index_error(const IndexFault& fault);
[[noreturn]] void throw_index_error(const IndexFault& fault);

}  // namespace softmoe
