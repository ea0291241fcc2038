#include "hopper.h"

#include "decoder.h"

namespace ptxemu {
bool decodeHopper(Decoder&) { return false; }
}  // namespace ptxemu
