// The sampling kernels: serial, torch-free (so tests/ops/memory_check.cpp can compile them alone),
// written once for all dtypes and compiled once per instruction set.
//
// Along each axis a token reads two neighbouring tokens of its row or column, the taps: the first
// at floor(index + offset), the second after it. A kernel goes token by token: it locates the taps
// of all groups, a plain loop over contiguous offsets, then visits the groups to gather (forward)
// or to scatter (backward) `share` channels each. Nearly always every tap of a token is inside the
// map, which saves the masks; tokens at the border take the masked, branch-free form.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>

// Vectors are passed between inlined functions only, where their calling convention is no matter.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace mmatm {

// Everything below must be inlined into the functions that carry a target attribute.
#define MMATM_INLINE inline __attribute__((always_inline))

// ------------------------------------------------------------------------------------- numbers

template <typename T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T, int N>
using Vector = typename VectorOf<T, N>::type;

template <typename To, typename From>
MMATM_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// The half types convert with integer arithmetic that holds for a scalar and a vector alike:
// U is uint32_t or a vector of them, F the float type of the same shape.

struct BFloat16 {
  uint16_t bits;

  template <typename F, typename U>
  static MMATM_INLINE F widen(const U& bits) {
    return bit_cast<F>(bits << 16);
  }

  template <typename U, typename F>
  static MMATM_INLINE U narrow(const F& value) {
    const U bits = bit_cast<U>(value);
    const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest even
    return value == value ? rounded : U{0x7fc0u};
  }
};

struct Float16 {
  uint16_t bits;

  template <typename F, typename U>
  static MMATM_INLINE F widen(const U& bits) {
    const U magnitude = (bits & 0x7fffu) << 13;
    const U finite = bit_cast<U>(bit_cast<F>(magnitude) * 0x1p112f);  // subnormal ones too
    const U value = magnitude >= (31u << 23) ? magnitude | 0x7f800000u : finite;  // inf, NaN
    return bit_cast<F>(value | ((bits & 0x8000u) << 16));
  }

  template <typename U, typename F>
  static MMATM_INLINE U narrow(const F& value) {
    const U bits = bit_cast<U>(value);
    const U magnitude = bits & 0x7fffffffu;
    const U normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // The unit of 0.5f in its last place is the smallest half: the addition rounds for us.
    const U tiny = bit_cast<U>(bit_cast<F>(magnitude) + 0.5f) - 0x3f000000u;
    const U rounded = magnitude >= 0x477ff000u   ? U{0x7c00u}  // 65520 and above
                      : magnitude >= 0x38800000u ? normal      // 2^-14 and above
                                                 : tiny;
    const U number = magnitude > 0x7f800000u ? U{0x7e00u} : rounded;
    return number | ((bits >> 16) & 0x8000u);
  }
};

// What a stored T is computed in.
template <typename T>
struct RealOf {
  using type = float;
};
template <>
struct RealOf<double> {
  using type = double;
};
template <typename T>
using Real = typename RealOf<T>::type;

template <typename T>
constexpr bool is_half = sizeof(T) < sizeof(float);

template <typename T>
MMATM_INLINE Real<T> widen(T value) {
  if constexpr (is_half<T>) {
    return T::template widen<float>(uint32_t{value.bits});
  } else {
    return value;
  }
}

template <typename T>
MMATM_INLINE T narrow(Real<T> value) {
  if constexpr (is_half<T>) {
    return T{static_cast<uint16_t>(T::template narrow<uint32_t>(value))};
  } else {
    return value;
  }
}

// The count values as reals: themselves if that is what they are, otherwise copied to the buffer.
template <typename T>
MMATM_INLINE const Real<T>* widened(const T* __restrict from, int64_t count,
                                    Real<T>* __restrict buffer) {
  if constexpr (is_half<T>) {
    for (int64_t i = 0; i < count; ++i) buffer[i] = widen(from[i]);
    return buffer;
  } else {
    return from;
  }
}

template <typename T, int N>
MMATM_INLINE Vector<Real<T>, N> load(const T* from) {
  if constexpr (is_half<T>) {
    Vector<uint16_t, N> bits;
    std::memcpy(&bits, from, sizeof bits);
    using Wide = Vector<uint32_t, N>;
    return T::template widen<Vector<float, N>>(__builtin_convertvector(bits, Wide));
  } else {
    Vector<T, N> values;
    std::memcpy(&values, from, sizeof values);
    return values;
  }
}

// A group's channels as one scalar, to assemble several groups in a register. Only its bits
// matter; a floating type because it can be inserted from memory without an integer register.
template <std::size_t bytes>
struct PieceOf;
template <>
struct PieceOf<2> {
  using type = uint16_t;
};
template <>
struct PieceOf<4> {
  using type = float;
};
template <>
struct PieceOf<8> {
  using type = double;
};

// The Piece at each of K places, side by side.
template <typename Piece, int K, typename T>
MMATM_INLINE Vector<Piece, K> pieces_at(const T* from, const int64_t* place) {
  Piece piece[K];
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k) std::memcpy(&piece[k], from + place[k], sizeof(Piece));
  if constexpr (K == 2) {
    return Vector<Piece, K>{piece[0], piece[1]};
  } else {
    return Vector<Piece, K>{piece[0], piece[1], piece[2], piece[3]};
  }
}

// K groups of S channels, each at its own place.
template <int S, int K, typename T>
MMATM_INLINE Vector<Real<T>, S * K> gather(const T* from, const int64_t* place) {
  const auto pieces = pieces_at<typename PieceOf<S * sizeof(T)>::type, K>(from, place);
  return load<T, S * K>(reinterpret_cast<const T*>(&pieces));
}

template <int S, int K, typename R>
MMATM_INLINE void scatter_add(R* to, const int64_t* place, const Vector<R, S * K>& values) {
  using Piece = typename PieceOf<S * sizeof(R)>::type;
  const auto pieces = bit_cast<Vector<Piece, K>>(gather<S, K>(to, place) + values);
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k) {
    const Piece piece = pieces[k];
    std::memcpy(to + place[k], &piece, sizeof piece);
  }
}

// Each of K weights S times over.
template <int S, int K, typename R>
MMATM_INLINE Vector<R, S * K> repeat(const R* weight) {
  static_assert(S == 1 || (S == 2 && K == 2), "the cases there are");
  if constexpr (S == 1) {
    return load<R, K>(weight);
  } else {
    return Vector<R, S * K>{weight[0], weight[0], weight[1], weight[1]};
  }
}

// --------------------------------------------------------------------------------------- tasks

struct Shape {
  int64_t batch, height, width, channels, groups;

  int64_t share() const { return channels / groups; }
};

template <typename T>
struct ForwardTask {
  Shape shape;
  const T* x;       // [B, H, W, C]
  const T* offset;  // [B, H, W, 2 * G]
  T* samples;       // [B, H, W, 2 * C]
};

template <typename T>
struct BackwardTask {
  Shape shape;
  const T* grad_samples;      // [B, H, W, 2 * C]
  const Real<T>* grad_token;  // [B, 3 * C] that every token adds to its gradient, or null
  const T* x;
  const T* offset;
  Real<T>* sum;    // [B, H, W, C] to accumulate the gradient of x in; may be grad_x itself
  T* grad_x;       // [B, H, W, C]
  T* grad_offset;  // [B, H, W, 2 * G]
};

// Rows of x that the height axis is about to reach. Offsets scatter the first touches of a row, so
// the hardware sees no stream: fetching ahead took 10.2 to 6.6 ms on [1, 200, 336, 64], share 2.
constexpr int64_t kRowsAhead = 4;
// Tokens ahead of the backward pass: half of each offset and gradient row is left out, which
// hides them from the hardware as well; 12.4 to 10.3 ms along the rows there.
constexpr int64_t kTokensAhead = 8;
// Tokens of which the samples are summed, and rounded to a half type, at once: they are in the
// nearest cache by then, but no longer in flight to it, which would stall wider loads.
constexpr int64_t kRun = 8;
constexpr int64_t kCacheLine = 64;

template <typename T>
MMATM_INLINE void prefetch(const T* from, int64_t count) {
  const char* line = reinterpret_cast<const char*>(from);
  const char* end = reinterpret_cast<const char*>(from + count);
  for (; line < end; line += kCacheLine) __builtin_prefetch(line);
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <typename T>
using Memory = std::unique_ptr<T[], Free>;

// Uninitialised memory from the start of a cache line on, or null where none is left. Not from
// operator new, which belongs to the C++ library.
template <typename T>
Memory<T> allocate(int64_t count) {
  const int64_t lines = (count * sizeof(T) + kCacheLine - 1) / kCacheLine;
  const std::size_t bytes = std::max<int64_t>(1, lines) * kCacheLine;
  return Memory<T>(static_cast<T*>(std::aligned_alloc(kCacheLine, bytes)));
}

// Working memory of a kernel.
template <typename T>
class Scratch {
  using R = Real<T>;

 public:
  // As wide as R, to mask a vector of them.
  using Mask = std::conditional_t<sizeof(R) == 8, int64_t, int32_t>;

  // Per group: where its taps begin, in elements from the start of the row or column; the weight
  // of the second tap; all ones where the tap is inside. Only the masked form has second and these.
  int64_t* first;
  int64_t* second;
  R* weight;
  Mask* first_inside;
  Mask* second_inside;

  R* distance;  // one value per group, as the next
  R* sums;
  R* products;  // one value per channel
  R* values;    // the gradient of a token, or in a half type the samples of a run of tokens

  explicit Scratch(const Shape& shape) {
    divide(shape);  // without memory yet, to see how much
    memory_ = allocate<Line>(used_);
    if (!memory_) std::abort();  // a few KiB
    used_ = 0;
    divide(shape);
  }

 private:
  struct alignas(kCacheLine) Line {
    char bytes[kCacheLine];
  };

  Memory<Line> memory_;
  std::size_t used_ = 0;

  void divide(const Shape& shape) {
    take(first, shape.groups);
    take(second, shape.groups);
    take(weight, shape.groups);
    take(first_inside, shape.groups);
    take(second_inside, shape.groups);
    take(distance, shape.groups);
    take(sums, shape.groups);
    take(products, shape.channels);
    take(values, is_half<T> ? kRun * 2 * shape.channels : shape.channels);
  }

  template <typename U>
  void take(U*& part, int64_t count) {
    if (memory_) part = reinterpret_cast<U*>(memory_.get() + used_);
    used_ += (count * sizeof(U) + kCacheLine - 1) / kCacheLine;
  }
};

// The row or the column that a token samples from.
struct Axis {
  int64_t index, size, stride;
};

// --------------------------------------------------------------------------------------- taps

// Locates the taps of every group. Returns whether all are inside; where they are not, what the
// unmasked form has written is no place to read from.
template <bool masked, typename T>
MMATM_INLINE bool locate(const Axis& axis, const Real<T>* offset, int64_t groups, int64_t share,
                         Scratch<T>& scratch) {
  using R = Real<T>;
  using Mask = typename Scratch<T>::Mask;
  int64_t* first = scratch.first;
  int64_t* second = scratch.second;
  R* weight = scratch.weight;
  Mask* first_inside = scratch.first_inside;
  Mask* second_inside = scratch.second_inside;

  const R index = static_cast<R>(axis.index), low = -2, high = static_cast<R>(axis.size);
  const auto size = static_cast<uint32_t>(axis.size);
  const auto stride = static_cast<uint32_t>(axis.stride);  // 32 bits: a vector multiplies them
  int32_t outside = 0;
#pragma GCC ivdep  // the parts of scratch do not overlap; restrict is lost where this is inlined
  for (int64_t g = 0; g < groups; ++g) {
    const R position = offset[g] + index;
    // Beyond these bounds both taps are outside wherever exactly. NaN becomes low.
    R bounded = position > low ? position : low;
    bounded = bounded < high ? bounded : high;
    int32_t tap = static_cast<int32_t>(bounded);
    tap -= static_cast<R>(tap) > bounded;  // truncation to floor
    const R fraction = bounded - static_cast<R>(tap);
    if constexpr (masked) {
      const int32_t in_first = -static_cast<int32_t>(static_cast<uint32_t>(tap) < size);
      const int32_t in_second = -static_cast<int32_t>(static_cast<uint32_t>(tap + 1) < size);
      first[g] = static_cast<uint64_t>(static_cast<uint32_t>(tap & in_first)) * stride + g * share;
      second[g] =
          static_cast<uint64_t>(static_cast<uint32_t>((tap + 1) & in_second)) * stride + g * share;
      first_inside[g] = in_first;
      second_inside[g] = in_second;
      // position where it is NaN; by its bits, as a comparison may keep the loop from vectors.
      const Mask number = -static_cast<Mask>(position == position);
      weight[g] = bit_cast<R>((bit_cast<Mask>(fraction) & number) |
                              (bit_cast<Mask>(position) & ~number));
    } else {
      first[g] = static_cast<uint64_t>(static_cast<uint32_t>(tap)) * stride + g * share;
      weight[g] = fraction;
      outside |= static_cast<uint32_t>(tap) >= size - 1;
    }
  }
  return !outside;
}

// Groups to a 16-byte vector, so that small shares fill it too; 1 where one group fills it alone.
template <typename R, int S>
constexpr int kGroupsPerVector = S == 0 ? 1 : std::max<int>(1, 16 / (std::max(S, 1) * sizeof(R)));

// Whether a group of S channels is handled as a vector: not for S = 0, any share, nor for 1.
template <int S>
constexpr bool is_vector = S > 1;

template <typename Mask, typename R, int N>
MMATM_INLINE Vector<R, N> keep_inside(const Vector<R, N>& values, Mask inside) {
  return bit_cast<Vector<R, N>>(bit_cast<Vector<Mask, N>>(values) & inside);
}

// The channels of group g, interpolated.
template <int S, bool masked, typename T>
MMATM_INLINE void forward_group(int64_t g, int64_t share, const T* x, int64_t stride,
                                const Scratch<T>& scratch, Real<T>* out) {
  using R = Real<T>;
  using Mask = typename Scratch<T>::Mask;
  const T* first = x + scratch.first[g];
  const T* second = masked ? x + scratch.second[g] : first + stride;
  const R weight = scratch.weight[g];
  out += g * share;
  if constexpr (is_vector<S>) {
    auto a = load<T, S>(first), b = load<T, S>(second);
    if constexpr (masked) {
      a = keep_inside<Mask, R, S>(a, scratch.first_inside[g]);
      b = keep_inside<Mask, R, S>(b, scratch.second_inside[g]);
    }
    const Vector<R, S> value = (1 - weight) * a + weight * b;
    std::memcpy(out, &value, sizeof value);
  } else {
    const bool in_first = !masked || scratch.first_inside[g];
    const bool in_second = !masked || scratch.second_inside[g];
    for (int64_t s = 0; s < share; ++s) {
      const R a = in_first ? widen(first[s]) : 0, b = in_second ? widen(second[s]) : 0;
      out[s] = (1 - weight) * a + weight * b;
    }
  }
}

// One token along one axis: x at the start of its row or column, out its channels.
template <int S, typename T>
MMATM_INLINE void forward_token(const Axis& axis, const T* x, const T* offset, int64_t groups,
                                int64_t share, Scratch<T>& scratch, Real<T>* out) {
  using R = Real<T>;
  constexpr int K = kGroupsPerVector<R, S>;
  const R* distance = widened(offset, groups, scratch.distance);
  if (!locate<false>(axis, distance, groups, share, scratch)) {
    locate<true>(axis, distance, groups, share, scratch);
    for (int64_t g = 0; g < groups; ++g) {
      forward_group<S, true>(g, share, x, axis.stride, scratch, out);
    }
    return;
  }
  int64_t g = 0;
  if constexpr (K > 1) {
    for (; g + K <= groups; g += K) {
      const auto a = gather<S, K>(x, scratch.first + g);
      const auto b = gather<S, K>(x + axis.stride, scratch.first + g);
      const auto weight = repeat<S, K>(scratch.weight + g);
      const Vector<R, S * K> value = (1 - weight) * a + weight * b;
      std::memcpy(out + g * S, &value, sizeof value);
    }
  }
  for (; g < groups; ++g) forward_group<S, false>(g, share, x, axis.stride, scratch, out);
}

// What group g sends back to its taps, and its products grad * (second - first).
template <int S, bool masked, typename T>
MMATM_INLINE void backward_group(int64_t g, int64_t share, const T* x, int64_t stride,
                                 const Scratch<T>& scratch, const Real<T>* grad, Real<T>* sum) {
  using R = Real<T>;
  using Mask = typename Scratch<T>::Mask;
  const int64_t first = scratch.first[g], second = masked ? scratch.second[g] : first + stride;
  const R weight = scratch.weight[g];
  R* products = scratch.products + g * share;
  grad += g * share;
  if constexpr (is_vector<S>) {
    const auto gradient = load<R, S>(grad);
    auto a = load<T, S>(x + first), b = load<T, S>(x + second);
    Vector<R, S> to_first = (1 - weight) * gradient, to_second = weight * gradient;
    if constexpr (masked) {
      // Masked, a tap outside adds zero to token 0 instead of branching.
      a = keep_inside<Mask, R, S>(a, scratch.first_inside[g]);
      b = keep_inside<Mask, R, S>(b, scratch.second_inside[g]);
      to_first = keep_inside<Mask, R, S>(to_first, scratch.first_inside[g]);
      to_second = keep_inside<Mask, R, S>(to_second, scratch.second_inside[g]);
    }
    const Vector<R, S> product = gradient * (b - a);
    std::memcpy(products, &product, sizeof product);
    const Vector<R, S> first_sum = load<R, S>(sum + first) + to_first;
    std::memcpy(sum + first, &first_sum, sizeof first_sum);
    const Vector<R, S> second_sum = load<R, S>(sum + second) + to_second;
    std::memcpy(sum + second, &second_sum, sizeof second_sum);
  } else {
    const bool in_first = !masked || scratch.first_inside[g];
    const bool in_second = !masked || scratch.second_inside[g];
    for (int64_t s = 0; s < share; ++s) {
      const R a = in_first ? widen(x[first + s]) : 0, b = in_second ? widen(x[second + s]) : 0;
      products[s] = grad[s] * (b - a);
      sum[first + s] += in_first ? (1 - weight) * grad[s] : 0;
      sum[second + s] += in_second ? weight * grad[s] : 0;
    }
  }
}

// The gradients of one token along one axis, whose samples have the gradient grad.
template <int S, typename T>
MMATM_INLINE void backward_token(const Axis& axis, const T* x, const T* offset, const Real<T>* grad,
                                 int64_t groups, int64_t share, Scratch<T>& scratch, Real<T>* sum,
                                 T* grad_offset) {
  using R = Real<T>;
  constexpr int K = kGroupsPerVector<R, S>;
  const R* distance = widened(offset, groups, scratch.distance);
  const bool inside = locate<false>(axis, distance, groups, share, scratch);
  int64_t g = 0;
  if (inside) {
    if constexpr (K > 1) {
      for (; g + K <= groups; g += K) {
        int64_t first[K];  // a copy, which the stores below cannot seem to change
        std::copy_n(scratch.first + g, K, first);
        const auto gradient = load<R, S * K>(grad + g * S);
        const auto a = gather<S, K>(x, first), b = gather<S, K>(x + axis.stride, first);
        const auto weight = repeat<S, K>(scratch.weight + g);
        const Vector<R, S * K> product = gradient * (b - a);
        std::memcpy(scratch.products + g * S, &product, sizeof product);
        scatter_add<S, K>(sum, first, (1 - weight) * gradient);
        scatter_add<S, K>(sum + axis.stride, first, weight * gradient);
      }
    }
    for (; g < groups; ++g) {
      backward_group<S, false>(g, share, x, axis.stride, scratch, grad, sum);
    }
  } else {
    locate<true>(axis, distance, groups, share, scratch);
    for (; g < groups; ++g) {
      backward_group<S, true>(g, share, x, axis.stride, scratch, grad, sum);
    }
  }
  const R* products = scratch.products;
  R* sums = scratch.sums;
#pragma GCC ivdep
  for (g = 0; g < groups; ++g) {
    R total = 0;
    for (int64_t s = 0; s < share; ++s) total += products[g * share + s];
    sums[g] = total;
  }
  for (g = 0; g < groups; ++g) {
    // An infinite offset has no gradient, even where grad is infinite and the product NaN.
    const R value = distance[g];
    const bool infinite = value == value && value - value != 0;
    grad_offset[g] = narrow<T>(infinite ? 0 : sums[g]);
  }
}

// ------------------------------------------------------------------------------------- kernels

// Adds a run of tokens to totals, four at a time to load and store those less often.
template <typename T>
MMATM_INLINE void add_tokens(const T* __restrict from, int64_t count, int64_t channels,
                             Real<T>* __restrict totals) {
  for (; count >= 4; count -= 4, from += 4 * channels) {
    for (int64_t c = 0; c < channels; ++c) {
      totals[c] += (widen(from[c]) + widen(from[c + channels])) +
                   (widen(from[c + 2 * channels]) + widen(from[c + 3 * channels]));
    }
  }
  for (; count > 0; --count, from += channels) {
    for (int64_t c = 0; c < channels; ++c) totals[c] += widen(from[c]);
  }
}

// The tokens [begin, end) of the flattened [B, H, W]. If totals is not null, they are all of one
// image, and totals [3 * C] receives the sums over them of both samples and of x.
struct Forward {
  template <int S, typename T>
  static MMATM_INLINE void run(const ForwardTask<T>& task, int64_t begin, int64_t end,
                               Real<T>* totals) {
    using R = Real<T>;
    const int64_t H = task.shape.height, W = task.shape.width;
    const int64_t C = task.shape.channels, G = task.shape.groups;
    const int64_t share = S ? S : task.shape.share();
    Scratch<T> scratch(task.shape);
    if (totals) std::fill_n(totals, 3 * C, R{0});
    if (begin == end) return;
    int64_t w = begin % W, h = begin / W % H;
    for (int64_t token = begin; token < end; ++token) {
      const T* x = task.x + token * C;
      const T* offset = task.offset + token * 2 * G;
      T* samples = task.samples + token * 2 * C;
      const int64_t run = (token - begin) % kRun;
      R* values;
      if constexpr (is_half<T>) {
        values = scratch.values + run * 2 * C;
      } else {
        values = samples;
      }
      if (h + kRowsAhead < H) prefetch(x + kRowsAhead * W * C, C);
      for (int i = 0; i < 2; ++i) {  // a loop, so that its body is compiled once
        const Axis axis = i == 0 ? Axis{w, W, C} : Axis{h, H, W * C};
        forward_token<S>(axis, x - axis.index * axis.stride, offset + i * G, G, share, scratch,
                         values + i * C);
      }
      if (run + 1 == kRun || token + 1 == end) {
        values -= run * 2 * C;
        if constexpr (is_half<T>) {
          T* __restrict to = samples - run * 2 * C;
          for (int64_t c = 0; c < (run + 1) * 2 * C; ++c) to[c] = narrow<T>(values[c]);
        }
        if (totals) {
          add_tokens(values, run + 1, 2 * C, totals);
          add_tokens(x - run * C, run + 1, C, totals + 2 * C);
        }
      }
      if (++w == W) {
        w = 0;
        if (++h == H) h = 0;
      }
    }
  }
};

// The gradient of one token's samples along one axis, in R: as it is stored where possible.
template <typename T>
MMATM_INLINE const Real<T>* gradient(const T* stored, const Real<T>* added, int64_t channels,
                                     Real<T>* buffer) {
  const Real<T>* values = widened(stored, channels, buffer);
  if (!added) return values;
  for (int64_t c = 0; c < channels; ++c) buffer[c] = values[c] + added[c];
  return buffer;
}

// The width axis: the rows [begin, end) of the flattened [B, H], each of which keeps to itself.
// Writes sum, for backward_columns to go on from.
struct BackwardRows {
  template <int S, typename T>
  static MMATM_INLINE void run(const BackwardTask<T>& task, int64_t begin, int64_t end) {
    using R = Real<T>;
    const int64_t H = task.shape.height, W = task.shape.width;
    const int64_t C = task.shape.channels, G = task.shape.groups;
    const int64_t share = S ? S : task.shape.share();
    Scratch<T> scratch(task.shape);
    for (int64_t row = begin; row < end; ++row) {
      const R* added = task.grad_token ? task.grad_token + row / H * 3 * C : nullptr;
      const T* x = task.x + row * W * C;
      R* sum = task.sum + row * W * C;
      if (added) {
        for (int64_t w = 0; w < W; ++w) std::copy_n(added + 2 * C, C, sum + w * C);
      } else {
        std::fill_n(sum, W * C, R{0});
      }
      for (int64_t w = 0; w < W; ++w) {
        const int64_t token = row * W + w;
        const R* grad = gradient(task.grad_samples + token * 2 * C, added, C, scratch.values);
        const int64_t at = token * 2 * G;
        if (w + kTokensAhead < W) {
          prefetch(task.grad_samples + (token + kTokensAhead) * 2 * C, C);
          prefetch(task.offset + at + kTokensAhead * 2 * G, G);
        }
        backward_token<S>({w, W, C}, x, task.offset + at, grad, G, share, scratch, sum,
                          task.grad_offset + at);
      }
    }
  }
};

// The height axis: the columns [begin, end) of the flattened [B, W], each of which keeps to
// itself. Adds to sum and delivers grad_x.
struct BackwardColumns {
  template <int S, typename T>
  static MMATM_INLINE void run(const BackwardTask<T>& task, int64_t begin, int64_t end) {
    using R = Real<T>;
    const int64_t H = task.shape.height, W = task.shape.width;
    const int64_t C = task.shape.channels, G = task.shape.groups;
    const int64_t share = S ? S : task.shape.share();
    Scratch<T> scratch(task.shape);
    while (begin < end) {
      // The columns of one image side by side, few enough for neighbouring rows to stay in cache.
      const int64_t b = begin / W, w0 = begin % W;
      const int64_t most = std::max<int64_t>(1, 16384 / (C * sizeof(R) + 1));
      const int64_t w1 = std::min({W, w0 + end - begin, w0 + most});
      begin += w1 - w0;
      const R* added = task.grad_token ? task.grad_token + b * 3 * C + C : nullptr;
      for (int64_t h = 0; h < H; ++h) {
        for (int64_t w = w0; w < w1; ++w) {
          const int64_t token = (b * H + h) * W + w, top = b * H * W + w;
          if (h + kRowsAhead < H) {
            prefetch(task.x + (token + kRowsAhead * W) * C, C);
            prefetch(task.sum + (token + kRowsAhead * W) * C, C);
          }
          const R* grad =
              gradient(task.grad_samples + (token * 2 + 1) * C, added, C, scratch.values);
          const int64_t at = (token * 2 + 1) * G;
          if (w + kTokensAhead < W) {
            prefetch(task.grad_samples + ((token + kTokensAhead) * 2 + 1) * C, C);
            prefetch(task.offset + at + kTokensAhead * 2 * G, G);
          }
          backward_token<S>({h, H, W * C}, task.x + top * C, task.offset + at, grad, G, share,
                            scratch, task.sum + top * C, task.grad_offset + at);
        }
      }
      if constexpr (is_half<T>) {
        for (int64_t h = 0; h < H; ++h) {
          const int64_t at = ((b * H + h) * W + w0) * C;
          for (int64_t i = at; i < at + (w1 - w0) * C; ++i) {
            task.grad_x[i] = narrow<T>(task.sum[i]);
          }
        }
      }
    }
  }
};

// Runs the code for the share, which is compiled in where it is common; 0 stands for any.
template <typename Kernel, typename Task, typename... Args>
MMATM_INLINE void by_share(const Task& task, Args... args) {
  switch (task.shape.share()) {
    case 1:
      return Kernel::template run<1>(task, args...);
    case 2:
      return Kernel::template run<2>(task, args...);
    case 4:
      return Kernel::template run<4>(task, args...);
    case 8:
      return Kernel::template run<8>(task, args...);
    default:
      return Kernel::template run<0>(task, args...);
  }
}

// ------------------------------------------------------------------------------ instruction sets

// SSE2 on x86-64, NEON on arm64.
template <typename Kernel, typename Task, typename... Args>
void run_portable(const Task& task, Args... args) {
  by_share<Kernel>(task, args...);
}

#if defined(__x86_64__)
#define MMATM_AVX2
// AVX-512 took only 3 to 10 % off its times, for half as much again to compile.
template <typename Kernel, typename Task, typename... Args>
__attribute__((target("avx2,fma"))) void run_avx2(const Task& task, Args... args) {
  by_share<Kernel>(task, args...);
}
#endif

enum class Capability { portable, avx2 };

inline const char* name(Capability capability) {
  return capability == Capability::avx2 ? "avx2" : "portable";
}

// The best instruction set of this machine that the kernels are compiled for.
inline Capability capability() {
#ifdef MMATM_AVX2
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Capability::avx2;
#endif
  return Capability::portable;
}

template <typename T>
struct Kernels {
  void (*forward)(const ForwardTask<T>&, int64_t begin, int64_t end, Real<T>* totals);
  void (*backward_rows)(const BackwardTask<T>&, int64_t begin, int64_t end);
  void (*backward_columns)(const BackwardTask<T>&, int64_t begin, int64_t end);
};

template <typename T>
Kernels<T> kernels(Capability capability) {
#ifdef MMATM_AVX2
  if (capability == Capability::avx2) {
    return {run_avx2<Forward>, run_avx2<BackwardRows>, run_avx2<BackwardColumns>};
  }
#endif
  return {run_portable<Forward>, run_portable<BackwardRows>, run_portable<BackwardColumns>};
}

}  // namespace mmatm
