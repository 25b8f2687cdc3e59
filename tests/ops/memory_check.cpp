// Runs the kernels of the CPU operator, for every dtype and instruction set of this machine, on
// many random problems against plain loops. Every tensor is a heap block of exactly its size, so
// a sanitizer sees any access outside; every output starts as NaN, so a place left out differs.
//
//     g++ -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all
//         tests/ops/memory_check.cpp -o build/memory_check && build/memory_check

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>

#include "../../mmatm/ops/csrc/kernels.h"

namespace {

using mmatm::Real;
using mmatm::Shape;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int kRounds = 100;

std::mt19937 engine(0);

int64_t draw(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(engine);
}

double draw_normal() { return std::normal_distribution<double>()(engine); }

template <typename T>
struct Tensor {
  int64_t size;
  std::unique_ptr<T[]> values;

  explicit Tensor(int64_t size) : size(size), values(new T[size]) { fill(kNan); }

  void fill(double value) {
    for (int64_t i = 0; i < size; ++i) set(i, value);
  }
  double at(int64_t i) const { return mmatm::widen(values[i]); }
  void set(int64_t i, double value) { values[i] = mmatm::narrow<T>(static_cast<Real<T>>(value)); }
  T* data() { return values.get(); }
};

// Normal values, a few of them far if that is not 0: then also whole, infinite and NaN.
template <typename T>
Tensor<T> random_tensor(int64_t size, double scale, double far) {
  const double specials[] = {far, -far, kInf, -kInf, kNan, 0, 1, -1, -2, 3};
  Tensor<T> tensor(size);
  for (int64_t i = 0; i < size; ++i) {
    tensor.set(i, far && draw(0, 19) == 0 ? specials[draw(0, 9)] : scale * draw_normal());
  }
  return tensor;
}

[[noreturn]] void fail(const char* what, const Shape& s, int64_t i, double got, double wanted) {
  std::printf("%s[%lld] is %g instead of %g at B H W C G = %lld %lld %lld %lld %lld\n", what,
              static_cast<long long>(i), got, wanted, static_cast<long long>(s.batch),
              static_cast<long long>(s.height), static_cast<long long>(s.width),
              static_cast<long long>(s.channels), static_cast<long long>(s.groups));
  std::exit(1);
}

template <typename T>
void compare(const char* what, const Shape& shape, const Tensor<T>& got,
             const Tensor<double>& wanted, double tolerance) {
  for (int64_t i = 0; i < got.size; ++i) {
    const double a = got.at(i), b = wanted.at(i);
    const bool same = a == b || (std::isnan(a) && std::isnan(b)) ||
                      std::abs(a - b) <= tolerance * (1 + std::abs(b));
    // Where the exact value is beyond the type, infinity is right.
    const bool overflow = std::isinf(a) && std::abs(b) > 60000 && sizeof(T) == 2;
    if (!same && !overflow) fail(what, shape, i, a, b);
  }
}

// What the kernels must compute, one value at a time.
template <typename T>
struct Problem {
  Shape shape;
  Tensor<T> x, offset, grad_samples;
  Tensor<Real<T>> grad_token;
  Tensor<double> samples, total, grad_x, grad_offset;

  Problem(const Shape& s, bool special, bool with_token)
      : shape(s),
        x(random_tensor<T>(tokens() * s.channels, 1, 4 * special)),
        offset(random_tensor<T>(tokens() * 2 * s.groups, draw(0, 3), 1e9 * special)),
        grad_samples(random_tensor<T>(tokens() * 2 * s.channels, 1, 4 * special)),
        grad_token(random_tensor<Real<T>>(with_token ? s.batch * 3 * s.channels : 0, 1, 0)),
        samples(tokens() * 2 * s.channels),
        total(s.batch * 3 * s.channels),
        grad_x(tokens() * s.channels),
        grad_offset(tokens() * 2 * s.groups) {
    total.fill(0);
    grad_x.fill(0);
    grad_offset.fill(0);
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t h = 0; h < s.height; ++h) {
        for (int64_t w = 0; w < s.width; ++w) {
          for (int64_t c = 0; c < s.channels; ++c) {
            const int64_t token = (b * s.height + h) * s.width + w;
            solve(b, h, w, c, 0);
            solve(b, h, w, c, 1);
            add(total, (b * 3 + 2) * s.channels + c, x.at(token * s.channels + c));
            add(grad_x, token * s.channels + c, token_gradient(b, 2, c));
          }
        }
      }
    }
  }

  int64_t tokens() const { return shape.batch * shape.height * shape.width; }

  double token_gradient(int64_t b, int64_t part, int64_t c) const {
    return grad_token.size ? grad_token.at((b * 3 + part) * shape.channels + c) : 0;
  }

  static void add(Tensor<double>& tensor, int64_t i, double value) {
    tensor.set(i, tensor.at(i) + value);
  }

  void solve(int64_t b, int64_t h, int64_t w, int64_t c, int64_t axis) {
    const int64_t token = (b * shape.height + h) * shape.width + w;
    const int64_t index = axis == 0 ? w : h, size = axis == 0 ? shape.width : shape.height;
    const int64_t place = token * 2 * shape.groups + axis * shape.groups + c / shape.share();
    const int64_t out = (token * 2 + axis) * shape.channels + c;
    const Real<T> position = mmatm::widen(offset.values[place]) + static_cast<Real<T>>(index);
    const Real<T> first = std::floor(position);
    const double weight = std::isinf(position) ? 0 : position - first;
    const double grad = grad_samples.at(out) + token_gradient(b, axis, c);
    double taps[2] = {0, 0};
    for (int i = 0; i < 2; ++i) {
      const Real<T> tap = first + static_cast<Real<T>>(i);
      if (!(tap >= 0 && tap < static_cast<Real<T>>(size))) continue;
      const int64_t n = static_cast<int64_t>(tap);
      const int64_t from =
          ((b * shape.height + (axis ? n : h)) * shape.width + (axis ? w : n)) * shape.channels + c;
      taps[i] = x.at(from);
      add(grad_x, from, (i ? weight : 1 - weight) * grad);
    }
    samples.set(out, (1 - weight) * taps[0] + weight * taps[1]);
    add(total, (b * 3 + axis) * shape.channels + c, samples.at(out));
    if (!std::isinf(position)) add(grad_offset, place, grad * (taps[1] - taps[0]));
  }
};

// Calls function with parts of [0, count) that follow each other.
template <typename F>
void in_parts(int64_t count, const F& function) {
  for (int64_t begin = 0; begin < count;) {
    const int64_t end = begin + draw(1, count - begin);
    function(begin, end);
    begin = end;
  }
}

template <typename T>
void check(mmatm::Capability capability, const Shape& shape, bool special, double tolerance) {
  const auto kernels = mmatm::kernels<T>(capability);
  Problem<T> problem(shape, special, draw(0, 1));
  const int64_t C = shape.channels, area = shape.height * shape.width;

  Tensor<T> samples(problem.samples.size);
  const mmatm::ForwardTask<T> forward{shape, problem.x.data(), problem.offset.data(),
                                      samples.data()};
  in_parts(shape.batch * area,
           [&](int64_t begin, int64_t end) { kernels.forward(forward, begin, end, nullptr); });
  compare("samples", shape, samples, problem.samples, tolerance);

  samples.fill(kNan);
  Tensor<Real<T>> total(problem.total.size);
  for (int64_t b = 0; b < shape.batch; ++b) {
    kernels.forward(forward, b * area, (b + 1) * area, total.data() + b * 3 * C);
  }
  compare("samples", shape, samples, problem.samples, tolerance);
  compare("total", shape, total, problem.total, 10 * tolerance);

  Tensor<T> grad_x(problem.x.size), grad_offset(problem.offset.size);
  Tensor<Real<T>> sum(mmatm::is_half<T> ? problem.x.size : 0);
  Real<T>* sums;
  if constexpr (mmatm::is_half<T>) {
    sums = sum.data();
  } else {
    sums = grad_x.data();
  }
  const mmatm::BackwardTask<T> backward{
      shape,
      problem.grad_samples.data(),
      problem.grad_token.size ? problem.grad_token.data() : nullptr,
      problem.x.data(),
      problem.offset.data(),
      sums,
      grad_x.data(),
      grad_offset.data()};
  in_parts(shape.batch * shape.height,
           [&](int64_t begin, int64_t end) { kernels.backward_rows(backward, begin, end); });
  in_parts(shape.batch * shape.width,
           [&](int64_t begin, int64_t end) { kernels.backward_columns(backward, begin, end); });
  compare("grad_x", shape, grad_x, problem.grad_x, 10 * tolerance);
  compare("grad_offset", shape, grad_offset, problem.grad_offset, 10 * tolerance);
}

template <typename T>
int check_all(mmatm::Capability capability, double tolerance) {
  int cases = 0;
  for (const int64_t share : {1, 2, 3, 4, 5, 8, 16}) {
    for (int round = 0; round < kRounds; ++round, ++cases) {
      const int64_t groups = draw(1, 9);
      const Shape shape{draw(0, 2), draw(0, 9), draw(0, 12), groups * share, groups};
      check<T>(capability, shape, round % 2, tolerance);
    }
  }
  return cases;
}

// Every half is exact in float, comes back from there, and is where ties go if it is even.
template <typename T>
void check_conversions(int fraction_bits, int bias) {
  const uint32_t infinity = 0x8000u - (1u << fraction_bits);
  for (uint32_t bits = 0; bits < 0x8000u; ++bits) {
    const float value = mmatm::widen(T{static_cast<uint16_t>(bits)});
    const uint32_t exponent = bits >> fraction_bits, fraction = bits & ((1u << fraction_bits) - 1);
    const uint32_t lead = exponent ? 1u << fraction_bits : 0;
    const double wanted =
        bits > infinity ? kNan
        : bits == infinity
            ? kInf
            : std::ldexp(lead + fraction, std::max<int>(exponent, 1) - bias - fraction_bits);
    const bool right = value == wanted || (std::isnan(value) && std::isnan(wanted));
    const uint32_t back = mmatm::narrow<T>(-value).bits;
    if (!right || (bits <= infinity ? back != (bits | 0x8000u) : (back & 0x7fffu) <= infinity)) {
      fail("half", {}, bits, value, wanted);
    }
    if (bits + 1 < infinity) {
      const float next = mmatm::widen(T{static_cast<uint16_t>(bits + 1)});
      const uint32_t tie = mmatm::narrow<T>(static_cast<float>((double{value} + next) / 2)).bits;
      if (tie != bits + bits % 2) fail("tie", {}, bits, tie, bits + bits % 2);
    }
  }
}

}  // namespace

int main() {
  check_conversions<mmatm::BFloat16>(7, 127);
  check_conversions<mmatm::Float16>(10, 15);
  int cases = 0;
  for (auto capability : {mmatm::Capability::portable, mmatm::capability()}) {
    cases += check_all<float>(capability, 1e-5);
    cases += check_all<double>(capability, 1e-13);
    cases += check_all<mmatm::BFloat16>(capability, 1.0 / 128);
    cases += check_all<mmatm::Float16>(capability, 1.0 / 1024);
  }
  std::printf("memory_check: %d cases agree, up to %s\n", cases, mmatm::name(mmatm::capability()));
}
