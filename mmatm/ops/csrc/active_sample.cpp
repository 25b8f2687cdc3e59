// The CPU backend of the sampling operator as a library with a C interface: threads and working
// memory. The work is in kernels.h; ../cpp.py checks the arguments and allocates the results.
//
// Needs nothing of torch or Python and, without exceptions and operator new, nothing of the C++
// library at run time: one file serves every release of them.

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdint>

#include "kernels.h"

namespace {

using mmatm::Real;
using mmatm::Shape;

const mmatm::Capability kCapability = mmatm::capability();

// Elements of x below which a second thread costs more than it brings.
constexpr int64_t kElementsPerThread = 16384;

// The OpenMP runtime of torch, by GCC's entry point to a parallel region, which the others have
// too. Linking to OpenMP might load a second runtime, whose threads compete with torch's.
struct OpenMP {
  void (*parallel)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
  int (*in_parallel)();
  int (*num_threads)();
  int (*thread_num)();
};

OpenMP openmp{};

int64_t divide_up(int64_t count, int64_t by) { return (count + by - 1) / by; }

// Calls function with parts of [0, count), one per thread, as at::parallel_for divides it.
template <typename F>
void parallel_for(int64_t count, int64_t grain, int threads, const F& function) {
  if (count <= 0) return;
  if (count <= grain || threads <= 1 || !openmp.parallel || openmp.in_parallel()) {
    return function(0, count);
  }
  auto run = [&] {
    const int64_t parts = std::min<int64_t>(openmp.num_threads(), divide_up(count, grain));
    const int64_t length = divide_up(count, parts), begin = openmp.thread_num() * length;
    if (begin < count) function(begin, std::min(begin + length, count));
  };
  using Run = decltype(run);
  openmp.parallel([](void* data) { (*static_cast<Run*>(data))(); }, &run, threads, 0);
}

// The number of items that keep a thread busy.
int64_t grain(int64_t elements_per_item) {
  return std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, elements_per_item));
}

// A large allocation is often new memory from the system (beyond 32 MiB always, with glibc), and
// the first touch of each small page costs more than the kernels: huge pages took a forward pass
// with 34 MB to write from 20 to 11 ms. A hint, so nothing depends on it.
template <typename T>
void prefer_huge_pages(T* memory, int64_t count) {
#ifdef MADV_HUGEPAGE
  const uintptr_t bytes = count * sizeof(T);
  if (bytes > (4u << 20)) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t first = (begin + page - 1) / page * page;
    const uintptr_t last = (begin + bytes) / page * page;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
}

// How the tokens of an image are divided: by its size alone, so that the sums of the blocks, and
// with them the means, do not depend on the number of threads.
struct Blocks {
  int64_t tokens, per_image, length;

  explicit Blocks(const Shape& shape)
      : tokens(shape.height * shape.width),
        per_image(std::clamp<int64_t>((tokens + 31) / 32, 1, 256)),
        length(divide_up(tokens, per_image)) {}
};

// The mean over the tokens of an image from the totals [blocks, channels] of its blocks.
template <typename T>
void average(const Real<T>* totals, const Blocks& blocks, int64_t channels, T* mean) {
  constexpr int64_t most = 512;
  for (int64_t first = 0; first < channels; first += most) {
    const int64_t count = std::min(most, channels - first);
    double sum[most] = {};
    for (int64_t i = 0; i < blocks.per_image; ++i) {
      const Real<T>* total = totals + i * channels + first;
      for (int64_t c = 0; c < count; ++c) sum[c] += total[c];
    }
    for (int64_t c = 0; c < count; ++c) {
      const double value = sum[c] / static_cast<double>(blocks.tokens);
      mean[first + c] = mmatm::narrow<T>(static_cast<Real<T>>(value));
    }
  }
}

// mean may be null. Like backward, returns whether there was enough working memory.
template <typename T>
bool forward(const Shape& shape, int threads, const T* x, const T* offset, T* samples, T* mean) {
  using R = Real<T>;
  const Blocks blocks(shape);
  const int64_t C = shape.channels, count = shape.batch * blocks.per_image;
  mmatm::Memory<R> totals;
  if (mean && !(totals = mmatm::allocate<R>(count * 3 * C))) return false;
  prefer_huge_pages(samples, shape.batch * blocks.tokens * 2 * C);
  const auto run = mmatm::kernels<T>(kCapability).forward;
  const mmatm::ForwardTask<T> task{shape, x, offset, samples};
  parallel_for(count, grain(blocks.length * C), threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / blocks.per_image * blocks.tokens;
      const int64_t block = i % blocks.per_image * blocks.length;
      const int64_t stop = std::min(block + blocks.length, blocks.tokens);
      run(task, image + std::min(block, stop), image + stop,
          mean ? totals.get() + i * 3 * C : nullptr);
    }
  });
  for (int64_t image = 0; mean && image < shape.batch; ++image) {
    average(totals.get() + image * blocks.per_image * 3 * C, blocks, 3 * C, mean + image * 3 * C);
  }
  return true;
}

// grad_mean may be null.
template <typename T>
bool backward(const Shape& shape, int threads, const T* grad_samples, const T* grad_mean,
              const T* x, const T* offset, T* grad_x, T* grad_offset) {
  using R = Real<T>;
  const int64_t C = shape.channels, tokens = shape.height * shape.width;
  const int64_t elements = shape.batch * tokens * C;
  mmatm::Memory<R> wide, grad_token;
  R* sum;
  if constexpr (mmatm::is_half<T>) {
    if (!(wide = mmatm::allocate<R>(elements))) return false;
    sum = wide.get();
    prefer_huge_pages(sum, elements);
  } else {
    sum = grad_x;
  }
  if (grad_mean) {
    const int64_t count = shape.batch * 3 * C;
    if (!(grad_token = mmatm::allocate<R>(count))) return false;
    for (int64_t i = 0; i < count; ++i) {
      grad_token[i] = mmatm::widen(grad_mean[i]) / static_cast<R>(tokens);
    }
  }
  prefer_huge_pages(grad_x, elements);
  prefer_huge_pages(grad_offset, shape.batch * tokens * 2 * shape.groups);
  const auto kernels = mmatm::kernels<T>(kCapability);
  const mmatm::BackwardTask<T> task{shape,  grad_samples, grad_token.get(), x,
                                    offset, sum,          grad_x,           grad_offset};
  parallel_for(shape.batch * shape.height, grain(shape.width * C), threads,
               [&](int64_t begin, int64_t end) { kernels.backward_rows(task, begin, end); });
  parallel_for(shape.batch * shape.width, grain(shape.height * C), threads,
               [&](int64_t begin, int64_t end) { kernels.backward_columns(task, begin, end); });
  return true;
}

// Calls function with a value of the type in which the kernels see the elements of dtype.
template <typename F>
bool by_dtype(int dtype, const F& function) {
  switch (dtype) {
    case 0:
      return function(double{});
    case 1:
      return function(float{});
    case 2:
      return function(mmatm::BFloat16{});
    default:
      return function(mmatm::Float16{});
  }
}

}  // namespace

// --------------------------------------------------------------- what ../cpp.py calls by its name

#define MMATM_API extern "C" __attribute__((visibility("default")))

// Goes up with every change of what follows.
MMATM_API int mmatm_abi() { return 1; }

MMATM_API const char* mmatm_capability() { return mmatm::name(kCapability); }

// The four functions of OpenMP; without them one thread does all.
MMATM_API void mmatm_use_openmp(void* parallel, void* in_parallel, void* num_threads,
                                void* thread_num) {
  openmp = {reinterpret_cast<decltype(OpenMP::parallel)>(parallel),
            reinterpret_cast<decltype(OpenMP::in_parallel)>(in_parallel),
            reinterpret_cast<decltype(OpenMP::num_threads)>(num_threads),
            reinterpret_cast<decltype(OpenMP::thread_num)>(thread_num)};
}

MMATM_API bool mmatm_forward(int dtype, int threads, int64_t batch, int64_t height, int64_t width,
                             int64_t channels, int64_t groups, const void* x, const void* offset,
                             void* samples, void* mean) {
  return by_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    return forward({batch, height, width, channels, groups}, threads, static_cast<const T*>(x),
                   static_cast<const T*>(offset), static_cast<T*>(samples), static_cast<T*>(mean));
  });
}

MMATM_API bool mmatm_backward(int dtype, int threads, int64_t batch, int64_t height, int64_t width,
                              int64_t channels, int64_t groups, const void* grad_samples,
                              const void* grad_mean, const void* x, const void* offset,
                              void* grad_x, void* grad_offset) {
  return by_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    return backward({batch, height, width, channels, groups}, threads,
                    static_cast<const T*>(grad_samples), static_cast<const T*>(grad_mean),
                    static_cast<const T*>(x), static_cast<const T*>(offset),
                    static_cast<T*>(grad_x), static_cast<T*>(grad_offset));
  });
}
