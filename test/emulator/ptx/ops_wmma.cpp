#include "decoder.h"

namespace ptxemu {
bool decodeWmma(Decoder&) { return false; }
}  // namespace ptxemu
