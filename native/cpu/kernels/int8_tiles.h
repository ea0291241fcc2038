// Products of 8-bit numbers by tiles (AMX): 32 rows times a panel of 32 columns, 64 codes of depth at a time.
// The sums are whole numbers, so they are those of the other products.
#pragma once

#include "cpu/kernels/amx_tiles.h"
#include "cpu/kernels/int8_product.h"

namespace softmoe::cpu::SOFTMOE_ISA {

constexpr int kInt8TileRows = 2 * kTileHeightMax;
static_assert(kTileColumns * 4 == 2 * kTileBytes, "a panel is two tiles wide");
static_assert(kDepthBlock % kTileHeightMax == 0, "blocks of depth are whole tiles");

// tile [32][kTileColumns] (+)= rows of A [32][kPanelStride] times `steps` tiles of depth of a panel of B.
inline void multiply_int8_tiles(std::int64_t steps, const std::uint32_t* a, const std::uint32_t* b,
                                std::int32_t* tile, bool accumulate) {
  constexpr std::int64_t kSumStride = kTileColumns * 4, kLeftStride = kPanelStride * 4;
  constexpr int kLower = kTileHeightMax * kTileColumns;
  if (accumulate) {
    tile_load<0>(tile, kSumStride);
    tile_load<1>(tile + 16, kSumStride);
    tile_load<2>(tile + kLower, kSumStride);
    tile_load<3>(tile + kLower + 16, kSumStride);
  } else {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    tile_load<6>(b, kSumStride);
    tile_load<4>(a, kLeftStride);
    tile_multiply_bytes<0, 4, 6>();
    tile_load<7>(b + 16, kSumStride);
    tile_multiply_bytes<1, 4, 7>();
    tile_load<5>(a + kTileHeightMax * kPanelStride, kLeftStride);
    tile_multiply_bytes<2, 5, 6>();
    tile_multiply_bytes<3, 5, 7>();
    a += kTileHeightMax;
    b += kTileHeightMax * kTileColumns;
  }
  tile_store<0>(tile, kSumStride);
  tile_store<1>(tile + 16, kSumStride);
  tile_store<2>(tile + kLower, kSumStride);
  tile_store<3>(tile + kLower + 16, kSumStride);
}

// At most kInt8TileRows rows times columns [begin, end) of B, as multiply_frozen. Rows of A beyond `rows` are
// read, and must be in memory.
template <class Finish>
void multiply_frozen_tiles(int rows, std::int64_t elements, const FrozenRows<FrozenInt8>& a,
                           const FrozenPanels<FrozenInt8>& b, std::int64_t begin, std::int64_t end,
                           const Finish& finish) {
  const TileScope tile_registers;
  static_cast<void>(tile_registers);
  alignas(64) std::int32_t tile[kInt8TileRows * kTileColumns];
  for (std::int64_t column = begin; column < end; column += kTileColumns) {
    std::int64_t e = 0;
    do {
      const std::int64_t here = smaller<std::int64_t>(elements - e, kDepthBlock);
      multiply_int8_tiles(ceil_div(here, kTileHeightMax), a.data + e / kDepthBlock * a.block_stride,
                          b.panel(column) + e * kTileColumns, tile, e > 0);
      e += here;
    } while (e < elements);
    for (int r = 0; r < rows; ++r) {
      for (std::int64_t c = column; c < smaller(column + kTileColumns, end); c += kLanes) {
        const std::int64_t count = smaller<std::int64_t>(end - c, kLanes);
        finish(r, c, load_some_integers(tile + r * kTileColumns + c - column, kLanes), count);
      }
    }
  }
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
