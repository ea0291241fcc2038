// What the system says about this machine.
#pragma once

#include <cstddef>
#include <string>

namespace softmoe::cpu {

// Memory that this process may use: the machine's, or less under a control group.
std::size_t usable_memory_bytes();

// The processor's name, or an empty string.
std::string processor_name();

}  // namespace softmoe::cpu
