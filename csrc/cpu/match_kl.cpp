#include "match_kl.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace emergence_ext::cpu {
namespace {

constexpr int64_t kBlockBytes = 32 << 20;  // of matches and scores when `max_memory` is not given

// KL of one row, in double; T becomes dKL/dT times `scale`. `terms` is scratch, [N].
template <typename scalar>
double kl_row(scalar* T, const scalar* b, const scalar* P, int64_t N, int64_t excluded,
              double scale, double* terms) {
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < N; ++j) {
    terms[j] = static_cast<double>(T[j]) + b[j];
    if (j != excluded && !(terms[j] <= top)) top = terms[j];  // a NaN goes to the top and stays
  }
  double sum = 0, mass = 0, loss = 0;
  for (int64_t j = 0; j < N; ++j) {
    const double x = terms[j] - top, p = P[j];
    terms[j] = j == excluded ? 0 : std::exp(x);
    if (j == excluded) continue;
    sum += terms[j];
    mass += p;
    if (p > 0) loss += p * (std::log(p) - x);
  }
  loss += mass * std::log(sum);
  for (int64_t j = 0; j < N; ++j)
    T[j] = j == excluded ? 0 : static_cast<scalar>((terms[j] / sum * mass - P[j]) * scale);
  return sum > 0 || N > (excluded >= 0) ? loss : 0;
}

}  // namespace

template <typename scalar>
double match_kl(const char* op, const Problem<scalar>& p, const Targets<scalar>& targets,
                const Gradients<scalar>& out, scalar* db, std::optional<int64_t> max_memory) {
  const int64_t N = p.N(), B = p.d.images;
  const bool matched = out.dq || out.dd || out.da || out.dv;
  const int size = p.S() <= 256 ? 1 : 4;
  const int64_t per_image =
      std::max<int64_t>(1, N * (sizeof(scalar) + (matched ? p.R() * size : 0)));
  int64_t room = kBlockBytes;
  if (max_memory) {
    const int64_t needed = scratch_bytes(p, matched);
    room = *max_memory - needed;
    TORCH_CHECK_VALUE(room >= kGroup * per_image, op, ": max_memory = ", *max_memory,
                      " bytes holds no block; with ", at::get_num_threads(),
                      " threads give at least ", needed + kGroup * per_image);
  }
  const int64_t length =
      std::clamp<int64_t>(room / per_image / kGroup * kGroup, kGroup, std::max<int64_t>(B, kGroup));

  const int64_t longest = std::min(length, B);
  const std::unique_ptr<scalar[]> T(new scalar[longest * N]);
  const std::unique_ptr<char[]> argmax(new char[matched ? longest * N * p.R() * size : 0]);
  const Matches matches{matched ? argmax.get() : nullptr, size};
  std::vector<double> losses(B), sums(db ? N : 0);
  for (int64_t first = 0; first < B; first += length) {
    const int64_t last = std::min(B, first + length);
    match_images(p, first, last, T.get(), matches);
    at::parallel_for(first, last, 1, [&](int64_t i0, int64_t i1) {
      std::vector<double> terms(N);
      for (int64_t i = i0; i < i1; ++i)
        losses[i] = kl_row(T.get() + (i - first) * N, targets.b, targets.P + i * N, N,
                           targets.exclude ? targets.exclude[i] : -1, 1.0 / static_cast<double>(B),
                           terms.data());
    });
    if (db)
      at::parallel_for(0, N, 256, [&](int64_t j0, int64_t j1) {
        for (int64_t i = 0; i < last - first; ++i)
          for (int64_t j = j0; j < j1; ++j) sums[j] += T[i * N + j];
      });
    if (matched) add_gradients(p, first, last, T.get(), matches, out);
  }
  if (db) std::copy(sums.begin(), sums.end(), db);
  double loss = 0;
  for (const double x : losses) loss += x;
  return B == 0 ? 0 : loss / static_cast<double>(B);
}

template double match_kl(const char*, const Problem<float>&, const Targets<float>&,
                         const Gradients<float>&, float*, std::optional<int64_t>);
template double match_kl(const char*, const Problem<double>&, const Targets<double>&,
                         const Gradients<double>&, double*, std::optional<int64_t>);

}  // namespace emergence_ext::cpu
