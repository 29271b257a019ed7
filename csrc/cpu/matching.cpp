#include "matching.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <type_traits>
#include <vector>

#include "scratch.h"

namespace emergence_ext::cpu {
namespace {

constexpr int64_t kPackedBytes = 512 << 10;  // of scored rows at once: half of a usual L2 cache
constexpr int64_t kScoreBytes = 512 << 10;   // of maxima and places at once
constexpr int64_t kSlabRows = 1024;          // packed at once: narrow ones stay in an L1 cache
constexpr int64_t kMostRows = 2048, kFewestRows = 256;  // of a task; its last tile is part empty
constexpr int64_t kPairWidth = 64;  // where selecting by bfloat16 pairs begins to pay, 1.3 times
constexpr int64_t kMostBytes = 1 << 16;  // columns whose sums of bytes fit int32
constexpr int64_t kPairWork = 1 << 20;   // multiply-adds that are worth a thread
constexpr double kLeastProduct = 1e-24;  // far above 2^-126, so that few products are that small

// NaN stays.
template <typename scalar>
scalar larger(scalar x, scalar y) {
  return x != x || x > y ? x : y;
}

template <typename scalar>
double largest_of(const Operand& x, const Kernels<scalar>& kernels) {
  if (x.images == 0 || x.rows == 0) return 0;
  scalar largest = 0;
  std::mutex lock;
  const int64_t worth_a_thread = ceil_div(1 << 16, x.rows * x.columns);
  torch::stable::parallel_for(0, x.images, worth_a_thread, [&](int64_t first, int64_t last) {
    const auto copied = scratch<scalar>(x.rows * x.columns);
    scalar seen = 0;
    for (int64_t image = first; image < last; ++image) {
      const int64_t rows = x.length(image);
      if (rows == 0) continue;
      const Rows<scalar> in = x.read<scalar>(x.start(image), rows, 0, x.columns, copied.get());
      seen = larger(seen, kernels.largest(in.data, in.stride, rows, x.columns));
    }
    const std::lock_guard<std::mutex> alone(lock);
    largest = larger(largest, seen);
  });
  return largest;
}

// How the pairs of images are cut into tasks: results do not depend on it.
struct Cut {
  int64_t slab;               // rows packed at once
  int64_t others;             // the most conditioning images of a task
  int64_t padded;             // the most rows of a task, room for a whole tile at the end included
  std::vector<int64_t> j, i;  // bounds of tasks: scored images, conditioning ones

  int64_t tasks_i() const { return static_cast<int64_t>(i.size()) - 1; }
  int64_t tasks() const { return (static_cast<int64_t>(j.size()) - 1) * tasks_i(); }
};

// Bounds of about so many tasks of as many rows each as whole images allow, and of at most `most`
// images.
std::vector<int64_t> bounds(const Operand& x, int64_t first, int64_t last, int64_t tasks,
                            int64_t most) {
  std::vector<int64_t> found{first};
  const int64_t begin = x.start(first), rows = x.start(last) - begin;
  for (int64_t image = first; image < last;) {
    // Full images: all tasks of one size but the last.
    int64_t past = image + ceil_div(last - first, tasks);
    if (x.ragged()) {
      const int64_t passed = x.start(image) - begin;
      const int64_t aim = (passed * tasks / std::max<int64_t>(1, rows) + 1) * rows / tasks;
      for (past = image + 1; past < last && x.start(past) - begin < aim;) ++past;
    }
    image = std::min({past, image + most, last});
    found.push_back(image);
  }
  return found;
}

// Scored rows that are packed at once: whole tiles.
template <typename scalar>
int64_t slab_rows(const Problem<scalar>& p) {
  const int64_t tile = p.kernels->tile;
  const int64_t rows = std::min<int64_t>(kSlabRows, kPackedBytes / (p.D() * sizeof(scalar)));
  return std::max(tile, rows / tile * tile);
}

// Of conditioning images [first, last).
template <typename scalar>
Cut cut(const Problem<scalar>& p, int64_t first, int64_t last) {
  const int64_t count = last - first;
  const int64_t N = std::max<int64_t>(1, p.N());
  const int64_t R = std::max<int64_t>(1, ceil_div(p.q.start(p.N()), N));
  Cut c;
  c.slab = slab_rows(p);
  // Many rows to a task waste little of the last tile, many tasks of one size even out between
  // threads. A task of fewer than eight conditioning images is hardly worth its packing.
  const int64_t wanted = 8 * threads();
  const int64_t split_j = ceil_div(wanted, std::max<int64_t>(1, ceil_div(count, 8)));
  const int64_t images = std::clamp<int64_t>(N / split_j, std::max<int64_t>(1, kFewestRows / R),
                                             std::max<int64_t>(1, kMostRows / R));
  const int64_t tasks_j = ceil_div(N, images);
  c.j = bounds(p.q, 0, p.N(), tasks_j, p.N());
  c.padded = 0;
  for (size_t t = 0; t + 1 < c.j.size(); ++t)
    c.padded = std::max(c.padded, p.q.start(c.j[t + 1]) - p.q.start(c.j[t]));
  c.padded += kLargestTile;
  const int64_t most = std::clamp<int64_t>(kScoreBytes / (2 * sizeof(scalar) * c.padded), 1, 64);
  const int64_t split_i = ceil_div(wanted, tasks_j);
  c.others = std::clamp<int64_t>(ceil_div(count, split_i), std::min<int64_t>(8, most), most);
  const int64_t tasks_i = std::max<int64_t>(1, ceil_div(count, c.others));
  c.others = p.d.ragged() ? most : ceil_div(std::max<int64_t>(1, count), tasks_i);
  c.i = bounds(p.d, first, last, tasks_i, c.others);
  return c;
}

// Numbers of d that a thread copies into the type of the arithmetic; words that screening takes.
template <typename scalar>
int64_t copied_d(const Problem<scalar>& p) {
  return p.stored || p.d.template in_place<scalar>() ? 0 : p.S() * p.D();
}
template <typename scalar>
int64_t packed_words(const Problem<scalar>& p, const Cut& c) {
  return p.screen ? c.slab * p.screen->packed_words(p.D()) : 0;
}
template <typename scalar>
int64_t other_words(const Problem<scalar>& p) {
  return p.screen ? p.S() * p.screen->words(p.D()) : 0;
}

template <typename scalar>
int64_t match_scratch(const Problem<scalar>& p, const Cut& c) {
  const int64_t copied = p.v || p.screen || !p.q.template in_place<scalar>() ? c.slab * p.D() : 0;
  const int64_t packed = p.screen ? 0 : c.slab * p.D();
  return sizeof(scalar) * (copied + copied_d(p) + packed + 2 * c.others * c.padded) +
         sizeof(uint32_t) * (packed_words(p, c) + other_words(p));
}

// Scratch of one thread and the task that uses it.
template <typename scalar>
class MatchTask {
 public:
  // `look`: whether to find the largest magnitude in d.
  MatchTask(const Problem<scalar>& problem, const Cut& cut, bool look)
      : p(problem),
        c(cut),
        look(look),
        rows(scratch<scalar>(c.slab * p.D())),
        packed(scratch<scalar>(p.screen ? 0 : c.slab * p.D())),
        other(scratch<scalar>(copied_d(p))),
        row_words(scratch<uint32_t>(packed_words(p, c))),
        words(scratch<uint32_t>(other_words(p))),
        value(scratch<scalar>(c.others * c.padded)),
        place(scratch<scalar>(c.others * c.padded)) {}

  // Scored images [j0, j1) against conditioning images [i0, i1); results start at image `first`.
  void run(int64_t j0, int64_t j1, int64_t i0, int64_t i1, int64_t first, scalar* T,
           Matches matches) {
    const int64_t begin = p.q.start(j0), all = p.q.start(j1) - begin;
    looks = look && begin == 0;  // once is enough: where the first scored rows are
    for (int64_t x = 0; x < all; x += c.slab) {
      const int64_t n = std::min(c.slab, all - x);
      pack(begin + x, n);
      for (int64_t i = i0; i < i1; ++i)
        if (p.d.length(i) > 0)
          match(i, n, value.get() + (i - i0) * c.padded + x, place.get() + (i - i0) * c.padded + x);
      looks = false;
    }
    for (int64_t i = i0; i < i1; ++i) {
      const int64_t pair = (i - first) * p.N() + j0, at = (i - i0) * c.padded;
      char* const argmax = matches.data ? matches.data + pair * p.R() * matches.size : nullptr;
      if (p.q.ragged() || p.d.length(i) == 0) {
        finish_ragged(j0, j1, p.d.length(i) == 0, at, T + pair, argmax, matches.size);
        continue;
      }
      for (int64_t j = j0; j < j1; ++j)
        T[pair + j - j0] = p.kernels->dot(p.weights(j), value.get() + at + (j - j0) * p.R(), p.R());
      if (argmax) p.kernels->store_places(place.get() + at, all, argmax, matches.size);
    }
  }

  // The score of one pair.
  scalar score(int64_t j, int64_t i) {
    looks = look;
    const int64_t R = p.q.length(j), S = p.d.length(i);
    for (int64_t x = 0; x < R; x += c.slab) {
      const int64_t n = std::min(c.slab, R - x);
      if (j != packed_image || R > c.slab) pack(p.q.start(j) + x, n);
      if (S > 0) match(i, n, value.get() + x, place.get() + x);
    }
    packed_image = j;
    return S > 0 ? p.kernels->dot(p.weights(j), value.get(), R) : p.empty;
  }

  scalar largest = 0;  // magnitude of what was looked at of d

 private:
  // Scores and matches of images of different lengths, or with an image that has no regions.
  void finish_ragged(int64_t j0, int64_t j1, bool empty, int64_t at, scalar* T, char* argmax,
                     int size) {
    for (int64_t j = j0; j < j1; ++j) {
      const int64_t row = at + p.q.start(j) - p.q.start(j0), R = empty ? 0 : p.q.length(j);
      T[j - j0] = empty ? p.empty : p.kernels->dot(p.weights(j), value.get() + row, R);
      if (!argmax) continue;
      char* const of_image = argmax + (j - j0) * p.R() * size;
      p.kernels->store_places(place.get() + row, R, of_image, size);
      std::memset(of_image + R * size, 0, (p.R() - R) * size);
    }
  }

  // `n` scored rows from `first` on.
  void pack(int64_t first, int64_t n) {
    q = p.q.template read<scalar>(first, n, 0, p.D(), rows.get(), p.v);
    if constexpr (std::is_same_v<scalar, float>)
      if (p.screen) return p.screen->pack(q.data, q.stride, n, p.D(), row_words.get());
    p.kernels->pack(q.data, q.stride, n, p.D(), packed.get());
  }

  void match(int64_t i, int64_t n, scalar* best, scalar* where) {
    const int64_t S = p.d.length(i), D = p.D();
    if constexpr (std::is_same_v<scalar, float>)
      if (p.stored) return match_stored(p.d.start(i), S, n, best, where);
    const Rows<scalar> d = candidates(p.d.start(i), S);
    if (looks) largest = larger(largest, p.kernels->largest(d.data, d.stride, S, D));
    if constexpr (std::is_same_v<scalar, float>)
      if (p.screen) {
        p.screen->round_rows(d.data, d.stride, S, D, words.get());
        p.screen->match(row_words.get(), n, words.get(), nullptr, S, D, best, where);
        // The winner's own product in float32, so that T and its gradient are of the same match.
        for (int64_t r = 0; r < n; ++r)
          best[r] = p.kernels->dot(q.data + r * q.stride,
                                   d.data + static_cast<int64_t>(where[r]) * d.stride, D);
        return;
      }
    p.kernels->match(packed.get(), n, d.data, d.stride, S, D, best, where);
  }

  // Rows of d of one image in the type of the arithmetic.
  Rows<scalar> candidates(int64_t first, int64_t S) {
    if (p.kernels->widen && p.d.type() == kHalf && p.d.dense()) {
      p.kernels->widen(p.d.stored(first), S * p.D(), other.get());
      return {other.get(), p.D()};
    }
    return p.d.template read<scalar>(first, S, 0, p.D(), other.get());
  }

  // Candidates that screening takes as they are stored.
  void match_stored(int64_t first, int64_t S, int64_t n, float* best, float* where) {
    const int64_t D = p.D();
    const char* const rows = p.d.stored(first);
    const float* const scale = p.d.scale(first);
    if (looks) {
      float most = scale ? 0 : 1;
      for (int64_t s = 0; scale && s < S; ++s) most = larger(most, std::fabs(scale[s]));
      largest = larger(largest, most * p.screen->largest(rows, S, D));
    }
    const void* const candidates = p.screen->prepare(rows, S, D, words.get());
    p.screen->match(row_words.get(), n, candidates, scale, S, D, best, where);
    for (int64_t r = 0; r < n; ++r) {
      const auto s = static_cast<int64_t>(where[r]);
      best[r] = p.screen->dot(q.data + r * q.stride, rows + s * p.d.row_bytes(), D) *
                (scale ? scale[s] : 1);
    }
  }

  const Problem<scalar>& p;
  const Cut& c;
  const bool look;
  std::unique_ptr<scalar[]> rows, packed, other;
  std::unique_ptr<uint32_t[]> row_words, words;
  std::unique_ptr<scalar[]> value, place;
  Rows<scalar> q{};           // what is packed
  int64_t packed_image = -1;  // of the last pair
  bool looks = false;
};

// The magnitudes that threads saw.
template <typename scalar>
class Largest {
 public:
  explicit Largest(double* out) : out_(out) {
    if (out_) *out_ = 0;
  }
  void take(scalar seen) {
    if (!out_) return;
    const std::lock_guard<std::mutex> alone(lock_);
    *out_ = larger<double>(*out_, seen);
  }

 private:
  double* out_;
  std::mutex lock_;
};

}  // namespace

double largest_magnitude(const Operand& x) {
  return x.type() == kDouble ? largest_of(x, generic_float64) : largest_of(x, *level().float32);
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
    p.screen = nullptr;
    if (safe && p.d.type() == kChar) {
      if (precision == "medium" && p.D() <= kMostBytes) p.screen = level().bytes;
    } else if (safe && p.D() >= kPairWidth) {
      // Products of bfloat16 inputs are exact; of other inputs they are what "medium" allows.
      const bool exact = p.q.type() == kBFloat16 && p.d.type() == kBFloat16 && !p.v;
      // Products of pairs that float32 holds as subnormal numbers are taken for zero.
      const bool normal = largest_q * largest_d > kLeastProduct;
      if (normal && (exact || precision == "medium")) p.screen = level().pairs;
    }
    p.stored = p.screen && p.d.dense() && (p.d.type() == kChar || p.d.type() == kBFloat16);
  }
}

template <typename scalar>
void match_images(const Problem<scalar>& p, int64_t first, int64_t last, scalar* T, Matches matches,
                  double* largest) {
  Largest<scalar> seen(largest);
  if (first == last || p.N() == 0) return;
  const Cut c = cut(p, first, last);
  torch::stable::parallel_for(0, c.tasks(), 1, [&](int64_t t0, int64_t t1) {
    MatchTask<scalar> task(p, c, largest != nullptr);
    for (int64_t t = t0; t < t1; ++t) {
      const int64_t j = t / c.tasks_i(), i = t % c.tasks_i();
      task.run(c.j[j], c.j[j + 1], c.i[i], c.i[i + 1], first, T, matches);
    }
    seen.take(task.largest);
  });
}

template <typename scalar>
void match_pairs(const Problem<scalar>& p, const int64_t* pairs, int64_t count, scalar* T,
                 double* largest) {
  Largest<scalar> seen(largest);
  Cut c;
  c.slab = slab_rows(p);
  c.others = 1;
  c.padded = p.R() + kLargestTile;
  const int64_t work = std::max<int64_t>(1, p.R() * p.S() * p.D());
  torch::stable::parallel_for(0, count, std::max<int64_t>(1, kPairWork / work),
                              [&](int64_t x0, int64_t x1) {
                                MatchTask<scalar> task(p, c, largest != nullptr);
                                for (int64_t x = x0; x < x1; ++x)
                                  T[x] = task.score(pairs[2 * x], pairs[2 * x + 1]);
                                seen.take(task.largest);
                              });
}

template <typename scalar>
int64_t scratch_bytes(const Problem<scalar>& p, bool gradients) {
  const int64_t forward = match_scratch(p, cut(p, 0, std::min<int64_t>(64, p.d.images)));
  const int64_t backward =
      gradients ? sizeof(scalar) * (images_at_once(p) * p.S() + 2 * p.R()) * scratch_stride(p) : 0;
  return threads() * std::max(forward, backward);
}

#define EMERGENCE_INSTANTIATE(scalar)                                                              \
  template void choose_kernels(Problem<scalar>&, const std::string&, double, double);              \
  template void match_images(const Problem<scalar>&, int64_t, int64_t, scalar*, Matches, double*); \
  template void match_pairs(const Problem<scalar>&, const int64_t*, int64_t, scalar*, double*);    \
  template int64_t scratch_bytes(const Problem<scalar>&, bool);
EMERGENCE_INSTANTIATE(float)
EMERGENCE_INSTANTIATE(double)
#undef EMERGENCE_INSTANTIATE

}  // namespace emergence_ext::cpu
