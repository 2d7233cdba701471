// Sixteen numbers side by side in one AVX-512 register, with VNNI; and with BF16 if GPT2_LANES_BF16 is defined.
//
// The names are those of lanes_portable.h, which documents them.

#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace gpt2 {
namespace {

// Of 32 registers, 18 to 24 hold sums: panels side by side use each number of a row three times. Larger tiles spill (gcc 12).
constexpr int kRowsFloat = 8, kRowsInt8 = 8, kRowsInt4 = 4, kRowsAttend = 8;
constexpr int kPanelsFloat = 3, kPanelsInt8 = 3, kPanelsInt4 = 3, kBlocksAttend = 2;
constexpr int kWidePanels = 4;   // one row alone: 4 independent sums hide the latency of a multiply-add
constexpr int kRowsMany = 6, kPanelsMany = 2, kFewestRowsMany = 9;   // from this many rows on, int4 unpacks its codes once for all rows

struct Lanes { __m512 v; };

inline Lanes broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, const Lanes& x) { _mm512_storeu_ps(p, x.v); }

// The first `count` of sixteen, in one masked instruction: writing numbers one by one and loading them as a vector stalls,
// which took a fifth of the attention of one row.
#define GPT2_LANES_MASKS
inline __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
inline Lanes load_masked(const float* p, int count, float fill) { return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(count), p)}; }
inline void store_masked(float* p, const Lanes& x, int count) { _mm512_mask_storeu_ps(p, first_lanes(count), x.v); }

inline Lanes add(const Lanes& x, const Lanes& y) { return {_mm512_add_ps(x.v, y.v)}; }
inline Lanes sub(const Lanes& x, const Lanes& y) { return {_mm512_sub_ps(x.v, y.v)}; }
inline Lanes mul(const Lanes& x, const Lanes& y) { return {_mm512_mul_ps(x.v, y.v)}; }
inline Lanes div(const Lanes& x, const Lanes& y) { return {_mm512_div_ps(x.v, y.v)}; }
inline Lanes min(const Lanes& x, const Lanes& y) { return {_mm512_min_ps(x.v, y.v)}; }
inline Lanes max(const Lanes& x, const Lanes& y) { return {_mm512_max_ps(x.v, y.v)}; }
inline Lanes absolute(const Lanes& x) { return {_mm512_abs_ps(x.v)}; }
inline Lanes multiply_add(const Lanes& x, const Lanes& y, const Lanes& z) { return {_mm512_fmadd_ps(x.v, y.v, z.v)}; }
inline Lanes where_less(const Lanes& p, const Lanes& q, const Lanes& x, const Lanes& y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(p.v, q.v, _CMP_LT_OQ), y.v, x.v)};
}
inline Lanes round_even(const Lanes& x) {
  return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Lanes times_power_of_two(const Lanes& x, const Lanes& n) { return {_mm512_scalef_ps(x.v, n.v)}; }

inline __m256 upper_half(__m512 x) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)); }
inline float sum_across(const Lanes& x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), upper_half(x.v));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float max_across(const Lanes& x) { return _mm512_reduce_max_ps(x.v); }

inline __m256i load_bits(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

inline Lanes load(const Half* p) { return {_mm512_cvtph_ps(load_bits(p))}; }
inline void store(Half* p, const Lanes& x) {
  const Lanes s = min(max(x, broadcast(-65504.0f)), broadcast(65504.0f));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(s.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// bfloat16 in pairs: the first of each in the lower half of 32 bits.
struct Pairs { __m512i v; };
inline Pairs load_pairs(const Bf16* p) { return {_mm512_loadu_si512(p)}; }
inline Lanes first_of(const Pairs& x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(x.v, 16))}; }
inline Lanes second_of(const Pairs& x) {
  return {_mm512_castsi512_ps(_mm512_and_si512(x.v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
#if defined(GPT2_LANES_BF16)
// To nearest, halves to even; NaN stays NaN, and subnormal numbers become zeros, as in the products.
inline __m256i to_bf16(const Lanes& x) { return (__m256i)_mm512_cvtneps_pbh(x.v); }
inline void store(Bf16* p, const Lanes& x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(x)); }

// Adds both products of each pair; the processor rounds after each, and treats subnormal numbers as zeros.
inline Lanes dot2(const Lanes& sums, const Pairs& w, const Bf16* x) {
  int32_t two;
  std::memcpy(&two, x, 4);
  return {_mm512_dpbf16_ps(sums.v, (__m512bh)w.v, (__m512bh)_mm512_set1_epi32(two))};
}
#endif

struct Sums { __m512i v; };    // 16 x int32
struct Codes { __m512i v; };   // 16 outputs x 4 inputs
struct Quad { __m512i v; };    // 4 inputs, for every output

inline Quad broadcast_quad(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, 4);
  return {_mm512_set1_epi32(four)};
}
inline Lanes to_lanes(const Sums& s) { return {_mm512_cvtepi32_ps(s.v)}; }
inline void store_codes(int8_t* p, const Lanes& whole) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(whole.v)));
}

// Pack instructions work within 128 bits, so they interleave the vectors in fours; the permutation restores the order.
#define GPT2_LANES_HALVES
inline __m512i pack_bytes(const __m512i& first, const __m512i& second) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(first, second));
}
inline void store_halves(int8_t* upper, int8_t* lower, const Lanes (&shares)[4]) {
  const __m512i first = _mm512_packs_epi32(_mm512_cvtps_epi32(shares[0].v), _mm512_cvtps_epi32(shares[1].v));
  const __m512i second = _mm512_packs_epi32(_mm512_cvtps_epi32(shares[2].v), _mm512_cvtps_epi32(shares[3].v));
  const __m512i mask = _mm512_set1_epi16(127);
  _mm512_storeu_si512(upper, pack_bytes(_mm512_srli_epi16(first, 7), _mm512_srli_epi16(second, 7)));
  _mm512_storeu_si512(lower, pack_bytes(_mm512_and_si512(first, mask), _mm512_and_si512(second, mask)));
}

// With the compiler's intrinsic, gcc 12 copies each sum to another register and back, which halves the rate from registers.
// Kernels do not notice, since they wait for other things, but the peak that they are measured against must be right.
inline __m512i dpbusd(__m512i sums, __m512i w, __m512i x) {
#if defined(__GNUC__)
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
  return sums;
#else
  return _mm512_dpbusd_epi32(sums, w, x);
#endif
}

// vpdpbusd multiplies unsigned by signed bytes. So weights are stored as w + 128, and a row's sums start at -128 times
// the sum of its activations. Nothing saturates; 32 bits may wrap around on the way, but the result is exact.
inline Codes load_weights(const int8_t* p) {
  return {_mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(static_cast<char>(0x80)))};
}
inline Sums start_sums(int32_t code_sum) { return {_mm512_set1_epi32(static_cast<int32_t>(-128u * static_cast<uint32_t>(code_sum)))}; }
inline Sums dot4(const Sums& sums, const Codes& w, const Quad& x) { return {dpbusd(sums.v, w.v, x.v)}; }

// int4: codes 0..15 stand for -8..7; a group's sums start at -8 times the sum of its activations.
struct GroupSums { __m512i v; };

inline int32_t group_offset(int32_t code_sum, const int8_t*) { return -8 * code_sum; }
inline GroupSums start_group(int32_t offset) { return {_mm512_set1_epi32(offset)}; }
inline Codes load_codes(const int8_t* p) { return {_mm512_loadu_si512(p)}; }
inline Codes low_nibbles(const Codes& c) { return {_mm512_and_si512(c.v, _mm512_set1_epi8(15))}; }
inline Codes high_nibbles(const Codes& c) { return {_mm512_and_si512(_mm512_srli_epi16(c.v, 4), _mm512_set1_epi8(15))}; }
inline GroupSums group_dot4(const GroupSums& sums, const Codes& w, const Quad& x) { return {dpbusd(sums.v, w.v, x.v)}; }

// A group's sum fits 16 bits, so its lower half times the scale is the product; the upper half is multiplied by zero.
struct Scales { __m512i v; };
inline Scales load_scales(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
inline Sums add_scaled(const Sums& sums, const GroupSums& group, const Scales& scales) {
  return {_mm512_dpwssd_epi32(sums.v, group.v, scales.v)};
}

}  // namespace
}  // namespace gpt2
