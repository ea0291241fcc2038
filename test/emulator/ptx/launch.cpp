// A launch: host threads take blocks in order (or shuffled) and run them, usually one at a time. A block that
// only polls gets company, so that blocks may wait for each other as long as those they wait for can start.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>

#include "block.h"

namespace ptxemu {

Counters& Counters::operator+=(const Counters& other) {
  std::vector<uint64_t> values;
  other.forEach([&](const char*, uint64_t value) { values.push_back(value); });
  size_t next = 0;
  forEach([&](const char*, uint64_t& value) { value += values[next++]; });
  return *this;
}

std::string Report::text() const {
  std::string line = kind + " in " + kernel + ", block (" + std::to_string(block.x) + "," +
                     std::to_string(block.y) + "," + std::to_string(block.z) + ") warp " +
                     std::to_string(warp) + " lane " + std::to_string(lane) + ", PTX line " +
                     std::to_string(ptxLine);
  if (!file.empty()) line += ", " + file + ":" + std::to_string(this->line);
  line += ": " + message;
  if (count > 1) line += " (" + std::to_string(count) + " times)";
  return line;
}

// -- LaunchState
// ----------------------------------------------------------------------------------------------------

LaunchState::LaunchState(const Kernel& kernel, Memory::State& memory, const LaunchConfig& config)
    : kernel(kernel),
      program(*kernel.program),
      memory(memory),
      config(config),
      sharedBytes(kernel.staticShared + config.dynamicShared),
      segments(memory.nextSegment) {
  instCounters_.resize(program.code.size());
  if (!config.cooperative) return;
  constexpr size_t kWorkspaceBytes = 64;
  gridWorkspace = memory.allocate(kWorkspaceBytes, true, false);
  std::memset(reinterpret_cast<void*>(gridWorkspace), 0, kWorkspaceBytes);
}

LaunchState::~LaunchState() {
  if (gridWorkspace) memory.free(gridWorkspace);
}

void LaunchState::report(const char* kind, const Inst& inst, const Dim3& block, int warp, int lane,
                         uint64_t address, const std::string& message) {
  std::lock_guard<std::mutex> lock(mutex_);
  totalReports_++;
  const std::pair<std::string, uint32_t> key(kind, inst.index);
  const auto found = reports_.find(key);
  if (found != reports_.end()) {
    found->second.count++;
    return;
  }
  if (reports_.size() >= config.maxReports) return;
  const SourcePosition& position = program.positions[inst.index];
  Report report;
  report.kind = kind;
  report.kernel = program.name;
  report.message = message + " [" + program.opcodes[inst.index] + "]";
  report.block = block;
  report.warp = warp;
  report.lane = lane;
  report.ptxLine = position.ptxLine;
  const auto file = program.files.find(position.file);
  if (position.line > 0 && file != program.files.end()) {
    report.file = file->second;
    report.line = position.line;
  }
  report.address = address;
  reports_.emplace(key, std::move(report));
  reportOrder_.push_back(key);
}

void LaunchState::stop(Fault fault) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (fault_ == Fault::none) fault_ = fault;
  stopped = true;
}

void LaunchState::merge(const Counters& counters, const std::vector<InstCounters>& instCounters) {
  std::lock_guard<std::mutex> lock(mutex_);
  counters_ += counters;
  for (size_t i = 0; i < instCounters.size(); i++) {
    InstCounters& sum = instCounters_[i];
    const InstCounters& one = instCounters[i];
    sum.executions += one.executions;
    sum.lanes += one.lanes;
    sum.requests += one.requests;
    sum.sectors += one.sectors;
    sum.wavefronts += one.wavefronts;
    sum.idealWavefronts += one.idealWavefronts;
  }
}

void LaunchState::sumLines(LaunchResult& result) const {
  std::map<std::pair<int, int>, LineCounters> lines;
  for (size_t i = 0; i < program.code.size(); i++) {
    const InstCounters& one = instCounters_[i];
    if (one.requests == 0) continue;
    const SourcePosition& position = program.positions[i];
    // Without -lineinfo every PTX line stands for itself.
    const auto key =
        position.line ? std::make_pair(position.file, position.line) : std::make_pair(-1, position.ptxLine);
    LineCounters& line = lines[key];
    if (line.ptxLine == 0 || position.ptxLine < line.ptxLine) line.ptxLine = position.ptxLine;
    line.line = position.line;
    const auto file = program.files.find(position.file);
    if (position.line && file != program.files.end()) line.file = file->second;
    line.warpInstructions += one.executions;
    if (one.sectors) line.globalRequests += one.requests;
    line.globalSectors += one.sectors;
    if (one.wavefronts) line.sharedRequests += one.requests;
    line.sharedWavefronts += one.wavefronts;
    line.sharedIdealWavefronts += one.idealWavefronts;
  }
  for (auto& [key, line] : lines) result.lines.push_back(line);
  std::stable_sort(result.lines.begin(), result.lines.end(),
                   [](const LineCounters& a, const LineCounters& b) {
                     return a.sharedWavefronts != b.sharedWavefronts ? a.sharedWavefronts > b.sharedWavefronts
                                                                     : a.globalSectors > b.globalSectors;
                   });
}

LaunchResult LaunchState::result() {
  LaunchResult result;
  result.fault = fault_;
  result.ok = fault_ == Fault::none;
  result.totalReports = totalReports_;
  for (const auto& key : reportOrder_) result.reports.push_back(reports_.at(key));
  if (config.checks.counters) {
    for (size_t i = 0; i < program.code.size(); i++) {
      const InstCounters& one = instCounters_[i];
      counters_.warpInstructions += one.executions;
      counters_.laneInstructions += one.lanes;
      switch (program.code[i].category) {
        case Category::integer:
          counters_.integer += one.executions;
          break;
        case Category::floatingPoint:
          counters_.floatingPoint += one.executions;
          break;
        case Category::conversion:
          counters_.conversion += one.executions;
          break;
        case Category::control:
          counters_.control += one.executions;
          break;
        case Category::memory:
          counters_.memory += one.executions;
          break;
        case Category::warpLevel:
          counters_.warpLevel += one.executions;
          break;
        case Category::other:
          counters_.other += one.executions;
          break;
      }
    }
    result.counters = counters_;
    sumLines(result);
  }
  return result;
}

// -- threads
// --------------------------------------------------------------------------------------------------------

namespace {

constexpr size_t kMostResident = 64;  // blocks per host thread, unless the launch is cooperative

class Worker {
 public:
  Worker(LaunchState& launch, std::atomic<uint64_t>& next, const std::vector<uint32_t>& order, size_t share)
      : launch_(launch), next_(next), order_(order), share_(share) {}

  void run() {
    while (!launch_.stopped) {
      const bool allPoll = runResident();
      if (resident_.empty() || wantsMore(allPoll)) {
        if (!startNext() && resident_.empty()) break;
      }
    }
    for (auto& block : resident_) block->collect();
    for (auto& block : spare_) block->collect();
  }

 private:
  bool wantsMore(bool allPoll) const {
    if (launch_.config.cooperative) return resident_.size() + finished_ < share_;
    return allPoll && resident_.size() < kMostResident;
  }

  // Says whether every resident block stopped only because it polls.
  bool runResident() {
    bool allPoll = true;
    for (size_t i = 0; i < resident_.size();) {
      if (resident_[i]->run() == Block::Status::yielded) {
        i++;
        continue;
      }
      if (launch_.stopped) return false;
      allPoll = false;
      finished_++;
      spare_.push_back(std::move(resident_[i]));
      resident_.erase(resident_.begin() + i);
    }
    return allPoll;
  }

  bool startNext() {
    const uint64_t count = launch_.config.grid.count();
    const uint64_t taken = next_.fetch_add(1);
    if (taken >= count) return false;
    if (spare_.empty()) spare_.push_back(std::make_unique<Block>(launch_));
    resident_.push_back(std::move(spare_.back()));
    spare_.pop_back();
    resident_.back()->start(order_.empty() ? taken : order_[taken]);
    return true;
  }

  LaunchState& launch_;
  std::atomic<uint64_t>& next_;
  const std::vector<uint32_t>& order_;
  const size_t share_;
  size_t finished_ = 0;
  std::vector<std::unique_ptr<Block>> resident_, spare_;
};

}  // namespace

LaunchResult launch(const Kernel& kernel, Memory& memory, const LaunchConfig& config) {
  if (config.checks.races) memory.state().renewRaceCells();
  const auto state = std::make_unique<LaunchState>(kernel, memory.state(), config);
  const uint64_t blocks = config.grid.count();
  std::vector<uint32_t> order;
  if (config.orderSeed && blocks < (1u << 24)) {
    order.resize(blocks);
    std::iota(order.begin(), order.end(), 0);
    std::mt19937_64 random(config.orderSeed);
    std::shuffle(order.begin(), order.end(), random);
  }
  const size_t threads = static_cast<size_t>(std::max<int64_t>(1, std::min<int64_t>(config.threads, blocks)));
  std::atomic<uint64_t> next{0};
  const size_t share = (blocks + threads - 1) / threads;
  std::vector<std::thread> others;
  auto work = [&] { Worker(*state, next, order, share).run(); };
  for (size_t i = 1; i < threads; i++) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  if (config.checks.races) memory.state().nextSegment = state->segments.next();
  return state->result();
}

}  // namespace ptxemu
