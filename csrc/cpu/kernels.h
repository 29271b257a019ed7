// What one thread does, and the table of functions that does it at each level of instruction set.
//
// Rows are given as pointer and stride in elements, with unit stride inside a row. Neither torch
// nor the standard library's templates are known here: a file compiled for one instruction set must
// not leave inline functions to others.
#pragma once

#include <cstdint>

namespace emergence_ext::cpu {

constexpr int kGroup = 8;   // conditioning images whose gradients are summed at once
constexpr int kNarrow = 8;  // rows up to this width live in registers, in gradients 16-byte ones
constexpr int kLargestTile = 64;  // rows of a tile at any level

// Gradients of one scored image j from a group of conditioning images, columns [k, k + width):
// u[r] = sum_i G[i] d[i, argmax[i, r]], then dq += a u, da += <q, u>, or with scale v
// dv += a f u, da += <v f, u>. A null pointer is a gradient that nobody asked for.
template <typename scalar>
struct ScoredGradient {
  const scalar* d;  // [kGroup, S, d_stride], rows filled up with zeros
  int64_t d_stride, S;
  const scalar* G[kGroup];     // of the pair (i, j)
  const void* argmax[kGroup];  // [R] of the pair (i, j)
  bool compact;                // argmax is uint8, else int32
  const scalar* q;             // or f, [R, q_stride]
  int64_t q_stride, R;
  int width;
  const scalar* v;  // null for no scale
  const scalar* a;  // [R]
  scalar* dq;       // [R, dq_stride]
  int64_t dq_stride;
  scalar* da;  // [R]
  scalar* dv;  // [width]
};

// Gradients of n conditioning images from one scored image, columns [k, k + width):
// dd[i, argmax[i, r]] += G[i] a[r] q[r].
template <typename scalar>
struct ConditioningGradient {
  scalar* dd;  // [n, S, dd_stride], rows filled up
  int64_t dd_stride, S;
  int n;
  const scalar* G[kGroup];
  const void* argmax[kGroup];  // [R]
  bool compact;
  const scalar* q;  // [R, q_stride]
  int64_t q_stride, R;
  int width;
  const scalar* a;  // [R]
};

template <typename scalar>
struct Kernels {
  int lanes;    // strides of scratch rows are multiples of this
  int tile;     // rows of a tile
  int columns;  // columns of a gradient at once, where rows are wider than kNarrow

  // n rows of width D as tiles [ceil(n / tile), D, tile], the last filled up with zeros.
  void (*pack)(const scalar* rows, int64_t stride, int64_t n, int64_t D, scalar* packed);

  // The largest product of each packed row with the S rows of d, and where. `value` and `place` are
  // written up to a whole tile.
  void (*match)(const scalar* packed, int64_t n, const scalar* d, int64_t d_stride, int64_t S,
                int64_t D, scalar* value, scalar* place);

  // The largest magnitude among n rows of width D: infinite or NaN where an entry is.
  scalar (*largest)(const scalar* rows, int64_t stride, int64_t n, int64_t D);

  // Places as uint8, int32 or int64, by size.
  void (*store_places)(const scalar* place, int64_t n, void* argmax, int size);

  // n numbers of float16 in float32; null where the level has no such conversion.
  void (*widen)(const void* halves, int64_t n, scalar* out);

  scalar (*dot)(const scalar* x, const scalar* y, int64_t n);
  void (*scored_gradient)(const ScoredGradient<scalar>&);
  void (*conditioning_gradient)(const ConditioningGradient<scalar>&);
};

// Choosing matches by products of small numbers, of which a word holds several columns of a row:
// two of bfloat16, or four of int8. Tiles are of the level's own size, widths are filled up with
// zeros. Stored candidates are of that type already, n rows without room between them.
struct Screen {
  int64_t (*words)(int64_t D);         // of a candidate
  int64_t (*packed_words)(int64_t D);  // of a scored row

  // Scored rows as tiles [ceil(n / tile), packed_words, tile], candidates as [n, words], rounded to
  // nearest even. What is stored may come back as it is, and `out` is then not written. Null where
  // candidates of float32 are not taken.
  void (*pack)(const float* rows, int64_t stride, int64_t n, int64_t D, uint32_t* packed);
  void (*round_rows)(const float* rows, int64_t stride, int64_t n, int64_t D, uint32_t* out);
  const void* (*prepare)(const void* stored, int64_t n, int64_t D, uint32_t* out);

  // As `Kernels::match`, of candidates that are multiplied by a scale each, where they are bytes.
  // The value is of use for the choice alone.
  void (*match)(const uint32_t* packed, int64_t n, const void* d, const float* scale, int64_t S,
                int64_t D, float* value, float* place);

  // As in Kernels, of what is stored.
  float (*largest)(const void* stored, int64_t n, int64_t D);
  float (*dot)(const float* q, const void* stored, int64_t D);
};

struct Level {
  const char* name;
  const Kernels<float>* float32;
  const Screen* bytes;  // null where the level has no such products
  const Screen* pairs;
};

// What is compiled in; null where the compiler or the architecture has no such level.
extern const Kernels<float> generic_float32;
extern const Kernels<double> generic_float64;
const Kernels<float>* avx2_float32();
const Kernels<float>* avx512_float32();
const Screen* avx512_bytes();
const Screen* avx512_pairs();

// The level in use: the highest that this machine has, or what EMERGENCE_INSTRUCTION_SET names.
const Level& level();

// Name every level that this machine can run, lowest first; returns their number.
int levels(const char* names[]);

// Switch to a level by name; false where there is no such level here. Not while an op is running.
bool use_level(const char* name);

}  // namespace emergence_ext::cpu
