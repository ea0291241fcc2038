#include "expect.h"

#include <cstdio>

namespace truth {

std::vector<TestCase>& testCases() {
  static std::vector<TestCase> cases;
  return cases;
}

int runTests(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  int passed = 0;
  int failed = 0;
  for (const TestCase& test : testCases()) {
    if (test.statement.find(filter) == std::string::npos) continue;
    std::string problem;
    try {
      test.body();
    } catch (const std::exception& error) {
      problem = error.what();
    }
    std::printf("%s %s%s%s\n", problem.empty() ? "ok    " : "FAILED", test.statement.c_str(),
                problem.empty() ? "" : "\n       ", problem.c_str());
    std::fflush(stdout);
    ++(problem.empty() ? passed : failed);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace truth

int main(int argc, char** argv) { return truth::runTests(argc, argv); }
