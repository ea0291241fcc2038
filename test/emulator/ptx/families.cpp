#include "families.h"

namespace ptxemu {

std::vector<std::string> instructionFamilies() {
  std::vector<std::string> names = {"ld.global.",
                                    "ld.shared.",
                                    "ld.local.",
                                    "ld.param.",
                                    "st.global.",
                                    "st.shared.",
                                    "st.local.",
                                    "bar.sync",
                                    "bar.arrive",
                                    "bar.red.popc",
                                    "bar.red.and",
                                    "bar.red.or",
                                    "bar.warp.sync",
                                    "vote.sync.all",
                                    "vote.sync.any",
                                    "vote.sync.uni",
                                    "vote.sync.ballot",
                                    "match.any.sync",
                                    "match.all.sync",
                                    "activemask.b32",
                                    "ldmatrix.sync",
                                    "stmatrix.sync",
                                    "wmma.load.a",
                                    "wmma.load.b",
                                    "wmma.mma",
                                    "wmma.store.d",
                                    "cp.async.ca.shared.global",
                                    "cp.async.cg.shared.global",
                                    "cp.async.commit_group",
                                    "cp.async.wait_group",
                                    "cp.async.wait_all",
                                    "cp.async.mbarrier.arrive.noinc",
                                    "mbarrier.init",
                                    "mbarrier.inval",
                                    "mbarrier.arrive.shared",
                                    "mbarrier.arrive.expect_tx",
                                    "mbarrier.arrive_drop",
                                    "mbarrier.expect_tx",
                                    "mbarrier.complete_tx",
                                    "mbarrier.test_wait.shared",
                                    "mbarrier.test_wait.parity",
                                    "mbarrier.try_wait.shared",
                                    "mbarrier.try_wait.parity",
                                    "mbarrier.pending_count",
                                    "cp.async.bulk.shared::cluster.global",
                                    "cp.async.bulk.global.shared::cta",
                                    "cp.async.bulk.commit_group",
                                    "cp.async.bulk.wait_group",
                                    "wgmma.fence",
                                    "wgmma.commit_group",
                                    "wgmma.wait_group"};
  for (const char* mode : {"up", "down", "bfly", "idx"}) names.push_back(std::string("shfl.sync.") + mode);
  for (const char* operation : {"add", "min", "max", "and", "or", "xor"})
    names.push_back(std::string("redux.sync.") + operation);
  for (int rank = 1; rank <= 5; rank++) {
    const std::string tensor = "cp.async.bulk.tensor." + std::to_string(rank) + "d.";
    names.push_back(tensor + "shared::cluster.global");
    names.push_back(tensor + "global.shared::cta");
  }
  for (const char* types : {"16.f32.f16.f16", "16.f32.bf16.bf16", "8.f32.tf32.tf32"}) {
    for (int columns = 8; columns <= 256; columns += 8)
      names.push_back("wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) + "k" + types);
  }
  return names;
}

}  // namespace ptxemu
