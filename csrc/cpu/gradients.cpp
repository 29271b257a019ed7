#include <algorithm>

#include "matching.h"
#include "scratch.h"

namespace emergence_ext::cpu {
namespace {

template <typename scalar>
void copy_rows(const scalar* from, int64_t from_stride, scalar* to, int64_t to_stride,
               int64_t count, int64_t width) {
  for (int64_t x = 0; x < count; ++x)
    for (int64_t k = 0; k < width; ++k) to[x * to_stride + k] = from[x * from_stride + k];
}

// Scratch of one thread and the gradients of scored images. A block of conditioning images is
// loaded, some columns of it, then added to one scored image after another.
template <typename scalar>
class ScoredTask {
 public:
  // G and `matches` begin with the conditioning image `first`.
  ScoredTask(const Problem<scalar>& problem, const Gradients<scalar>& gradients, int64_t first,
             const scalar* G, Matches matches)
      : p(problem),
        out(gradients),
        first(first),
        G(G),
        matches(matches),
        narrow(p.D() <= kNarrow),
        stride(scratch_stride(p)),
        other(scratch<scalar>(images_at_once(p) * p.S() * stride)),
        rows(scratch<scalar>(p.R() * stride)),
        sums(scratch<scalar>(narrow && out.dq ? p.R() * stride : 0)) {
    g.d_stride = stride;
    g.S = p.S();
    g.compact = matches.size == 1;
  }

  // Columns [k_, k_ + width_) of conditioning images [i0_, i0_ + n_).
  void load(int64_t i0_, int64_t n_, int64_t k_, int64_t width_) {
    i0 = i0_;
    n = n_;
    k = k_;
    width = width_;
    const int64_t image = p.S() * stride;
    for (int64_t x = 0; x < n; ++x) {
      scalar* const to = other.get() + x * image;
      const int64_t S = p.d.length(i0 + x);
      if (S > 0)
        p.d.copy(p.d.start(i0 + x), S, k, width, to, stride);
      else  // its first row is read all the same, and weighs nothing
        std::fill_n(to, stride, scalar(0));
    }
    std::fill(other.get() + n * image, other.get() + groups() * kGroup * image, scalar(0));
    g.width = static_cast<int>(narrow ? stride : width);
  }

  // What they give to scored image j.
  void add(int64_t j) {
    g.R = p.q.length(j);
    if (g.R == 0) return;
    g.a = p.weights(j);
    g.da = out.da ? out.da + j * p.R() : nullptr;
    if (narrow)
      begin_narrow(j);
    else
      begin_wide(j);
    for (int64_t group = 0; group < groups(); ++group) add_group(group, j);
    if (narrow) end_narrow(j);
  }

 private:
  int64_t groups() const { return ceil_div(n, kGroup); }

  // Narrow rows are copied, filled up to whole registers. So are v and dv, of which whole registers
  // would reach into the next image, and past the last.
  void begin_narrow(int64_t j) {
    const int64_t D = p.D();
    p.q.copy(p.q.start(j), g.R, 0, D, rows.get(), stride);
    if (out.dq) copy_rows(out.dq + j * p.R() * D, D, sums.get(), stride, g.R, D);
    if (p.v) std::copy_n(p.v + j * D, D, v);
    if (out.dv) std::copy_n(out.dv + j * D, D, dv);
    g.q = rows.get();
    g.dq = out.dq ? sums.get() : nullptr;
    g.q_stride = g.dq_stride = stride;
    g.v = p.v ? v : nullptr;
    g.dv = out.dv ? dv : nullptr;
  }

  void end_narrow(int64_t j) {
    const int64_t D = p.D();
    if (out.dq) copy_rows(sums.get(), stride, out.dq + j * p.R() * D, D, g.R, D);
    if (out.dv) std::copy_n(dv, D, out.dv + j * D);
  }

  void begin_wide(int64_t j) {
    const int64_t D = p.D();
    const Rows<scalar> q = p.q.template read<scalar>(p.q.start(j), g.R, k, width, rows.get());
    g.q = q.data;
    g.q_stride = q.stride;
    g.dq = out.dq ? out.dq + j * p.R() * D + k : nullptr;
    g.dq_stride = D;
    g.v = p.v ? p.v + j * D + k : nullptr;
    g.dv = out.dv ? out.dv + j * D + k : nullptr;
  }

  // A group that is not full is filled up with images that weigh nothing, as do those without
  // regions.
  void add_group(int64_t group, int64_t j) {
    g.d = other.get() + group * kGroup * p.S() * stride;
    for (int64_t x = 0; x < kGroup; ++x) {
      const int64_t i = group * kGroup + x;
      const int64_t pair = (i0 - first + std::min(i, n - 1)) * p.N() + j;
      const bool matched = i < n && p.d.length(i0 + i) > 0;
      g.G[x] = matched ? G + pair : &nothing;
      g.argmax[x] = matches.data + pair * p.R() * matches.size;
    }
    p.kernels->scored_gradient(g);
  }

  const Problem<scalar>& p;
  const Gradients<scalar>& out;
  const int64_t first;
  const scalar* const G;
  const Matches matches;
  const bool narrow;
  const int64_t stride;
  const std::unique_ptr<scalar[]> other, rows, sums;
  const scalar nothing = 0;
  scalar v[kNarrow] = {}, dv[kNarrow] = {};
  ScoredGradient<scalar> g{};
  int64_t i0 = 0, n = 0, k = 0, width = 0;  // what is loaded
};

template <typename scalar>
void add_scored(const Problem<scalar>& p, int64_t first, int64_t last, const scalar* G,
                Matches matches, const Gradients<scalar>& out) {
  const int64_t columns = columns_at_once(p), images = images_at_once(p);
  torch::stable::parallel_for(0, p.N(), 1, [&](int64_t j0, int64_t j1) {
    ScoredTask<scalar> task(p, out, first, G, matches);
    for (int64_t i0 = first; i0 < last; i0 += images)
      for (int64_t k = 0; k < p.D(); k += columns) {
        task.load(i0, std::min(images, last - i0), k, std::min(columns, p.D() - k));
        for (int64_t j = j0; j < j1; ++j) task.add(j);
      }
  });
}

// Scratch of one thread and the gradients of conditioning images, a group of them at a time.
template <typename scalar>
class ConditioningTask {
 public:
  // G and `matches` begin with the conditioning image `first`.
  ConditioningTask(const Problem<scalar>& problem, int64_t group, int64_t first, const scalar* G,
                   Matches matches)
      : p(problem),
        first(first),
        G(G),
        matches(matches),
        narrow(p.D() <= kNarrow),
        stride(scratch_stride(p)),
        sums(scratch<scalar>(group * p.S() * stride)),
        rows(scratch<scalar>(p.R() * stride)) {
    g.dd_stride = stride;
    g.S = p.S();
    g.compact = matches.size == 1;
  }

  // Columns [k, k + width) of images [i0, i0 + n), added to dd: goes on from what is there, scored
  // images in ascending order, so that it does not matter in which call one came.
  void run(int64_t i0, int64_t n, int64_t k, int64_t width, scalar* dd) {
    const int64_t S = p.S(), D = p.D();
    std::fill_n(sums.get(), n * S * stride, scalar(0));
    copy_rows(dd + i0 * S * D + k, D, sums.get(), stride, n * S, width);
    g.width = static_cast<int>(narrow ? stride : width);
    g.n = narrow ? static_cast<int>(n) : 1;  // wide rows: one table at a time in a cache
    for (int64_t j = 0; j < p.N(); ++j) {
      g.R = p.q.length(j);
      if (g.R == 0) continue;
      read_scored(j, k, width);
      for (int64_t i = 0; i < n; i += g.n) add(i0, i, j);
    }
    copy_rows(sums.get(), stride, dd + i0 * S * D + k, D, n * S, width);
  }

 private:
  void read_scored(int64_t j, int64_t k, int64_t width) {
    // Narrow rows are filled up to whole registers, which loads them many times faster.
    Rows<scalar> q{rows.get(), stride};
    if (narrow)
      p.q.copy(p.q.start(j), g.R, k, width, rows.get(), stride);
    else
      q = p.q.template read<scalar>(p.q.start(j), g.R, k, width, rows.get());
    g.a = p.weights(j);
    g.q = q.data;
    g.q_stride = q.stride;
  }

  // To g.n images, from i0 + i on.
  void add(int64_t i0, int64_t i, int64_t j) {
    g.dd = sums.get() + i * p.S() * stride;
    for (int x = 0; x < g.n; ++x) {
      const int64_t pair = (i0 - first + i + x) * p.N() + j;
      g.G[x] = p.d.length(i0 + i + x) > 0 ? G + pair : &nothing;
      g.argmax[x] = matches.data + pair * p.R() * matches.size;
    }
    p.kernels->conditioning_gradient(g);
  }

  const Problem<scalar>& p;
  const int64_t first;
  const scalar* const G;
  const Matches matches;
  const bool narrow;
  const int64_t stride;
  const std::unique_ptr<scalar[]> sums, rows;
  const scalar nothing = 0;
  ConditioningGradient<scalar> g{};
};

template <typename scalar>
void add_conditioning(const Problem<scalar>& p, int64_t first, int64_t last, const scalar* G,
                      Matches matches, scalar* dd) {
  const int64_t columns = columns_at_once(p);
  const int64_t group = std::clamp<int64_t>((last - first) / threads(), 1, kGroup);
  torch::stable::parallel_for(0, ceil_div(last - first, group), 1, [&](int64_t g0, int64_t g1) {
    ConditioningTask<scalar> task(p, group, first, G, matches);
    for (int64_t i0 = first + g0 * group; i0 < std::min(last, first + g1 * group); i0 += group)
      for (int64_t k = 0; k < p.D(); k += columns)
        task.run(i0, std::min(group, last - i0), k, std::min(columns, p.D() - k), dd);
  });
}

}  // namespace

template <typename scalar>
void add_gradients(const Problem<scalar>& p, int64_t first, int64_t last, const scalar* G,
                   Matches matches, const Gradients<scalar>& out) {
  if (first == last || p.R() == 0) return;
  if (out.dq || out.da || out.dv) add_scored(p, first, last, G, matches, out);
  if (out.dd) add_conditioning(p, first, last, G, matches, out.dd);
}

template void add_gradients(const Problem<float>&, int64_t, int64_t, const float*, Matches,
                            const Gradients<float>&);
template void add_gradients(const Problem<double>&, int64_t, int64_t, const double*, Matches,
                            const Gradients<double>&);

}  // namespace emergence_ext::cpu
