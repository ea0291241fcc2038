#include "core/index_error.h"

#include <string>

namespace softmoe {

namespace {

std::string text_of(const IndexFault& fault) {
  const std::string at = std::to_string(fault.position), value = std::to_string(fault.value),
                    limit = std::to_string(fault.limit);
  switch (fault.problem) {
    case IndexProblem::kNone:
      break;
    case IndexProblem::kOffsetsStart:
      return "an offsets list begins with " + value + "; wanted 0";
    case IndexProblem::kOffsetsOrder:
      return "element " + at + " of an offsets list is " + value + "; wanted at least " + limit +
             ", the element before it";
    case IndexProblem::kOffsetsEnd:
      return "expertOffsets end with " + value + "; wanted at most " + limit + ", the number of rows";
    case IndexProblem::kRowToken:
      return "rowToken[" + at + "] is " + value + "; wanted 0 to " + std::to_string(fault.limit - 1) +
             ", a token of the input";
    case IndexProblem::kTokenOffsetsEnd:
      return "tokenOffsets end with " + value + "; wanted " + limit + ", the rows in use by expertOffsets";
    case IndexProblem::kTokenRows:
      return "tokenRows[" + at + "] is " + value + "; wanted 0 to " + std::to_string(fault.limit - 1) +
             ", a row in use";
    case IndexProblem::kTokenRowsOwner:
      return "tokenRows[" + at + "] is " + value + ", a row that rowToken gives to another token than " +
             limit;
    case IndexProblem::kTokenRowsOrder:
      return "tokenRows[" + at + "] is " + value + "; wanted more than " + limit +
             ": the rows of a token ascend";
    case IndexProblem::kTokenRowsTwice:
      return "tokenRows[" + at + "] is " + value + ", a second row of its token with the same expert";
    case IndexProblem::kSelection:
      return "element " + at + " of the selection is " + value + "; wanted 0 to " +
             std::to_string(fault.limit - 1);
    case IndexProblem::kSelectionTwice:
      return "element " + at + " of the selection is " + value + ", which its token selects already";
    case IndexProblem::kPosition:
      return "position " + at + " is " + value + "; wanted 0 or more";
    case IndexProblem::kPositionsMade:
      return "the positions of an expert in a group are not 0, 1, 2 and so on, each once; take expert and "
             "position "
             "from selectExperts()";
    case IndexProblem::kSelectedTokensMade:
      return "an expert selects a token twice; take the tokens from selectTokens()";
  }
  return "the indices are damaged";
}

}  // namespace

Error index_error(const IndexFault& fault) { return Error("ERR_INVALID_ARGUMENT", text_of(fault)); }

void throw_index_error(const IndexFault& fault) { throw index_error(fault); }

}  // namespace softmoe
