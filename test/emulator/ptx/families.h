// Instructions whose modifiers combine, by the words that tell them apart; supportedForms() lists the others
// in full.
#pragma once

#include <string>
#include <vector>

namespace ptxemu {

// Each begins the spelling of some instruction that the engine decodes.
std::vector<std::string> instructionFamilies();

}  // namespace ptxemu
