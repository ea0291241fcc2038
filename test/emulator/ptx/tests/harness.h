// A small test frame for the engine: named checks, and kernels written as PTX text.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "engine.h"

namespace ptxtest {

// A statement about the engine; counted and, if false, printed.
void check(bool holds, const std::string& statement);

// Runs body as a test with a name that failures carry. Register in a static: `static const Test t("name", []
// {...});`.
struct Test {
  Test(const char* name, void (*body)());
};

std::mt19937_64& random();

// Device memory that belongs to one test.
template <class T>
class Buffer {
 public:
  Buffer(ptxemu::Memory& memory, size_t count) : memory_(memory), count_(count) {
    address_ = memory.allocate(count * sizeof(T));
  }
  Buffer(ptxemu::Memory& memory, const std::vector<T>& values) : Buffer(memory, values.size()) {
    memory_.write(address_, values.data(), values.size() * sizeof(T));
  }
  uint64_t address() const { return address_; }
  std::vector<T> values() const {
    std::vector<T> values(count_);
    memory_.read(values.data(), address_, count_ * sizeof(T));
    return values;
  }

 private:
  ptxemu::Memory& memory_;
  size_t count_;
  uint64_t address_;
};

// A kernel "test" of some PTX text and how to launch it; arguments are 64 bits each.
struct Launch {
  ptxemu::Dim3 grid{1, 1, 1}, block{32, 1, 1};
  uint32_t dynamicShared = 0;
  uint64_t seed = 0;
  int threads = 1;
  bool cooperative = false;
  uint64_t instructionLimit = 1ull << 26;
  ptxemu::CheckOptions checks = ptxemu::CheckOptions::all();
};
ptxemu::LaunchResult run(ptxemu::Memory& memory, const std::string& ptx,
                         const std::vector<uint64_t>& arguments, const Launch& launch = {});

// Wraps instructions into a module with `parameters` 64-bit parameters p0, p1, ... already loaded into %p0,
// %p1, ... and registers %r0-31 (b32), %d0-31 (b64), %h0-15 (b16), %f0-31 (f32), %g0-15 (f64), %q0-15 (pred).
std::string kernel(const std::string& body, size_t parameters, const std::string& moduleLevel = "",
                   const std::string& target = "sm_80");

// True when there is exactly the wanted kind of report (and at least one), or none for "". "a|b" wants a or
// b.
bool onlyReports(const ptxemu::LaunchResult& result, const std::string& kind);
std::string describe(const ptxemu::LaunchResult& result);

}  // namespace ptxtest
