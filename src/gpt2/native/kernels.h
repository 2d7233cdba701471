// What a level (an instruction set) offers: one table of functions, the same for every level.
//
// Plain pointers and numbers only. A level's file is compiled with its own instruction flags, so nothing in here may
// pull in standard library code: the linker keeps one copy for all, and a copy built with AVX2 might then run on a
// machine without it.
//
// Axes: N rows (tokens), K inputs and O outputs of a matrix, D width of a head, S keys.

#pragma once

#include <cstddef>
#include <cstdint>

namespace gpt2 {

constexpr int kPanel = 16;   // outputs computed side by side; every packed layout consists of panels
constexpr int kLine = 64;    // bytes of a cache line: a panel's floats
constexpr int kGroup = 32;   // inputs that share an integer scale in int4
constexpr int kGroupBytes = kGroup * kPanel / 2;   // a panel's codes of a group
constexpr int kScaledGroups = kLine / kPanel;      // groups whose scales fill a line
constexpr int kPage = 64;    // positions of a key-value page; attention walks whole pages at fixed positions
constexpr int kMaxAttendRows = 16;   // neighbouring rows of one sequence that one thread handles, head by head
constexpr int kShortlist = 32;   // tokens of a list examined together: its capacity is a multiple

// To keep a tile's sums in registers, every loop over its rows, panels or blocks is unrolled, and every function that gets
// their array is inlined. Compilers stop at limits of their own (gcc 12 at 200 instructions: 2.5 times slower).
#if defined(__clang__)
#define GPT2_UNROLL _Pragma("clang loop unroll(full)")
#define GPT2_INLINE inline __attribute__((always_inline))
#define GPT2_NOINLINE __attribute__((noinline))
#elif defined(__GNUC__)
#define GPT2_UNROLL _Pragma("GCC unroll 32")
#define GPT2_INLINE inline __attribute__((always_inline))
#define GPT2_NOINLINE __attribute__((noinline))
#else
#define GPT2_UNROLL
#define GPT2_INLINE __forceinline
#define GPT2_NOINLINE __declspec(noinline)
#endif

// Prefetches a cache line. It may lie outside any allocation: a prefetch never faults.
GPT2_INLINE void prefetch(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p, 0, 2);   // into the L2 cache: it is requested long before use
#else
  (void)p;
#endif
}

enum class Form : int32_t { fp32 = 0, bf16 = 1, int8 = 2, int4 = 3 };

struct Half { uint16_t bits; };   // IEEE binary16
struct Bf16 { uint16_t bits; };   // the upper half of a float

// A packed matrix: y[n][o] = sum over k of x[n][k] * w[k][o], plus bias[o]. Layouts of the weights are drawn in dense_*.h.
//
//   a panel: 16 outputs                                      in whole lines of 64 bytes
//     | bias | row scales: int8, int4 | weights, in int4 with the group scales among them |
//
// Everything a panel needs lies together, so memory is read in order, with only one stream per panel side by side.
struct MatrixView {
  Form form;
  int32_t inputs, outputs;
  int32_t padded_inputs;          // inputs, rounded up to the form's read unit; the padding holds zeros
  int32_t panels;                 // ceil(outputs / 16)
  int32_t weights_offset;         // in a panel, in bytes
  int64_t panel_bytes;
  const unsigned char* data;

  GPT2_INLINE const unsigned char* panel(int p) const { return data + p * panel_bytes; }
  GPT2_INLINE const float* bias(int p) const { return reinterpret_cast<const float*>(panel(p)); }
  GPT2_INLINE const float* row_scales(int p) const { return bias(p) + kPanel; }
  GPT2_INLINE const unsigned char* weights(int p) const { return panel(p) + weights_offset; }
  // int4: offsets among the weights of a group's scales and codes, which dense_int4.h draws.
  static GPT2_INLINE int64_t scales_at(int group) { return group / kScaledGroups * (kLine + kScaledGroups * kGroupBytes) + group % kScaledGroups * kPanel; }
  static GPT2_INLINE int64_t codes_at(int group) { return (group / kScaledGroups + 1) * kLine + group * kGroupBytes; }
};

// The rows that a matrix is applied to: floats for fp32 and bf16, codes for int8 and int4; bfloat16 for bf16 on levels with
// `round_row`.
struct Activations {
  const float* values;            // [N][stride]
  int64_t stride;
  const Bf16* rounded;            // [N][rounded_stride]; rows have room for whole lines
  int64_t rounded_stride;
  const int8_t* codes;            // [N][code_stride], within -127..127; rows have room for whole lines
  int64_t code_stride;
  const float* scales;            // [N]: value = code * scale
  const int32_t* code_sums;       // [N]
  const int32_t* group_offsets;   // [N][group_stride]: group_offset of lanes_*.h
  int64_t group_stride;
};

// y = r; y += r; y = gelu(r); gelu in bfloat16, on levels with `round_row`
enum class Finish { store, add, gelu, rounded_gelu };

struct Output {
  float* values;                  // [N][stride]
  int64_t stride;
  Finish finish;
  Bf16* rounded = nullptr;        // [N][stride] instead of values; rows have room for whole lines
};

// Attention of up to kMaxAttendRows rows at neighbouring positions, for one head.
struct Attend {
  int32_t rows, first_position, head_width;
  float scale;                    // 1 / sqrt(head_width)
  const float* q;                 // [rows][q_stride]
  int64_t q_stride;
  const unsigned char* const* pages;
  size_t k_offset, v_offset;      // of this layer and head within a page, in bytes
  float* scores;                  // [rows][scores_stride]; afterwards exp(score - max)
  int64_t scores_stride;          // room for whole pages
  float* sums;                    // [rows]: divisors of the scores
  float* out;                     // [rows][out_stride]
  int64_t out_stride;
  int8_t* codes;                  // [rows][code_stride], scratch for int8, and for bf16 by tiles
  int64_t code_stride;            // two bytes per score and per component of a head, rounded up to 16
};

struct RowStatistics {
  float largest;
  float sum;                      // of exp(x - largest)
  float weighted;                 // of exp(x - largest) * (x - largest)
};

// Room for a list of candidate tokens: the vocabulary size, rounded up to 32.
struct Shortlist {
  int32_t* ids;
  float *logits, *below, *weights;
};

struct Drawing {
  const float* logits;            // of tokens 0 to count - 1; null: the first `count` of the list
  int32_t count;
  float temperature;              // 0: the most likely
  double top_p, min_p;            // 1 and 0: all are kept
  uint64_t key;                   // of the noise
  Shortlist list;                 // may be null pointers if nothing is listed
};

struct Kernels {
  const char* name;

  // Rows [row, row_end) times panels [panel, panel_end). The bits of an output depend only on its row.
  void (*dense)(const MatrixView&, const Activations&, const Output&, int row, int row_end, int panel, int panel_end);

  // How many panels to stream side by side for this many rows, if they are bound by memory; 0: use `dense`.
  int (*side_by_side)(Form, int rows);
  // Like `dense` for [panel, panel_end), and for each of these the panels `step`, 2 `step`, ... further on that go side by
  // side with it: each is its own stream, and memory is fastest with long streams.
  void (*dense_apart)(const MatrixView&, const Activations&, const Output&, int row, int row_end, int panel, int panel_end, int step);
  int apart_at_once;              // how many of these a thread takes at a time

  void (*layer_norm)(const float* x, const float* gain, const float* bias, int width, float epsilon, float* y);

  // codes = round(x * 127 / max|x|), zero up to padded, a multiple of 32; *scale = max|x| / 127, or NaN. Computes
  // group_offsets unless null.
  void (*quantise_row)(const float* x, int width, int padded, int8_t* codes, float* scale, int32_t* code_sum, int32_t* group_offsets);

  // To bfloat16, zero up to padded, an even number, and on to a whole vector; null if bf16 matrices are applied to floats.
  void (*round_row)(const float* x, int width, int padded, Bf16* rounded);

  void (*attend_fp32)(const Attend&);
  void (*attend_16)(const Attend&);   // 16 bits: fp16, or bfloat16 with tiles
  void (*attend_int8)(const Attend&);

  // Writes keys and values of one head, [rows][stride], into a page from position `key` on; false if a number is not finite.
  bool (*store_fp32)(const float* k, const float* v, int64_t stride, int rows, int head_width, int key, unsigned char* k_page, unsigned char* v_page);
  bool (*store_16)(const float* k, const float* v, int64_t stride, int rows, int head_width, int key, unsigned char* k_page, unsigned char* v_page);
  bool (*store_int8)(const float* k, const float* v, int64_t stride, int rows, int head_width, int key, unsigned char* k_page, unsigned char* v_page);

  bool (*is_finite)(const float* x, int count);
  RowStatistics (*row_statistics)(const float* x, int count);   // valid if the row is finite

  // The token that wins a draw.
  int32_t (*draw)(const Drawing&);

  // panel_K16, zeros from `inputs` to `padded` -> one packed panel of the form. Scales are written for int8 and int4.
  void (*pack_panel)(Form, const float* panel_K16, int inputs, int padded, void* weights, float* row_scales);

  // Multiplies from registers only, at the level's peak rate; returns the number of multiply-adds.
  int64_t (*products)(Form, int64_t rounds);
};

// Whether this processor reads a few long streams fastest if nothing is prefetched by instructions.
bool prefetches_streams();

// The levels of this build that this machine can run, fastest first; ends with a null pointer.
const Kernels* const* levels();
const Kernels* find_level(const char* name);   // null if there is none of that name
const char* levels_warning();                  // why an expected level is missing; usually empty

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Bytes for a row: an odd number of lines, so that one column's entries do not share a cache set.
inline int64_t row_bytes(int64_t bytes) { return (round_up(bytes, kLine) / kLine | 1) * kLine; }

// Elements of one head's values in a page: rows are padded so that whole vectors can be read.
inline int padded_width(int head_width) { return static_cast<int>(round_up(head_width, kPanel)); }

}  // namespace gpt2
