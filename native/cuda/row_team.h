// Launches of kernels that work on rows of elements (kernels/row_team.cuh).
#pragma once

#include <string>

#include "cuda/launch.h"

namespace softmoe::cuda {

// Rows this long keep a block busy: 16 elements a thread.
constexpr std::int64_t kLongRow = 4096;

template <class Params>
void launch_rows(Launcher& launcher, const char* file, const std::string& kernel, std::int64_t rows,
                 std::int64_t length, const Params& params) {
  const bool is_long = length >= kLongRow;
  launcher.launch(file, (kernel + (is_long ? "_block" : "_warp")).c_str(), {divide_up(rows, is_long ? 1 : 8)},
                  256, 0, params);
}

}  // namespace softmoe::cuda
