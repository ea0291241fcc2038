// Launches kernels that follow indices: indices without a proof are checked first, in the same task, so that
// the kernel does not run where the check cannot.
#pragma once

#include <initializer_list>
#include <memory>
#include <utility>

#include "core/tensor.h"

namespace softmoe::ops {

// The proof that all these tensors have in common, each in its role; null if there is none.
std::shared_ptr<IndexProof> common_proof(std::initializer_list<std::pair<const Tensor*, IndexRole>> tensors);
// Puts a new proof on the outputs of a kernel; it holds once the kernel has run.
std::shared_ptr<IndexProof> new_proof(const GroupShape& shape, std::int64_t k, std::int64_t rows,
                                      std::initializer_list<std::pair<const Tensor*, IndexRole>> tensors);

// `use(args, lists)` puts the lists into the arguments.
template <class Args, class Use>
void launch_on_rows(Device& device, Args args, const RowListCheck& check,
                    const std::shared_ptr<IndexProof>& proof, const Use& use) {
  device.submit(Args::kName, [args, check, proof, use](Kernels& kernels) mutable {
    if (proof && proof->holds) return kernels.run(args);
    const SafeRowLists safe = kernels.checked(check);
    use(args, safe.lists);
    kernels.run(args);
  });
}

// For arguments with a member `lists`.
template <class Args>
void launch_on_rows(Device& device, const Args& args, const RowListCheck& check,
                    const std::shared_ptr<IndexProof>& proof) {
  launch_on_rows(device, args, check, proof,
                 [](Args& checked, const RowLists& lists) { checked.lists = lists; });
}

}  // namespace softmoe::ops
