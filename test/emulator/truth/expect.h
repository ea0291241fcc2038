// A small test frame: TEST("statement") { … EXPECT(…) … }. Each program ends with `N passed, M failed`.
#pragma once

#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace truth {

struct TestCase {
  std::string statement;
  std::function<void()> body;
};

std::vector<TestCase>& testCases();

struct Registration {
  Registration(const char* statement, void (*body)()) { testCases().push_back({statement, body}); }
};

class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class Value>
std::string shown(const Value& value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

template <class Left, class Right>
void expectEqual(const Left& got, const Right& wanted, const char* expression, const char* file, int line) {
  if (got == wanted) return;
  throw Failure(std::string(file) + ":" + std::to_string(line) + ": " + expression + " is " + shown(got) +
                ", want " + shown(wanted));
}

inline void expectTrue(bool holds, const char* expression, const char* file, int line) {
  if (!holds) throw Failure(std::string(file) + ":" + std::to_string(line) + ": not true: " + expression);
}

// Runs the cases whose statement contains the first argument, all without one; the exit status of main.
int runTests(int argc, char** argv);

}  // namespace truth

#define TEST(statement) TRUTH_TEST(statement, __LINE__)
#define TRUTH_TEST(statement, line) TRUTH_TEST_AT(statement, line)
#define TRUTH_TEST_AT(statement, line)                                             \
  static void testCase##line();                                                    \
  static const truth::Registration registration##line(statement, &testCase##line); \
  static void testCase##line()
#define EXPECT(condition) truth::expectTrue((condition), #condition, __FILE__, __LINE__)
#define EXPECT_EQUAL(got, wanted) truth::expectEqual((got), (wanted), #got, __FILE__, __LINE__)
