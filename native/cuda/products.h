// Launches of the matrix products in kernels/products_*.cu: the choice of the tile and of the splits.
#pragma once

#include "cuda/kernels/products_params.h"
#include "cuda/launch.h"

namespace softmoe::cuda {

// Whether rows of `columns` elements can be accessed 16 bytes at a time.
inline bool rows_are_aligned(const void* data, std::int64_t columns, DType dtype) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 &&
         static_cast<std::size_t>(columns) * size_of(dtype) % 16 == 0;
}
// Whether four elements at a time can be accessed in rows of `columns`.
inline bool fours_are_aligned(const void* data, std::int64_t columns) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && columns % 4 == 0;
}

// Rows of a block for groups of about `rows_per_group` rows: the smallest tile that holds a whole group, so
// that b is read once; for larger groups 64 or 128, whichever fills the GPU. No result depends on it.
int row_tile(DType dtype, bool b_transposed, std::int64_t rows_per_group, std::int64_t groups,
             std::int64_t columns, int multiprocessors);

// The tiles of at most `tile_rows` rows of ragged groups, made on the device: group g owns rows [offsets[g],
// offsets[g + 1]), at most max_rows in all. Memory as of a Workspace.
class RowTiles {
 public:
  RowTiles(Launcher& launcher, const std::int32_t* offsets, std::int32_t groups, int tile_rows,
           std::int64_t max_rows);
  const RowTile* data() const { return tiles_.as<RowTile>(); }
  std::int32_t count() const { return count_; }

 private:
  std::int32_t count_;
  Workspace tiles_;
};

// y = epilogue(a b): `product` with everything but the tiles, `exact` and the alignments set. Ragged groups
// own rows [offsets[g], offsets[g + 1]) of at most max_rows in all; null offsets: rows_per_group each.
void row_product(Launcher& launcher, DType dtype, bool b_transposed, RowProduct product,
                 const std::int32_t* offsets = nullptr, std::int64_t max_rows = 0);

// y = a^T b: `product` with everything but tiles, splits, `exact` and the alignments set; ragged groups have
// at most max_rows in all.
void column_product(Launcher& launcher, DType dtype, bool b_transposed, ColumnProduct product,
                    std::int64_t max_rows = 0);

}  // namespace softmoe::cuda
