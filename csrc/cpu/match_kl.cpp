#include "match_kl.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace emergence_ext::cpu {
namespace {

constexpr int64_t kBlockBytes = 32 << 20;  // of matches and scores when `max_memory` is not given

// KL of one row, in double; T becomes dKL/dT times `scale`. Entries of T lie `apart`; `terms` is
// scratch, [columns].
template <typename scalar>
double kl_row(scalar* T, int64_t apart, const scalar* b, const scalar* P, int64_t columns,
              int64_t excluded, double scale, double* terms) {
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < columns; ++j) {
    terms[j] = static_cast<double>(T[j * apart]) + b[j];
    if (j != excluded && !(terms[j] <= top)) top = terms[j];  // a NaN goes to the top and stays
  }
  double sum = 0, mass = 0, loss = 0;
  for (int64_t j = 0; j < columns; ++j) {
    const double x = terms[j] - top, p = P[j];
    terms[j] = j == excluded ? 0 : std::exp(x);
    if (j == excluded) continue;
    sum += terms[j];
    mass += p;
    if (p > 0) loss += p * (std::log(p) - x);
  }
  loss += mass * std::log(sum);
  for (int64_t j = 0; j < columns; ++j)
    T[j * apart] = j == excluded ? 0 : static_cast<scalar>((terms[j] / sum * mass - P[j]) * scale);
  return sum > 0 || columns > (excluded >= 0) ? loss : 0;
}

// What a block of softmax rows is made of: all scored images with some conditioning ones (over q),
// or the other way round. T [last - first, problem.N()].
template <typename scalar>
struct Pairs {
  Problem<scalar> problem;
  Gradients<scalar> out;
  int64_t first, last;  // conditioning images
  int64_t row, column;  // strides of T
};

template <typename scalar>
Pairs<scalar> pairs_of(const Problem<scalar>& p, const Gradients<scalar>& out, Over over,
                       int64_t first, int64_t last) {
  if (over == Over::q) return {p, out, first, last, p.N(), 1};
  Pairs<scalar> pairs{p, out, 0, p.d.images, 1, last - first};
  pairs.problem.q = p.q.some(first, last - first);
  if (p.v) pairs.problem.v += first * p.D();
  pairs.problem.a += first * p.R();
  if (out.dq) pairs.out.dq += first * p.R() * p.D();
  if (out.da) pairs.out.da += first * p.R();
  if (out.dv) pairs.out.dv += first * p.D();
  return pairs;
}

}  // namespace

template <typename scalar>
double match_kl(const char* op, const Problem<scalar>& p, const Targets<scalar>& targets,
                const Gradients<scalar>& out, scalar* db, std::optional<int64_t> max_memory) {
  const bool over_q = targets.over == Over::q;
  const int64_t rows = over_q ? p.d.images : p.N(), columns = over_q ? p.N() : p.d.images;
  const bool matched = out.dq || out.dd || out.da || out.dv;
  const int size = p.S() <= 256 ? 1 : 4;
  const int64_t per_image =
      std::max<int64_t>(1, columns * (sizeof(scalar) + (matched ? p.R() * size : 0)));
  // Conditioning images are added to sums in whole groups, scored ones each on its own.
  const int64_t group = over_q ? kGroup : 1;
  int64_t room = kBlockBytes;
  if (max_memory) {
    const int64_t needed = scratch_bytes(p, matched);
    room = *max_memory - needed;
    EMERGENCE_CHECK(value_error, room >= group * per_image, op, ": max_memory = ", *max_memory,
                    " bytes holds no block; with ", threads(), " threads give at least ",
                    needed + group * per_image);
  }
  const int64_t length =
      std::clamp<int64_t>(room / per_image / group * group, group, std::max<int64_t>(rows, group));

  const int64_t longest = std::min(length, rows);
  const std::unique_ptr<scalar[]> T(new scalar[longest * columns]);
  const std::unique_ptr<char[]> argmax(new char[matched ? longest * columns * p.R() * size : 0]);
  const Matches matches{matched ? argmax.get() : nullptr, size};
  std::vector<double> losses(rows), sums(db ? columns : 0);
  for (int64_t first = 0; first < rows; first += length) {
    const int64_t last = std::min(rows, first + length);
    const Pairs<scalar> pairs = pairs_of(p, out, targets.over, first, last);
    match_images(pairs.problem, pairs.first, pairs.last, T.get(), matches);
    torch::stable::parallel_for(first, last, 1, [&](int64_t x0, int64_t x1) {
      std::vector<double> terms(columns);
      for (int64_t x = x0; x < x1; ++x)
        losses[x] =
            kl_row(T.get() + (x - first) * pairs.row, pairs.column, targets.b,
                   targets.P + x * columns, columns, targets.exclude ? targets.exclude[x] : -1,
                   1.0 / static_cast<double>(rows), terms.data());
    });
    if (db)
      torch::stable::parallel_for(0, columns, 256, [&](int64_t y0, int64_t y1) {
        for (int64_t x = 0; x < last - first; ++x)
          for (int64_t y = y0; y < y1; ++y) sums[y] += T[x * pairs.row + y * pairs.column];
      });
    if (matched) add_gradients(pairs.problem, pairs.first, pairs.last, T.get(), matches, pairs.out);
  }
  if (db) std::copy(sums.begin(), sums.end(), db);
  double loss = 0;
  for (const double x : losses) loss += x;
  return rows == 0 ? 0 : loss / static_cast<double>(rows);
}

template double match_kl(const char*, const Problem<float>&, const Targets<float>&,
                         const Gradients<float>&, float*, std::optional<int64_t>);
template double match_kl(const char*, const Problem<double>&, const Targets<double>&,
                         const Gradients<double>&, double*, std::optional<int64_t>);

}  // namespace emergence_ext::cpu
