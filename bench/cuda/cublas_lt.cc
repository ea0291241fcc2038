#include "cublas_lt.h"

#include <dlfcn.h>

#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>

namespace softmoe::bench {

namespace {

// Values of the library's stable interface (cublasLt.h, library_types.h).
constexpr int kCompute32F = 68, kReal32F = 0, kRealBFloat16 = 14;
constexpr int kLayoutOrder = 1, kLayoutBatchCount = 5, kLayoutBatchStride = 6;
constexpr std::int32_t kRowMajor = 1;
constexpr int kPreferenceWorkspace = 1;
constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

struct Algorithm {
  std::uint64_t words[8];
};
struct Heuristic {
  Algorithm algorithm;
  std::size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

void check(int status, const char* what) {
  if (status != 0) {
    throw Error("ERR_DRIVER",
                std::string("cuBLASLt: ") + what + " ended with status " + std::to_string(status));
  }
}

// Frees with the library's function at the end of a scope.
class Owned {
 public:
  explicit Owned(int (*destroy)(void*)) : destroy_(destroy) {}
  ~Owned() {
    if (object_) destroy_(object_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  void** slot() { return &object_; }
  void* get() const { return object_; }

 private:
  int (*destroy_)(void*);
  void* object_ = nullptr;
};

}  // namespace

struct CublasLt::Functions {
  int (*create)(void**);
  int (*destroy)(void*);
  int (*desc_create)(void**, int, int);
  int (*desc_destroy)(void*);
  int (*layout_create)(void**, int, std::uint64_t, std::uint64_t, std::int64_t);
  int (*layout_destroy)(void*);
  int (*layout_set)(void*, int, const void*, std::size_t);
  int (*preference_create)(void**);
  int (*preference_destroy)(void*);
  int (*preference_set)(void*, int, const void*, std::size_t);
  int (*heuristic)(void*, void*, void*, void*, void*, void*, void*, int, Heuristic*, int*);
  int (*matmul)(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*,
                void*, void*, void*, const Algorithm*, void*, std::size_t, cuda::Stream);
};

std::unique_ptr<CublasLt> CublasLt::open() {
  void* library = nullptr;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
    if (!library) library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  if (!library) return nullptr;
  auto functions = std::make_unique<Functions>();
  const auto bind = [library](auto& pointer, const char* name) {
    pointer = reinterpret_cast<std::decay_t<decltype(pointer)>>(::dlsym(library, name));
    if (!pointer) throw Error("ERR_DRIVER", std::string("cuBLASLt has no function ") + name);
  };
  bind(functions->create, "cublasLtCreate");
  bind(functions->destroy, "cublasLtDestroy");
  bind(functions->desc_create, "cublasLtMatmulDescCreate");
  bind(functions->desc_destroy, "cublasLtMatmulDescDestroy");
  bind(functions->layout_create, "cublasLtMatrixLayoutCreate");
  bind(functions->layout_destroy, "cublasLtMatrixLayoutDestroy");
  bind(functions->layout_set, "cublasLtMatrixLayoutSetAttribute");
  bind(functions->preference_create, "cublasLtMatmulPreferenceCreate");
  bind(functions->preference_destroy, "cublasLtMatmulPreferenceDestroy");
  bind(functions->preference_set, "cublasLtMatmulPreferenceSetAttribute");
  bind(functions->heuristic, "cublasLtMatmulAlgoGetHeuristic");
  bind(functions->matmul, "cublasLtMatmul");
  return std::unique_ptr<CublasLt>(new CublasLt(std::move(functions)));
}

CublasLt::CublasLt(std::unique_ptr<Functions> functions) : functions_(std::move(functions)) {
  check(functions_->create(&handle_), "creating a handle");
}

CublasLt::~CublasLt() { functions_->destroy(handle_); }

double CublasLt::time(const BatchedProduct& product, int repetitions) {
  const Functions& lt = *functions_;
  const cuda::Driver& driver = cuda::Driver::get();
  Owned description(lt.desc_destroy), preference(lt.preference_destroy);
  Owned a(lt.layout_destroy), b(lt.layout_destroy), c(lt.layout_destroy);
  check(lt.desc_create(description.slot(), kCompute32F, kReal32F), "describing a product");
  const auto describe = [&](Owned& layout, std::int64_t rows, std::int64_t columns) {
    const auto batches = static_cast<std::int32_t>(product.batches);
    const std::int64_t stride = rows * columns;
    check(lt.layout_create(layout.slot(), kRealBFloat16, static_cast<std::uint64_t>(rows),
                           static_cast<std::uint64_t>(columns), columns),
          "describing a matrix");
    check(lt.layout_set(layout.get(), kLayoutOrder, &kRowMajor, sizeof kRowMajor), "setting the order");
    check(lt.layout_set(layout.get(), kLayoutBatchCount, &batches, sizeof batches), "setting the batch");
    check(lt.layout_set(layout.get(), kLayoutBatchStride, &stride, sizeof stride), "setting the stride");
  };
  describe(a, product.rows, product.depth);
  describe(b, product.depth, product.columns);
  describe(c, product.rows, product.columns);
  check(lt.preference_create(preference.slot()), "creating a preference");
  check(lt.preference_set(preference.get(), kPreferenceWorkspace, &kWorkspaceBytes, sizeof kWorkspaceBytes),
        "setting the workspace");
  Heuristic best{};
  int found = 0;
  check(lt.heuristic(handle_, description.get(), a.get(), b.get(), c.get(), c.get(), preference.get(), 1,
                     &best, &found),
        "choosing an algorithm");
  if (found == 0) throw Error("ERR_DRIVER", "cuBLASLt has no algorithm for this product");

  cuda::DevicePointer workspace = 0;
  cuda::Stream stream = nullptr;
  cuda::Event begin = nullptr, end = nullptr;
  driver.check(driver.memory_allocate(&workspace, kWorkspaceBytes), "allocating the workspace");
  driver.check(driver.stream_create(&stream, cuda::kStreamNonBlocking), "creating a stream");
  driver.check(driver.event_create(&begin, cuda::kEventDefault), "creating an event");
  driver.check(driver.event_create(&end, cuda::kEventDefault), "creating an event");
  const float one = 1, zero = 0;
  const auto run = [&] {
    check(lt.matmul(handle_, description.get(), &one, product.a, a.get(), product.b, b.get(), &zero,
                    product.c, c.get(), product.c, c.get(), &best.algorithm,
                    reinterpret_cast<void*>(workspace), kWorkspaceBytes, stream),
          "multiplying");
  };
  for (int i = 0; i < 5; ++i) run();
  driver.check(driver.event_record(begin, stream), "recording an event");
  for (int i = 0; i < repetitions; ++i) run();
  driver.check(driver.event_record(end, stream), "recording an event");
  driver.check(driver.event_synchronize(end), "waiting for the products");
  float milliseconds = 0;
  driver.check(driver.event_elapsed(&milliseconds, begin, end), "reading the time");
  driver.event_destroy(begin);
  driver.event_destroy(end);
  driver.stream_destroy(stream);
  driver.memory_free(workspace);
  return 1000.0 * static_cast<double>(milliseconds) / repetitions;
}

}  // namespace softmoe::bench
