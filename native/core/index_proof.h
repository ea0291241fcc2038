// Indices that kernels of this library made need no check. The proof hangs on the storages that they fill,
// and holds once those kernels have run without a fault.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace softmoe {

enum class IndexRole : std::uint8_t {
  kNone,
  kExpert,    // of selectExperts: [groups, tokens, k]
  kPosition,  // the same
  kToken,     // of selectTokens: [groups, experts, k]
  kExpertOffsets,
  kRowToken,
  kTokenOffsets,
  kTokenRows
};

struct IndexProof {
  std::int64_t groups = 0, tokens = 0, experts = 0;
  std::int64_t k = 0;     // of a selection
  std::int64_t rows = 0;  // of row lists: their length
  // Set on the stream, read on the stream: what comes later there sees it.
  std::atomic<bool> holds{false};
};

struct IndexMark {
  std::shared_ptr<IndexProof> proof;
  IndexRole role = IndexRole::kNone;
};

}  // namespace softmoe
