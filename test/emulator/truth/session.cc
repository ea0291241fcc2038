#include "session.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace truth {
namespace {

std::vector<JournalLine> readLines(const std::string& path) {
  std::vector<JournalLine> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back({line});
  return lines;
}

}  // namespace

void succeed(CUresult result, const char* expression, const char* file, int line) {
  if (result == CUDA_SUCCESS) return;
  throw Failure(std::string(file) + ":" + std::to_string(line) + ": " + expression + " returned " +
                std::to_string(result));
}

std::string JournalLine::string(const std::string& key) const {
  const std::string prefix = "\"" + key + "\":\"";
  const std::size_t at = text.find(prefix);
  if (at == std::string::npos) return "";
  const std::size_t begin = at + prefix.size();
  return text.substr(begin, text.find('"', begin) - begin);
}

double JournalLine::number(const std::string& key) const {
  const std::size_t at = text.find("\"" + key + "\":");
  if (at == std::string::npos) throw Failure("no " + key + " in " + text);
  return std::strtod(text.c_str() + at + key.size() + 3, nullptr);
}

Session::Session(Environment environment, bool ready) : environment_(std::move(environment)) {
  std::string pattern = (std::filesystem::temp_directory_path() / "cuda-emulator-XXXXXX").string();
  if (!mkdtemp(pattern.data())) throw Failure("cannot make a temporary folder");
  directory_ = pattern;
  for (const char* journal : {"REPORTS", "COUNTERS", "LEAKS", "CALLS"})
    environment_.emplace(journal, directory_ + "/" + journal);
  for (const auto& [name, value] : environment_)
    setenv(("SOFTMOE_EMULATOR_" + name).c_str(), value.c_str(), 1);
  emulatedDriverReset();
  if (!ready) return;
  SUCCEED(cuInit(0));
  SUCCEED(cuDevicePrimaryCtxRetain(&context, 0));
  SUCCEED(cuCtxSetCurrent(context));
}

void Session::close() { emulatedDriverReset(); }

Session::~Session() {
  close();
  for (const auto& [name, value] : environment_) unsetenv(("SOFTMOE_EMULATOR_" + name).c_str());
  if (std::getenv("EMULATOR_TEST_KEEP")) {
    std::printf("       journals in %s\n", directory_.c_str());
    return;
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

std::vector<JournalLine> Session::reports() const { return readLines(directory_ + "/REPORTS"); }
std::vector<JournalLine> Session::counters() const { return readLines(directory_ + "/COUNTERS"); }
std::vector<JournalLine> Session::leaks() const { return readLines(directory_ + "/LEAKS"); }
std::vector<JournalLine> Session::calls() const { return readLines(directory_ + "/CALLS"); }

Program::Program(const std::string& image) { SUCCEED(cuModuleLoadData(&module_, image.c_str())); }

Program Program::fromFile(const std::string& name) {
  const char* directory = std::getenv("EMULATOR_TEST_KERNELS");
  const std::string path = std::string(directory ? directory : EMULATOR_TEST_KERNELS) + "/" + name;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Failure("cannot read " + path);
  std::stringstream content;
  content << file.rdbuf();
  return Program(content.str());
}

Program::~Program() {
  if (module_) cuModuleUnload(module_);
}

Program::Program(Program&& other) noexcept : module_(other.module_) { other.module_ = nullptr; }

CUfunction Program::function(const std::string& name) const {
  CUfunction function = nullptr;
  SUCCEED(cuModuleGetFunction(&function, module_, name.c_str()));
  return function;
}

void everywhere(const std::string& fatbin,
                const std::function<void(const Program&, std::uint64_t seed)>& body) {
  for (const char* const architecture : {"8.0", "9.0"}) {
    for (const std::uint64_t seed : {0, 5}) {
      const Session session(Environment{{"ARCH", architecture}, {"SEED", std::to_string(seed)}});
      std::string problem;
      try {
        body(Program::fromFile(fatbin), seed + 1);
      } catch (const std::exception& error) {
        problem = error.what();
      }
      for (const JournalLine& report : session.reports()) problem += "\n       " + report.text;
      if (!problem.empty())
        throw Failure(problem + "\n       on sm_" + architecture + ", seed " + std::to_string(seed));
    }
  }
}

std::string emptyKernel(const std::string& target, const std::string& name, const std::string& version) {
  return ".version " + version + "\n.target " + target + "\n.address_size 64\n.visible .entry " + name +
         "()\n{\n  ret;\n}\n";
}

const char incrementPtx[] = R"(.version 7.8
.target sm_80
.address_size 64
.global .align 4 .u32 shared_total = 7;
.visible .entry increment(.param .u64 data, .param .u32 count)
{
  .reg .pred %p<2>;
  .reg .b32 %r<6>;
  .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [data];
  ld.param.u32 %r1, [count];
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %p1, %r5, %r1;
  @%p1 bra DONE;
  cvta.to.global.u64 %rd2, %rd1;
  mul.wide.u32 %rd3, %r5, 4;
  add.s64 %rd2, %rd2, %rd3;
  ld.global.u32 %r2, [%rd2];
  add.u32 %r2, %r2, 1;
  st.global.u32 [%rd2], %r2;
DONE:
  ret;
}
.visible .entry fill(.param .u64 data, .param .u32 value)
.maxntid 64, 1, 1
{
  .reg .b32 %r<5>;
  .reg .b64 %rd<4>;
  .shared .align 4 .b8 scratch[1024];
  ld.param.u64 %rd1, [data];
  ld.param.u32 %r1, [value];
  mov.u32 %r2, %tid.x;
  cvta.to.global.u64 %rd2, %rd1;
  mul.wide.u32 %rd3, %r2, 4;
  add.s64 %rd2, %rd2, %rd3;
  st.global.u32 [%rd2], %r1;
  ret;
}
)";

}  // namespace truth
