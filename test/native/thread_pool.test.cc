#include "cpu/thread_pool.h"

#include <array>
#include <atomic>
#include <stdexcept>
#include <thread>

#include "testing.h"

namespace softmoe::testing {
namespace {

using cpu::ThreadPool;

// Restores the number of threads when a test ends.
class Threads {
 public:
  explicit Threads(int threads) : before_(ThreadPool::instance().threads()) {
    ThreadPool::instance().set_threads(threads);
  }
  ~Threads() { ThreadPool::instance().set_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

TEST(parallel_for_covers_every_index_once) {
  for (const int threads : {1, 2, 5}) {
    const Threads scope(threads);
    for (const std::int64_t count : {0, 1, 7, 1000, 4097}) {
      for (const std::int64_t grain : {0, 1, 64, 5000}) {
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
        ThreadPool::instance().parallel_for(count, grain,
                                            [&](std::int64_t begin, std::int64_t end, int worker) {
                                              if (worker < 0 || worker >= threads)
                                                throw std::logic_error("worker out of range");
                                              for (std::int64_t i = begin; i < end; ++i)
                                                ++seen[static_cast<std::size_t>(i)];
                                            });
        for (const std::atomic<int>& times : seen) CHECK_EQUAL(times.load(), 1);
      }
    }
  }
}

TEST(parallel_for_shares_no_worker_number_between_threads) {
  const Threads scope(4);
  for (int round = 0; round < 200; ++round) {
    std::array<std::atomic<int>, ThreadPool::kMaxThreads> inside{};
    std::atomic<bool> shared{false};
    ThreadPool::instance().parallel_for(64, 1, [&](std::int64_t, std::int64_t, int worker) {
      std::atomic<int>& here = inside[static_cast<std::size_t>(worker)];
      if (here.fetch_add(1) != 0) shared = true;
      here.fetch_sub(1);
    });
    CHECK(!shared.load());
  }
}

TEST(parallel_for_passes_a_bodys_exception_on) {
  const Threads scope(3);
  for (int round = 0; round < 50; ++round) {
    bool thrown = false;
    try {
      ThreadPool::instance().parallel_for(100, 1, [](std::int64_t begin, std::int64_t, int) {
        if (begin == 40) throw std::runtime_error("body");
      });
    } catch (const std::runtime_error& error) {
      thrown = std::string(error.what()) == "body";
    }
    CHECK(thrown);
  }
}

TEST(a_loop_inside_a_loop_and_loops_of_many_streams_end) {
  const Threads scope(4);
  std::atomic<std::int64_t> sum{0};
  std::vector<std::thread> streams;
  for (int stream = 0; stream < 4; ++stream) {
    streams.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        ThreadPool::instance().parallel_for(16, 1, [&](std::int64_t, std::int64_t, int) {
          ThreadPool::instance().parallel_for(
              4, 1, [&](std::int64_t begin, std::int64_t end, int) { sum += end - begin; });
        });
      }
    });
  }
  for (std::thread& stream : streams) stream.join();
  CHECK_EQUAL(sum.load(), 4 * 300 * 16 * 4);
}

TEST(a_set_flag_cancels_the_loop_at_the_next_chunk) {
  for (const int threads : {1, 3}) {
    const Threads scope(threads);
    std::atomic<bool> flag{false};
    std::atomic<int> chunks{0};
    bool cancelled = false;
    ThreadPool::set_cancellation_flag(&flag);
    try {
      ThreadPool::instance().parallel_for(1000, 1, [&](std::int64_t, std::int64_t, int) {
        if (++chunks == 5) flag = true;
      });
    } catch (const ThreadPool::Cancelled&) {
      cancelled = true;
    }
    ThreadPool::set_cancellation_flag(nullptr);
    CHECK(cancelled);
    CHECK(chunks.load() < 5 + threads + 1);
  }
}

TEST(the_number_of_threads_can_change_between_loops) {
  for (const int threads : {1, 4, 2, 8, 1}) {
    const Threads scope(threads);
    CHECK_EQUAL(ThreadPool::instance().threads(), threads);
    std::atomic<std::int64_t> sum{0};
    ThreadPool::instance().parallel_for(
        100, 3, [&](std::int64_t begin, std::int64_t end, int) { sum += end - begin; });
    CHECK_EQUAL(sum.load(), 100);
  }
  const Threads clamped(100000);
  CHECK(ThreadPool::instance().threads() <= ThreadPool::kMaxThreads);
}

}  // namespace
}  // namespace softmoe::testing
