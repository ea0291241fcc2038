// What can be wrong with the indices of a routing.
#pragma once

#include <cstdint>

namespace softmoe {

enum class IndexProblem : std::int32_t {
  kNone,
  kOffsetsStart,       // an offsets list that does not begin with 0
  kOffsetsOrder,       // an offset smaller than the one before
  kOffsetsEnd,         // expertOffsets beyond the rows
  kRowToken,           // a row of a token that does not exist
  kTokenOffsetsEnd,    // tokenOffsets that do not end where expertOffsets end
  kTokenRows,          // not a row in use
  kTokenRowsOwner,     // a row of another token
  kTokenRowsOrder,     // the rows of a token do not ascend
  kTokenRowsTwice,     // two rows of a token with one expert
  kSelection,          // an index of an expert or a token that does not exist
  kSelectionTwice,     // an expert selected twice by a token
  kPosition,           // a negative position
  kPositionsMade,      // positions that are not 0, 1, 2, … for each expert and group
  kSelectedTokensMade  // a token selected twice by an expert
};

// The element `position` of the list named by the problem holds `value`; `limit` is what it must keep to.
struct IndexFault {
  IndexProblem problem = IndexProblem::kNone;
  std::int64_t position = 0, value = 0, limit = 0;
};

}  // namespace softmoe
