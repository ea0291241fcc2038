#include "forms.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <set>

#include "families.h"

namespace ptxtest {
namespace {

struct Registered {
  const char* name;
  void (*body)();
};
std::vector<Registered>& tests() {
  static std::vector<Registered> all;
  return all;
}
std::string current;

// Families of instructions in kernels that ran; the tests compare what they compute.
std::set<std::string>& executedFamilies() {
  static std::set<std::string> families;
  return families;
}

size_t passed = 0, failed = 0;

}  // namespace

void check(bool holds, const std::string& statement) {
  if (holds) {
    passed++;
    return;
  }
  failed++;
  if (failed <= 40) std::printf("FAILED %s: %s\n", current.c_str(), statement.c_str());
}

Test::Test(const char* name, void (*body)()) { tests().push_back({name, body}); }

std::mt19937_64& random() {
  static std::mt19937_64 generator(20240229);
  return generator;
}

ptxemu::LaunchResult run(ptxemu::Memory& memory, const std::string& ptx,
                         const std::vector<uint64_t>& arguments, const Launch& launch) {
  const auto module = ptxemu::Module::parse(ptx, memory);
  const ptxemu::Kernel* kernel = module->kernel("test");
  ptxemu::LaunchConfig config;
  config.grid = launch.grid;
  config.block = launch.block;
  config.dynamicShared = launch.dynamicShared;
  config.paramBuffer = arguments.data();
  config.orderSeed = launch.seed;
  config.threads = launch.threads;
  config.cooperative = launch.cooperative;
  config.instructionLimit = launch.instructionLimit;
  config.checks = launch.checks;
  static const std::vector<std::string> families = ptxemu::instructionFamilies();
  for (const std::string& family : families) {
    if (ptx.find(family) != std::string::npos) executedFamilies().insert(family);
  }
  return ptxemu::launch(*kernel, memory, config);
}

std::string kernel(const std::string& body, size_t parameters, const std::string& moduleLevel,
                   const std::string& target) {
  std::string text =
      ".version 8.3\n.target " + target + "\n.address_size 64\n" + moduleLevel + "\n.visible .entry test(";
  for (size_t i = 0; i < parameters; i++) text += (i ? ", " : "") + (".param .u64 p" + std::to_string(i));
  text +=
      ")\n{\n.reg .b32 %r<32>;\n.reg .b64 %d<32>;\n.reg .b16 %h<16>;\n.reg .f32 %f<32>;\n.reg .f64 %g<16>;\n"
      ".reg .pred %q<16>;\n.reg .b64 %p<" +
      std::to_string(parameters + 1) + ">;\n";
  for (size_t i = 0; i < parameters; i++) {
    text += "ld.param.u64 %p" + std::to_string(i) + ", [p" + std::to_string(i) + "];\n";
  }
  return text + body + "\nret;\n}\n";
}

bool onlyReports(const ptxemu::LaunchResult& result, const std::string& kind) {
  for (const ptxemu::Report& report : result.reports) {
    if (("|" + kind + "|").find("|" + report.kind + "|") == std::string::npos) return false;
  }
  return result.reports.empty() == kind.empty();
}

std::string describe(const ptxemu::LaunchResult& result) {
  std::string text = result.reports.empty() ? "no reports" : "";
  for (const ptxemu::Report& report : result.reports) text += report.text() + "; ";
  return text;
}

}  // namespace ptxtest

// With an argument, only tests whose name contains it run.
int main(int argc, char** argv) {
  using namespace ptxtest;
  for (const auto& test : tests()) {
    if (argc > 1 && !std::strstr(test.name, argv[1])) continue;
    current = test.name;
    try {
      test.body();
    } catch (const std::exception& error) {
      check(false, std::string("threw: ") + error.what());
    }
  }
  if (argc == 1) {
    current = "coverage";
    for (const std::string& form : ptxemu::supportedForms()) {
      check(checkedForms().count(form) > 0, "the form " + form + " is compared with a model");
    }
    for (const std::string& family : ptxemu::instructionFamilies())
      check(executedFamilies().count(family) > 0, "some test runs " + family);
  }
  std::printf("%zu passed, %zu failed\n", passed, failed);
  return failed ? 1 : 0;
}
