#include "matching.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

namespace emergence_ext::cpu {
namespace {

constexpr int64_t kPackedBytes = 512 << 10;  // of scored rows at once: half of a usual L2 cache
constexpr int64_t kScoreBytes = 512 << 10;   // of maxima and places at once
constexpr int64_t kSlabRows = 1024;          // packed at once: narrow ones stay in an L1 cache
constexpr int64_t kMostRows = 2048, kFewestRows = 256;  // of a task; its last tile is part empty
constexpr int64_t kPairWidth = 64;  // where selecting by bfloat16 pairs begins to pay, 1.3 times
constexpr double kLeastProduct = 1e-24;  // far above 2^-126, so that few products are that small

int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }
int64_t round_up(int64_t x, int64_t y) { return ceil_div(x, y) * y; }

template <typename scalar>
std::unique_ptr<scalar[]> scratch(int64_t count) {
  return std::unique_ptr<scalar[]>(new scalar[std::max<int64_t>(count, 1)]);
}

// Magnitudes of floating-point numbers are in the order of their bits without the sign, infinity
// and NaN above all others; the maximum of integers is one that every compiler vectorises.
template <typename scalar, typename bits>
double largest_of(const Operand& x) {
  if (x.images == 0 || x.rows == 0) return 0;
  const bits found = at::parallel_reduce(
      0, x.images, ceil_div(1 << 16, x.rows * x.columns), bits(0),
      [&](int64_t first, int64_t last, bits largest) {
        const auto copied = scratch<scalar>(x.rows * x.columns);
        for (int64_t image = first; image < last; ++image) {
          const Rows<scalar> in =
              x.read<scalar>(image * x.rows, x.rows, 0, x.columns, copied.get());
          const bool flat = in.stride == x.columns;
          const int64_t runs = flat ? 1 : x.rows, length = flat ? x.rows * x.columns : x.columns;
          for (int64_t run = 0; run < runs; ++run)
            for (int64_t k = 0; k < length; ++k) {
              bits magnitude;
              std::memcpy(&magnitude, in.data + run * in.stride + k, sizeof(scalar));
              magnitude &= std::numeric_limits<bits>::max();
              largest = magnitude > largest ? magnitude : largest;
            }
        }
        return largest;
      },
      [](bits x, bits y) { return std::max(x, y); });
  scalar largest;
  std::memcpy(&largest, &found, sizeof(scalar));
  return largest;
}

// How the pairs of images are cut into tasks: results do not depend on it.
struct Cut {
  int64_t slab;    // rows packed at once
  int64_t images;  // scored images of a task
  int64_t others;  // conditioning images of a task
  int64_t padded;  // rows of a task, room for a whole tile at the end included
  int64_t tasks_j, tasks_i;
};

template <typename scalar>
Cut cut(const Problem<scalar>& p, int64_t count) {
  const int64_t tile = p.kernels->tile, R = std::max<int64_t>(1, p.R());
  Cut c;
  c.slab = std::min<int64_t>(kSlabRows, kPackedBytes / (p.D() * sizeof(scalar)));
  c.slab = std::max(tile, c.slab / tile * tile);
  // Many rows to a task waste little of the last tile, many tasks of one size even out between
  // threads. A task of fewer than eight conditioning images is hardly worth its packing.
  const int64_t N = std::max<int64_t>(1, p.N()), wanted = 8 * at::get_num_threads();
  const int64_t split_j = ceil_div(wanted, std::max<int64_t>(1, ceil_div(count, 8)));
  c.images = std::clamp<int64_t>(N / split_j, std::max<int64_t>(1, kFewestRows / R),
                                 std::max<int64_t>(1, kMostRows / R));
  c.images = ceil_div(N, ceil_div(N, c.images));
  c.padded = c.images * R + kLargestTile;
  c.tasks_j = ceil_div(N, c.images);
  const int64_t most = std::clamp<int64_t>(kScoreBytes / (2 * sizeof(scalar) * c.padded), 1, 64);
  const int64_t split_i = ceil_div(wanted, c.tasks_j);
  c.others = std::clamp<int64_t>(ceil_div(count, split_i), std::min<int64_t>(8, most), most);
  c.tasks_i = std::max<int64_t>(1, ceil_div(count, c.others));
  c.others = ceil_div(std::max<int64_t>(1, count), c.tasks_i);
  return c;
}

template <typename scalar>
int64_t match_scratch(const Problem<scalar>& p, const Cut& c) {
  const int64_t copied = p.v || p.pairs || !p.q.template in_place<scalar>() ? c.slab * p.D() : 0;
  const int64_t other = p.d.template in_place<scalar>() ? 0 : p.S() * p.D();
  const int64_t pairs = p.pairs ? (c.slab + p.S()) * ceil_div(p.D(), 2) : 0;
  const int64_t packed = p.pairs ? 0 : c.slab * p.D();
  return sizeof(scalar) * (copied + other + packed + 2 * c.others * c.padded) + 4 * pairs;
}

// Scratch of one thread and the task that uses it.
template <typename scalar>
class MatchTask {
 public:
  MatchTask(const Problem<scalar>& problem, const Cut& cut)
      : p(problem),
        c(cut),
        rows(scratch<scalar>(c.slab * p.D())),
        packed(scratch<scalar>(p.pairs ? 0 : c.slab * p.D())),
        other(scratch<scalar>(p.d.template in_place<scalar>() ? 0 : p.S() * p.D())),
        row_pairs(scratch<uint32_t>(p.pairs ? c.slab * ceil_div(p.D(), 2) : 0)),
        other_pairs(scratch<uint32_t>(p.pairs ? p.S() * ceil_div(p.D(), 2) : 0)),
        value(scratch<scalar>(c.others * c.padded)),
        place(scratch<scalar>(c.others * c.padded)) {}

  // Scored images [j0, j1) against conditioning images [i0, i1); results start at image `first`.
  void run(int64_t j0, int64_t j1, int64_t i0, int64_t i1, int64_t first, scalar* T,
           Matches matches) {
    const int64_t R = p.R(), N = p.N(), all = (j1 - j0) * R;
    for (int64_t x = 0; x < all; x += c.slab) {
      const int64_t n = std::min(c.slab, all - x);
      const Rows<scalar> q = p.q.template read<scalar>(j0 * R + x, n, 0, p.D(), rows.get(), p.v);
      pack(q, n);
      for (int64_t i = i0; i < i1; ++i)
        match(i, q, n, value.get() + (i - i0) * c.padded + x,
              place.get() + (i - i0) * c.padded + x);
    }
    for (int64_t i = i0; i < i1; ++i) {
      const scalar* best = value.get() + (i - i0) * c.padded;
      for (int64_t j = j0; j < j1; ++j)
        T[(i - first) * N + j] = p.kernels->dot(p.a + j * R, best + (j - j0) * R, R);
      if (matches.data)
        p.kernels->store_places(place.get() + (i - i0) * c.padded, all,
                                matches.data + ((i - first) * N + j0) * R * matches.size,
                                matches.size);
    }
  }

 private:
  void pack(const Rows<scalar>& q, int64_t n) {
    if constexpr (std::is_same_v<scalar, float>)
      if (p.pairs) return p.pairs->pack(q.data, q.stride, n, p.D(), row_pairs.get());
    p.kernels->pack(q.data, q.stride, n, p.D(), packed.get());
  }

  void match(int64_t i, const Rows<scalar>& q, int64_t n, scalar* best, scalar* where) {
    const int64_t S = p.S(), D = p.D();
    const Rows<scalar> d = p.d.template read<scalar>(i * S, S, 0, D, other.get());
    if constexpr (std::is_same_v<scalar, float>)
      if (p.pairs) {
        p.pairs->round_rows(d.data, d.stride, S, D, other_pairs.get());
        p.pairs->match(row_pairs.get(), n, other_pairs.get(), S, D, best, where);
        // The winner's own product in float32, so that T and its gradient are of the same match.
        for (int64_t r = 0; r < n; ++r)
          best[r] = p.kernels->dot(q.data + r * q.stride,
                                   d.data + static_cast<int64_t>(where[r]) * d.stride, D);
        return;
      }
    p.kernels->match(packed.get(), n, d.data, d.stride, S, D, best, where);
  }

  const Problem<scalar>& p;
  const Cut& c;
  std::unique_ptr<scalar[]> rows, packed, other;
  std::unique_ptr<uint32_t[]> row_pairs, other_pairs;
  std::unique_ptr<scalar[]> value, place;
};

template <typename scalar>
int64_t columns_at_once(const Problem<scalar>& p) {
  return p.D() <= kNarrow ? p.D() : std::min<int64_t>(p.D(), p.kernels->columns);
}

// The stride of a scratch row: narrow rows of whole narrow registers, others of whole wide ones.
template <typename scalar>
int64_t scratch_stride(const Problem<scalar>& p) {
  const int64_t narrow = 16 / sizeof(scalar);
  return round_up(columns_at_once(p), p.D() <= kNarrow ? narrow : p.kernels->lanes);
}

template <typename scalar>
void copy_rows(const scalar* from, int64_t from_stride, scalar* to, int64_t to_stride,
               int64_t count, int64_t width) {
  for (int64_t x = 0; x < count; ++x)
    for (int64_t k = 0; k < width; ++k) to[x * to_stride + k] = from[x * from_stride + k];
}

// Images whose gradients are formed while one scored image is at hand: whole groups.
template <typename scalar>
int64_t images_at_once(const Problem<scalar>& p) {
  return p.D() <= kNarrow ? 8 * kGroup : kGroup;
}

template <typename scalar>
void add_scored(const Problem<scalar>& p, int64_t first, int64_t last, const scalar* G,
                Matches matches, const Gradients<scalar>& out) {
  const int64_t N = p.N(), R = p.R(), S = p.S(), D = p.D();
  const int64_t columns = columns_at_once(p), stride = scratch_stride(p);
  const bool narrow = D <= kNarrow;
  const scalar nothing = 0;
  at::parallel_for(0, N, 1, [&](int64_t j0, int64_t j1) {
    const auto other = scratch<scalar>(images_at_once(p) * S * stride);
    const auto rows = scratch<scalar>(R * stride);
    const auto sums = scratch<scalar>(narrow && out.dq ? R * stride : 0);
    scalar v[kNarrow] = {}, dv[kNarrow] = {};
    ScoredGradient<scalar> g{};
    g.d_stride = stride, g.S = S, g.R = R;
    g.compact = matches.size == 1;
    for (int64_t i0 = first; i0 < last; i0 += images_at_once(p))
      for (int64_t k = 0; k < D; k += columns) {
        const int64_t width = std::min(columns, D - k), n = std::min(images_at_once(p), last - i0);
        const int64_t groups = ceil_div(n, kGroup);
        p.d.copy(i0 * S, n * S, k, width, other.get(), stride);
        std::fill(other.get() + n * S * stride, other.get() + groups * kGroup * S * stride,
                  scalar(0));
        g.width = static_cast<int>(narrow ? stride : width);
        for (int64_t j = j0; j < j1; ++j) {
          g.a = p.a + j * R;
          g.v = p.v ? p.v + j * D + k : nullptr;
          g.da = out.da ? out.da + j * R : nullptr;
          g.dv = out.dv ? out.dv + j * D + k : nullptr;
          if (narrow) {
            p.q.copy(j * R, R, k, width, rows.get(), stride);
            g.q = rows.get(), g.q_stride = g.dq_stride = stride;
            g.dq = out.dq ? sums.get() : nullptr;
            if (out.dq) copy_rows(out.dq + j * R * D, D, sums.get(), stride, R, D);
            // Whole registers of v and dv would reach into the next image, and past the last.
            if (p.v) std::copy_n(p.v + j * D, D, v), g.v = v;
            if (out.dv) std::copy_n(out.dv + j * D, D, dv), g.dv = dv;
          } else {
            const Rows<scalar> q = p.q.template read<scalar>(j * R, R, k, width, rows.get());
            g.q = q.data, g.q_stride = q.stride;
            g.dq = out.dq ? out.dq + j * R * D + k : nullptr, g.dq_stride = D;
          }
          for (int64_t group = 0; group < groups; ++group) {
            g.d = other.get() + group * kGroup * S * stride;
            for (int64_t x = 0; x < kGroup; ++x) {
              // A group that is not full is filled up with images that weigh nothing.
              const int64_t i = group * kGroup + x;
              const int64_t pair = (i0 - first + std::min(i, n - 1)) * N + j;
              g.G[x] = i < n ? G + pair : &nothing;
              g.argmax[x] = matches.data + pair * R * matches.size;
            }
            p.kernels->scored_gradient(g);
          }
          if (narrow && out.dq) copy_rows(sums.get(), stride, out.dq + j * R * D, D, R, D);
          if (narrow && out.dv) std::copy_n(dv, D, out.dv + j * D);
        }
      }
  });
}

template <typename scalar>
void add_conditioning(const Problem<scalar>& p, int64_t first, int64_t last, const scalar* G,
                      Matches matches, scalar* dd) {
  const int64_t N = p.N(), R = p.R(), S = p.S(), D = p.D();
  const int64_t columns = columns_at_once(p), stride = scratch_stride(p);
  const int64_t group = std::clamp<int64_t>((last - first) / at::get_num_threads(), 1, kGroup);
  const bool narrow = D <= kNarrow;
  at::parallel_for(0, ceil_div(last - first, group), 1, [&](int64_t g0, int64_t g1) {
    const auto sums = scratch<scalar>(group * S * stride);
    const auto rows = scratch<scalar>(R * stride);
    ConditioningGradient<scalar> g{};
    g.dd_stride = stride, g.S = S, g.R = R;
    g.compact = matches.size == 1;
    for (int64_t i0 = first + g0 * group; i0 < std::min(last, first + g1 * group); i0 += group)
      for (int64_t k = 0; k < D; k += columns) {
        const int64_t n = std::min(group, last - i0), width = std::min(columns, D - k);
        std::fill_n(sums.get(), n * S * stride, scalar(0));
        g.width = static_cast<int>(narrow ? stride : width);
        for (int64_t j = 0; j < N; ++j) {
          // Narrow rows are filled up to whole registers, which loads them many times faster.
          Rows<scalar> q{rows.get(), stride};
          if (narrow)
            p.q.copy(j * R, R, k, width, rows.get(), stride);
          else
            q = p.q.template read<scalar>(j * R, R, k, width, rows.get());
          g.a = p.a + j * R, g.q = q.data, g.q_stride = q.stride;
          for (int64_t i = 0; i < n; i += g.n) {
            g.dd = sums.get() + i * S * stride;
            g.n = narrow ? static_cast<int>(n) : 1;  // wide rows: one table at a time in a cache
            for (int x = 0; x < g.n; ++x) {
              const int64_t pair = (i0 - first + i + x) * N + j;
              g.G[x] = G + pair;
              g.argmax[x] = matches.data + pair * R * matches.size;
            }
            p.kernels->conditioning_gradient(g);
          }
        }
        copy_rows(sums.get(), stride, dd + i0 * S * D + k, D, n * S, width);
      }
  });
}

}  // namespace

double largest_magnitude(const Operand& x) {
  return x.type() == at::kDouble ? largest_of<double, int64_t>(x) : largest_of<float, int32_t>(x);
}

template <typename scalar>
void choose_kernels(Problem<scalar>& p, const std::string& precision, double largest_q,
                    double largest_d) {
  if constexpr (std::is_same_v<scalar, double>) {
    p.kernels = &generic_float64;
  } else {
    constexpr double limit = std::numeric_limits<float>::max() / 4;
    const bool safe = largest_q * largest_d * static_cast<double>(p.D()) < limit &&
                      std::max(largest_q, largest_d) < limit;
    p.kernels = safe ? level().float32 : &generic_float32;
    // Products of bfloat16 inputs are exact; of other inputs they are what "medium" allows.
    const bool exact = p.q.type() == at::kBFloat16 && !p.v;
    const bool wanted = exact || precision == "medium";
    // Products of pairs that float32 holds as subnormal numbers are taken for zero.
    const bool normal = largest_q * largest_d > kLeastProduct;
    if (safe && normal && wanted && p.D() >= kPairWidth) p.pairs = level().pairs;
  }
}

template <typename scalar>
void match_images(const Problem<scalar>& p, int64_t first, int64_t last, scalar* T,
                  Matches matches) {
  if (first == last || p.N() == 0) return;
  const Cut c = cut(p, last - first);
  at::parallel_for(0, c.tasks_j * c.tasks_i, 1, [&](int64_t t0, int64_t t1) {
    MatchTask<scalar> task(p, c);
    for (int64_t t = t0; t < t1; ++t) {
      const int64_t j0 = t / c.tasks_i * c.images, i0 = first + t % c.tasks_i * c.others;
      task.run(j0, std::min(p.N(), j0 + c.images), i0, std::min(last, i0 + c.others), first, T,
               matches);
    }
  });
}

template <typename scalar>
void add_gradients(const Problem<scalar>& p, int64_t first, int64_t last, const scalar* G,
                   Matches matches, const Gradients<scalar>& out) {
  if (first == last || p.R() == 0) return;
  if (out.dq || out.da || out.dv) add_scored(p, first, last, G, matches, out);
  if (out.dd) add_conditioning(p, first, last, G, matches, out.dd);
}

template <typename scalar>
int64_t scratch_bytes(const Problem<scalar>& p, bool gradients) {
  const int64_t forward = match_scratch(p, cut(p, 64));
  const int64_t backward =
      gradients ? sizeof(scalar) * (images_at_once(p) * p.S() + 2 * p.R()) * scratch_stride(p) : 0;
  return at::get_num_threads() * std::max(forward, backward);
}

#define EMERGENCE_INSTANTIATE(scalar)                                                           \
  template void choose_kernels(Problem<scalar>&, const std::string&, double, double);           \
  template void match_images(const Problem<scalar>&, int64_t, int64_t, scalar*, Matches);       \
  template void add_gradients(const Problem<scalar>&, int64_t, int64_t, const scalar*, Matches, \
                              const Gradients<scalar>&);                                        \
  template int64_t scratch_bytes(const Problem<scalar>&, bool);
EMERGENCE_INSTANTIATE(float)
EMERGENCE_INSTANTIATE(double)
#undef EMERGENCE_INSTANTIATE

}  // namespace emergence_ext::cpu
