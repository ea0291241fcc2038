// What the emulator keeps in the 128 opaque bytes of a CUtensorMap. The driver writes it, the engine's tile
// copies (cp.async.bulk.tensor) read it; no program can look inside.
#pragma once

#include <cstdint>

namespace softmoe::emulator {

struct TensorMap {
  static constexpr std::uint32_t mark = 0x54454E53;  // tells a map from other bytes
  static constexpr unsigned maxRank = 5;

  std::uint32_t magic;
  std::uint8_t rank;
  std::uint8_t dataType;  // a CUtensorMapDataType
  std::uint8_t elementBytes;
  std::uint8_t interleave;     // 0 none, 1 16 bytes, 2 32 bytes
  std::uint8_t swizzle;        // 0 none, 1 32 bytes, 2 64 bytes, 3 128 bytes
  std::uint8_t fillWithNan;    // out of bounds: 0 zero, 1 NaN
  std::uint64_t address;       // of element (0, …, 0)
  std::uint64_t strides[4];    // bytes between elements along dimension 1, 2, …; dimension 0 is dense
  std::uint32_t lastIndex[5];  // extent minus 1 along each dimension, innermost first
  std::uint16_t box[5];        // extent of the tile, in elements
  std::uint8_t elementStrides[5];
};

static_assert(sizeof(TensorMap) <= 128, "a CUtensorMap has 128 bytes");

}  // namespace softmoe::emulator
