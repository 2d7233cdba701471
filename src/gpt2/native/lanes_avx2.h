// Sixteen numbers side by side in two AVX2 registers; with FMA and F16C, which every machine with AVX2 has; and
// with AVX-VNNI if GPT2_LANES_VNNI is defined.
//
// The names are those of lanes_portable.h, which documents them.

#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace gpt2 {
namespace {

// Of 16 registers, float kernels use 12 for sums (6 rows x 2), integer kernels 8: their products need the rest.
constexpr int kRowsFloat = 6, kRowsInt8 = 4, kRowsInt4 = 4, kRowsAttend = 4;
constexpr int kPanelsFloat = 1, kPanelsInt8 = 1, kPanelsInt4 = 1, kBlocksAttend = 1;
constexpr int kWidePanels = 4;   // one row alone: 8 independent sums hide the latency of a multiply-add
constexpr int kRowsMany = 1, kPanelsMany = 1, kFewestRowsMany = 0;   // int4 unpacks its codes for each tile

struct Lanes { __m256 a, b; };

inline Lanes broadcast(float x) { const __m256 v = _mm256_set1_ps(x); return {v, v}; }
inline Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, const Lanes& x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }

inline Lanes add(const Lanes& x, const Lanes& y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Lanes sub(const Lanes& x, const Lanes& y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Lanes mul(const Lanes& x, const Lanes& y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Lanes div(const Lanes& x, const Lanes& y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Lanes min(const Lanes& x, const Lanes& y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Lanes max(const Lanes& x, const Lanes& y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Lanes absolute(const Lanes& x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline Lanes multiply_add(const Lanes& x, const Lanes& y, const Lanes& z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Lanes where_less(const Lanes& p, const Lanes& q, const Lanes& x, const Lanes& y) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(p.a, q.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(p.b, q.b, _CMP_LT_OQ))};
}
inline Lanes round_even(const Lanes& x) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, nearest), _mm256_round_ps(x.b, nearest)};
}
inline __m256 power_of_two(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline Lanes times_power_of_two(const Lanes& x, const Lanes& n) { return mul(x, {power_of_two(n.a), power_of_two(n.b)}); }

inline float sum_across(const Lanes& x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float max_across(const Lanes& x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline __m128i load_bits(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

inline Lanes load(const Half* p) { return {_mm256_cvtph_ps(load_bits(p)), _mm256_cvtph_ps(load_bits(p + 8))}; }
inline void store(Half* p, const Lanes& x) {
  const Lanes s = min(max(x, broadcast(-65504.0f)), broadcast(65504.0f));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(s.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(s.b, _MM_FROUND_TO_NEAREST_INT));
}

// bfloat16 in pairs: the first of each in the lower half of 32 bits.
struct Pairs { __m256i a, b; };
inline __m256i load_int(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Pairs load_pairs(const Bf16* p) { return {load_int(p), load_int(p + 16)}; }
inline __m256 upper_bits(__m256i x) { return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))); }
inline Lanes first_of(const Pairs& x) { return {_mm256_castsi256_ps(_mm256_slli_epi32(x.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(x.b, 16))}; }
inline Lanes second_of(const Pairs& x) { return {upper_bits(x.a), upper_bits(x.b)}; }

struct Sums { __m256i a, b; };    // 16 x int32
struct Codes { __m256i a, b; };   // 16 outputs x 4 inputs
struct Quad { __m256i v; };       // 4 inputs, for every output

inline Quad broadcast_quad(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, 4);
  return {_mm256_set1_epi32(four)};
}
inline Lanes to_lanes(const Sums& s) { return {_mm256_cvtepi32_ps(s.a), _mm256_cvtepi32_ps(s.b)}; }
inline void store_codes(int8_t* p, const Lanes& whole) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(whole.a), _mm256_cvtps_epi32(whole.b));   // 0-3 8-11 4-7 12-15
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}

inline Codes load_codes(const int8_t* p) { return {load_int(p), load_int(p + 32)}; }
inline Codes low_nibbles(const Codes& c) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(c.a, mask), _mm256_and_si256(c.b, mask)};
}
inline Codes high_nibbles(const Codes& c) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(c.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(c.b, 4), mask)};
}

struct GroupSums { __m256i a, b; };
struct Scales { __m256i a, b; };
inline GroupSums start_group(int32_t offset) { const __m256i v = _mm256_set1_epi32(offset); return {v, v}; }

#if defined(GPT2_LANES_VNNI)

// vpdpbusd multiplies unsigned by signed bytes. So weights are stored as w + 128, and a row's sums start at -128 times
// the sum of its activations. Nothing saturates; 32 bits may wrap around on the way, but the result is exact.
inline __m256i dpbusd(__m256i sums, __m256i w, __m256i x) {
#if defined(__AVXVNNI__) || defined(_MSC_VER)
  return _mm256_dpbusd_avx_epi32(sums, w, x);
#else
  return _mm256_dpbusd_epi32(sums, w, x);   // the AVX-512 form, to test this file without AVX-VNNI
#endif
}
inline Codes load_weights(const int8_t* p) {
  const __m256i offset = _mm256_set1_epi8(static_cast<char>(0x80));
  return {_mm256_xor_si256(load_int(p), offset), _mm256_xor_si256(load_int(p + 32), offset)};
}
inline Sums start_sums(int32_t code_sum) {
  const __m256i v = _mm256_set1_epi32(static_cast<int32_t>(-128u * static_cast<uint32_t>(code_sum)));
  return {v, v};
}
inline Sums dot4(const Sums& sums, const Codes& w, const Quad& x) { return {dpbusd(sums.a, w.a, x.v), dpbusd(sums.b, w.b, x.v)}; }

// int4: codes 0..15 stand for -8..7; a group's sums start at -8 times the sum of its activations. A group's sum
// fits 16 bits, so its lower half times the scale is the product; the upper half is multiplied by zero.
inline int32_t group_offset(int32_t code_sum, const int8_t*) { return -8 * code_sum; }
inline GroupSums group_dot4(const GroupSums& sums, const Codes& w, const Quad& x) { return {dpbusd(sums.a, w.a, x.v), dpbusd(sums.b, w.b, x.v)}; }
inline __m256i widen_8(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
inline Scales load_scales(const uint8_t* p) { return {widen_8(p), widen_8(p + 8)}; }
inline Sums add_scaled(const Sums& sums, const GroupSums& group, const Scales& scales) {
  return {_mm256_add_epi32(sums.a, _mm256_madd_epi16(group.a, scales.a)), _mm256_add_epi32(sums.b, _mm256_madd_epi16(group.b, scales.b))};
}

#else

// maddubs multiplies unsigned by signed and adds neighbours with saturation at 32767. With |w|, and x with the sign
// of w, every pair stays within 2 * 128 * 127 = 32512, so nothing saturates and the sum is exact.
inline Codes load_weights(const int8_t* p) { return load_codes(p); }
inline Sums start_sums(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline __m256i dot4(__m256i sums, __m256i w, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Sums dot4(const Sums& sums, const Codes& w, const Quad& x) { return {dot4(sums.a, w.a, x.v), dot4(sums.b, w.b, x.v)}; }

// int4: codes 0..15 stand for -8..7. A group's sum fits 16 bits (32 * 8 * 127 = 32512): each output keeps two 16-bit
// partial sums, which may wrap around on the way but end exact. They start at -8 times the sums of their
// activations: inputs 0, 1 of every four in the lower half, inputs 2, 3 in the upper. One multiplication by the group's
// scale then widens to 32 bits.
inline int32_t group_offset(int32_t, const int8_t* codes) {
  int32_t lower = 0, upper = 0;
  for (int i = 0; i < kGroup; i += 4) {
    lower += codes[i] + codes[i + 1];
    upper += codes[i + 2] + codes[i + 3];
  }
  return static_cast<int32_t>((static_cast<uint32_t>(-8 * lower) & 0xffffu) | static_cast<uint32_t>(-8 * upper) << 16);
}
inline GroupSums group_dot4(const GroupSums& sums, const Codes& w, const Quad& x) {
  return {_mm256_add_epi16(sums.a, _mm256_maddubs_epi16(w.a, x.v)), _mm256_add_epi16(sums.b, _mm256_maddubs_epi16(w.b, x.v))};
}
inline __m256i twice_16(const uint8_t* scales) {   // 8 scales, each in both halves of its 32 bits
  const __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales)));
  return _mm256_or_si256(v, _mm256_slli_epi32(v, 16));
}
inline Scales load_scales(const uint8_t* p) { return {twice_16(p), twice_16(p + 8)}; }
inline Sums add_scaled(const Sums& sums, const GroupSums& group, const Scales& scales) {
  return {_mm256_add_epi32(sums.a, _mm256_madd_epi16(group.a, scales.a)), _mm256_add_epi32(sums.b, _mm256_madd_epi16(group.b, scales.b))};
}

#endif

}  // namespace
}  // namespace gpt2
