// Checks of index tensors before kernels follow them. Indices that this library made are known to be right
// (core/index_proof.h); all others pass one of these first. What a check returns is safe to follow in any
// case: the CPU throws, CUDA puts harmless indices in the place of wrong ones and tells the next wait.
#pragma once

#include <memory>

#include "core/kernels/sparse_routing.h"

namespace softmoe {

// Row lists: offsets start at 0, never fall and end within the lists; rows in use name existing tokens; and,
// where the token side is given, it is the inverse of the expert side, ascending, and no token has two rows
// of one expert. row_token, or token_offsets and token_rows, may be absent.
struct RowListCheck {
  const char* operation = nullptr;
  RowLists lists;
  std::int64_t experts = 0, tokens = 0;
  // The lists were just made from a selection by hand: any fault is one of the selection, and what is
  // returned are the same lists, harmless where they were wrong.
  enum class Origin : std::uint8_t { kGiven, kSelectedExperts, kSelectedTokens };
  Origin origin = Origin::kGiven;
};
struct SafeRowLists {
  RowLists lists;
  std::shared_ptr<void> memory;  // keeps `lists` until the launch that uses them was queued
};

// A selection, int32 [sets, k]: all elements in [0, end); with `distinct`, no element twice in a set.
// position, of the same shape, may be absent; its elements are 0 or more.
struct SelectionCheck {
  const char* operation = nullptr;
  Buffer selected, position;
  std::int64_t sets = 0, k = 0, end = 0;
  bool distinct = false;
};
struct SafeSelection {
  Buffer selected, position;
  std::shared_ptr<void> memory;
};

}  // namespace softmoe
