#include "ops/index_checks.h"

namespace softmoe::ops {

std::shared_ptr<IndexProof> common_proof(std::initializer_list<std::pair<const Tensor*, IndexRole>> tensors) {
  std::shared_ptr<IndexProof> proof;
  for (const auto& [tensor, role] : tensors) {
    const IndexMark& mark = tensor->index_mark();
    if (!mark.proof || mark.role != role || (proof && mark.proof != proof)) return nullptr;
    proof = mark.proof;
  }
  return proof;
}

std::shared_ptr<IndexProof> new_proof(const GroupShape& shape, std::int64_t k, std::int64_t rows,
                                      std::initializer_list<std::pair<const Tensor*, IndexRole>> tensors) {
  auto proof = std::make_shared<IndexProof>();
  proof->groups = shape.groups, proof->tokens = shape.tokens, proof->experts = shape.experts;
  proof->k = k, proof->rows = rows;
  for (const auto& [tensor, role] : tensors) tensor->set_index_mark({proof, role});
  return proof;
}

}  // namespace softmoe::ops
