// Matching and its gradients on a GPU, kernel by kernel. Nothing here knows torch, allocates or
// waits; everything is enqueued on `stream`, and a cudaError_t comes back as an int.
//
// A block of images, conditioning or scored ones, is a problem of its own: `d` (or q, v and a)
// points at its first image and B (or N) is its length. Every sum has one owner and one order,
// whatever the block.
#pragma once

#include <cstdint>

namespace emergence_ext::cuda {

constexpr int kNarrow = 8;       // rows up to this width live in registers
constexpr int kPiece = 16;       // widths of rows for tensor cores are multiples of this
constexpr int kRowsOfPart = 32;  // rows whose share of dv is summed by one warp
// Images of u that go to dv at once. Blocks of images hold whole groups of so many, so that dv is
// the same for any block.
constexpr int kImagesOfGroup = 8;
// Scored images whose dd is summed at once where they come in blocks, which hold whole groups of so
// many, so that dd is the same for any block.
constexpr int kScoredOfGroup = 16;

// Images [first, first + count).
struct Images {
  int64_t first, count;
};

// Rows of 16 bits an entry as they came: [N R, width] and [B S, width], aligned by 16 bytes, width
// a multiple of kPiece and filled up with zeros. Null where they came otherwise.
struct Halves {
  const uint16_t *q, *d;
  int64_t width;
  bool float16;  // else bfloat16
};

// Contiguous, in the type of the arithmetic. What gathers wide rows takes the halves where they are
// there, and then has no need of q and d.
template <typename scalar>
struct Problem {
  const scalar* q;  // [N, R, D], or f where v is there
  const scalar* v;  // [N, D], null unless q[j, r] = v[j] f[j, r]
  const scalar* d;  // [B, S, D]
  const scalar* a;  // [N, R], null for ones
  int64_t N, R, B, S, D;
  Halves halves;
};

// Rows for tensor cores, 16 bits an entry: [rows, planes, width], width a multiple of kPiece and
// filled up with zeros. Two planes are the high and the low part of float32 rows in bfloat16.
struct Planes {
  const uint16_t* q;  // [N R, planes, width]
  const uint16_t* d;  // [B S, planes, width]
  int64_t rows, B, S, width;
  int planes;
  bool float16;  // else bfloat16
};

// argmax [B, N, R] in entries of 1 (uint8), 4 (int32) or 8 bytes (int64); null where nobody asked.
struct Matches {
  void* data;
  int size;
};

// Bytes of shared memory that one block may ask for on every GPU: 99 KiB, of which one is reserved.
constexpr int64_t kLeastShared = 98 << 10;

struct Device {
  int multiprocessors;
  int64_t shared;  // bytes that one block may ask for
  void* stream;    // a cudaStream_t
};

// Forward. `value` [B, N, R] are the products of the matches, T [B, N] their weighted sums.

// D up to kNarrow, in one go.
template <typename scalar>
int match_narrow(const Problem<scalar>& p, scalar* T, Matches matches, const Device& on);

// The same for float32 on tensor cores, where split_applies. Rows are split first, into
// split_bytes(rows, D) aligned by 16; a null pointer leaves its side out. `d_split` of a match is
// that of the block.
bool split_applies(const Problem<float>& p);
int64_t split_bytes(int64_t rows, int64_t D);
int split_rows(const Problem<float>& p, void* q_split, void* d_split, const Device& on);
int match_split(const Problem<float>& p, const void* q_split, const void* d_split, float* T,
                Matches matches, const Device& on);

template <typename scalar>
int match_wide(const Problem<scalar>& p, scalar* value, Matches matches, const Device& on);

// By mma.sync: one product of planes, or high and low parts in three. The products of what the
// planes hold are exact, their sum is of float32.
int match_planes(const Planes& p, float* value, Matches matches, const Device& on);

// The same on compute capability 9.0, where hopper_applies: the device is one, and the library
// holds code for it.
bool hopper_applies(const Planes& p);
int match_hopper(const Planes& p, float* value, Matches matches, const Device& on);

// Rows of q, or of d, as bfloat16 planes of float32 rows; those of q times v where that is there.
int pack_q(const Problem<float>& p, int64_t width, int planes, uint16_t* packed, const Device& on);
int pack_d(const Problem<float>& p, int64_t width, int planes, uint16_t* packed, const Device& on);

// value = <q, d[match]>.
template <typename scalar>
int score_matches(const Problem<scalar>& p, Matches matches, scalar* value, const Device& on);

// T = sum_r a value.
template <typename scalar>
int weigh(const Problem<scalar>& p, const scalar* value, scalar* T, const Device& on);

// The rows of the softmax in T [B, N]: those of T, or where it runs over the images of d its
// columns. Entries of a row lie `column` apart, rows `row`.
struct SoftmaxRows {
  int64_t count, columns, row, column;
};

// The loss. T becomes G = dloss/dT; `losses` [count] gets each row's KL.
template <typename scalar>
struct Targets {
  const scalar* b;         // [columns]
  const scalar* P;         // [count, columns]
  const int64_t* exclude;  // [count] or null
  double scale;            // of G: 1 over the number of all rows
};

template <typename scalar>
int kl_rows(const Targets<scalar>& targets, const SoftmaxRows& rows, scalar* T, double* losses,
            const Device& on);

// Gradients, from G [B, N] and the matches; all but dd are added to.

// db[column] += the sum of G's softmax rows.
template <typename scalar>
int add_bias_gradient(const scalar* G, const SoftmaxRows& rows, scalar* db, const Device& on);

// u [N, R, D] += sum_i G[i, j] d[i, match] and da [N, R] += <q, the same>; either may be null. D up
// to kNarrow.
template <typename scalar>
int add_scored_narrow(const Problem<scalar>& p, const scalar* G, Matches matches, scalar* u,
                      scalar* da, const Device& on);

// The same u at any width.
template <typename scalar>
int add_scored_wide(const Problem<scalar>& p, const scalar* G, Matches matches, scalar* u,
                    const Device& on);

// parts [ceil(R / kRowsOfPart), N, D] += the sums of a f u over each kRowsOfPart rows,
// kImagesOfGroup images of u at a time. Summed over its first dimension it is dv.
template <typename scalar>
int add_scale_gradient(const Problem<scalar>& p, const scalar* G, Matches matches, scalar* parts,
                       const Device& on);

// da [N, R] += sum_i G[i, j] value[i, j, r].
template <typename scalar>
int add_weight_gradient(const Problem<scalar>& p, const scalar* G, const scalar* value, scalar* da,
                        const Device& on);

// dd [B, S, D] += sum over the rows that match of G a q, the rows of so many scored images at once.
template <typename scalar>
int add_conditioning(const Problem<scalar>& p, const scalar* G, Matches matches,
                     int64_t scored_at_once, scalar* dd, const Device& on);

}  // namespace emergence_ext::cuda
