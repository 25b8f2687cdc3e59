// The CPU backend of the sampling operator: checks, allocation, threads. The work is in kernels.h.

// Not torch/extension.h, which takes twice as long to compile.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/utils/pybind.h>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "kernels.h"

namespace {

using at::Tensor;
using mmatm::Real;
using mmatm::Shape;

const mmatm::Capability kCapability = mmatm::capability();

// Elements of x below which a second thread costs more than it brings.
constexpr int64_t kElementsPerThread = 16384;

// Checks that the tensors fit together and the kernels can take their sizes.
Shape check(const Tensor& x, const Tensor& offset) {
  TORCH_CHECK_VALUE(x.dim() == 4 && offset.dim() == 4,
                    "x and offset must have 4 dimensions, but x is ", x.sizes(), " and offset is ",
                    offset.sizes());
  TORCH_CHECK_VALUE(x.sizes().slice(0, 3) == offset.sizes().slice(0, 3),
                    "x and offset must agree in batch, height and width, but x is ", x.sizes(),
                    " and offset is ", offset.sizes());
  const int64_t channels = x.size(3), groups = offset.size(3) / 2;
  TORCH_CHECK_VALUE(groups > 0 && offset.size(3) % 2 == 0 && channels % groups == 0,
                    "offset must have 2 * G channels with G a divisor of the channels of x, but "
                    "offset has ",
                    offset.size(3), " and x has ", channels);
  TORCH_CHECK_VALUE(x.scalar_type() == offset.scalar_type() && x.is_cpu() && offset.is_cpu(),
                    "x and offset must share one dtype and be on the CPU");
  const Shape shape{x.size(0), x.size(1), x.size(2), channels, groups};
  constexpr int64_t most = std::numeric_limits<int32_t>::max() / 2;
  TORCH_CHECK_VALUE(shape.height <= most && shape.width <= most &&
                        (shape.width == 0 || channels <= most / shape.width),
                    "x is too large for 32-bit positions in a row: ", x.sizes());
  return shape;
}

void check_like(const Tensor& tensor, at::IntArrayRef sizes, const Tensor& x, const char* name) {
  TORCH_CHECK_VALUE(
      tensor.sizes() == sizes && tensor.scalar_type() == x.scalar_type() && tensor.is_cpu(), name,
      " must be ", sizes, " of ", x.scalar_type(), " on the CPU, but it is ", tensor.sizes(),
      " of ", tensor.scalar_type(), " on ", tensor.device());
}

// An uninitialised tensor. A large allocation is often new memory from the system (beyond 32 MiB
// always, with glibc), and the first touch of each small page costs more than the kernels: huge
// pages took a forward pass with 34 MB to write from 20 to 11 ms. A hint, so nothing depends on it.
Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options) {
  Tensor tensor = at::empty(sizes, options);
#ifdef MADV_HUGEPAGE
  if (tensor.nbytes() > (4u << 20)) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
    const uintptr_t first = (begin + page - 1) / page * page;
    const uintptr_t last = (begin + tensor.nbytes()) / page * page;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  return tensor;
}

// Calls function with a value of the type in which the kernels see the elements of x.
template <typename F>
auto by_dtype(const Tensor& x, const F& function) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return function(float{});
    case at::kDouble:
      return function(double{});
    case at::kBFloat16:
      return function(mmatm::BFloat16{});
    case at::kHalf:
      return function(mmatm::Float16{});
    default:
      TORCH_CHECK_VALUE(false, "x must be floating point, but it is ", x.scalar_type());
  }
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <typename T>
at::ScalarType real_dtype() {
  return std::is_same_v<T, double> ? at::kDouble : at::kFloat;
}

// How the tokens of an image are divided: by its size alone, so that the sums of the blocks, and
// with them the means, do not depend on the number of threads.
struct Blocks {
  int64_t tokens, per_image, length;

  explicit Blocks(const Shape& shape)
      : tokens(shape.height * shape.width),
        per_image(std::clamp<int64_t>((tokens + 31) / 32, 1, 256)),
        length((tokens + per_image - 1) / per_image) {}
};

// The mean over the tokens of an image from the totals [blocks, channels] of its blocks.
template <typename T>
void average(const Real<T>* totals, const Blocks& blocks, int64_t channels, T* mean) {
  std::vector<double> sum(channels);
  for (int64_t i = 0; i < blocks.per_image; ++i, totals += channels) {
    for (int64_t c = 0; c < channels; ++c) sum[c] += totals[c];
  }
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = mmatm::narrow<T>(static_cast<Real<T>>(sum[c] / static_cast<double>(blocks.tokens)));
  }
}

// The number of items that keep a thread busy.
int64_t grain(int64_t elements_per_item) {
  return std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, elements_per_item));
}

std::tuple<Tensor, Tensor> run_forward(const Tensor& x_, const Tensor& offset_, bool with_mean) {
  const Shape shape = check(x_, offset_);
  const Tensor x = x_.contiguous(), offset = offset_.contiguous();
  const int64_t C = shape.channels;
  Tensor samples = allocate({shape.batch, shape.height, shape.width, 2 * C}, x.options());
  Tensor mean;
  by_dtype(x, [&](auto element) {
    using T = decltype(element);
    using R = Real<T>;
    const auto forward = mmatm::kernels<T>(kCapability).forward;
    const mmatm::ForwardTask<T> task{shape, data<T>(x), data<T>(offset), data<T>(samples)};
    const Blocks blocks(shape);
    Tensor totals;
    if (with_mean) {
      totals =
          at::empty({shape.batch, blocks.per_image, 3 * C}, x.options().dtype(real_dtype<T>()));
    }
    R* total = with_mean ? data<R>(totals) : nullptr;
    at::parallel_for(0, shape.batch * blocks.per_image, grain(blocks.length * C),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t i = begin; i < end; ++i) {
                         const int64_t image = i / blocks.per_image * blocks.tokens;
                         const int64_t block = i % blocks.per_image * blocks.length;
                         const int64_t stop = std::min(block + blocks.length, blocks.tokens);
                         forward(task, image + std::min(block, stop), image + stop,
                                 total ? total + i * 3 * C : nullptr);
                       }
                     });
    if (with_mean) {
      mean = at::empty({shape.batch, 3 * C}, x.options());
      for (int64_t image = 0; image < shape.batch; ++image) {
        average(total + image * blocks.per_image * 3 * C, blocks, 3 * C,
                data<T>(mean) + image * 3 * C);
      }
    }
  });
  return {samples, mean};
}

Tensor forward(const Tensor& x, const Tensor& offset) {
  return std::get<0>(run_forward(x, offset, false));
}

std::tuple<Tensor, Tensor> forward_mean(const Tensor& x, const Tensor& offset) {
  return run_forward(x, offset, true);
}

std::tuple<Tensor, Tensor> run_backward(const Tensor& grad_samples_, const Tensor* grad_mean,
                                        const Tensor& x_, const Tensor& offset_) {
  const Shape shape = check(x_, offset_);
  const int64_t C = shape.channels, tokens = shape.height * shape.width;
  check_like(grad_samples_, {shape.batch, shape.height, shape.width, 2 * C}, x_, "grad_samples");
  if (grad_mean) check_like(*grad_mean, {shape.batch, 3 * C}, x_, "grad_mean");
  const Tensor grad_samples = grad_samples_.contiguous();
  const Tensor x = x_.contiguous(), offset = offset_.contiguous();
  Tensor grad_x = allocate(x.sizes(), x.options());
  Tensor grad_offset = allocate(offset.sizes(), offset.options());
  by_dtype(x, [&](auto element) {
    using T = decltype(element);
    using R = Real<T>;
    const auto kernels = mmatm::kernels<T>(kCapability);
    Tensor sum = grad_x, grad_token;
    if (mmatm::is_half<T>) sum = allocate(x.sizes(), x.options().dtype(real_dtype<T>()));
    if (grad_mean) {
      const Tensor from = grad_mean->contiguous();
      grad_token = at::empty(from.sizes(), from.options().dtype(real_dtype<T>()));
      for (int64_t i = 0; i < from.numel(); ++i) {
        data<R>(grad_token)[i] = mmatm::widen(data<T>(from)[i]) / static_cast<R>(tokens);
      }
    }
    const mmatm::BackwardTask<T> task{
        shape,           data<T>(grad_samples), grad_mean ? data<R>(grad_token) : nullptr,
        data<T>(x),      data<T>(offset),       data<R>(sum),
        data<T>(grad_x), data<T>(grad_offset)};
    at::parallel_for(0, shape.batch * shape.height, grain(shape.width * C),
                     [&](int64_t begin, int64_t end) { kernels.backward_rows(task, begin, end); });
    at::parallel_for(
        0, shape.batch * shape.width, grain(shape.height * C),
        [&](int64_t begin, int64_t end) { kernels.backward_columns(task, begin, end); });
  });
  return {grad_x, grad_offset};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_samples, const Tensor& x,
                                    const Tensor& offset) {
  return run_backward(grad_samples, nullptr, x, offset);
}

std::tuple<Tensor, Tensor> backward_mean(const Tensor& grad_samples, const Tensor& grad_mean,
                                         const Tensor& x, const Tensor& offset) {
  return run_backward(grad_samples, &grad_mean, x, offset);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using Release = pybind11::call_guard<pybind11::gil_scoped_release>;
  m.def("forward", &forward, Release());
  m.def("forward_mean", &forward_mean, Release());
  m.def("backward", &backward, Release());
  m.def("backward_mean", &backward_mean, Release());
  m.def("capability", [] { return mmatm::name(kCapability); });
}
