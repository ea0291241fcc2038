// Tests of the CPU kernels against loops in double, on every instruction set that this machine has.
// Usage: softmoe_native_tests [SEED [ROUNDS]]
#include <cstdlib>

#include "support.h"

using namespace softmoe::test;

int main(int argc, char** argv) {
  const auto first_seed = static_cast<std::uint32_t>(argc > 1 ? std::atoi(argv[1]) : 1);
  const auto rounds = static_cast<std::uint32_t>(argc > 2 ? std::atoi(argv[2]) : 30);
  for (const std::string& isa : softmoe::cpu::available_instruction_sets()) {
    Machine machine(isa);
    for (std::uint32_t seed = first_seed; seed < first_seed + rounds; ++seed) {
      test_linear(machine, seed);
      test_experts(machine, seed);
      test_attention(machine, seed);
      test_soft_routing(machine, seed);
    }
    std::printf("%s: %d checks, %d failures so far\n", isa.c_str(), checks, failures);
  }
  return failures == 0 ? 0 : 1;
}
