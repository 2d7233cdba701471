// Sixteen numbers side by side in two AVX2 registers; with FMA and F16C, which every machine with AVX2 has.
//
// The same names as lanes_portable.h, which says what each means.

#pragma once

#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace gpt2 {
namespace {

// Of 16 registers, float kernels keep 12 as sums (6 rows x 2), integer kernels 8: their products need the rest.
constexpr int kRowsFloat = 6, kRowsInt8 = 4, kRowsInt4 = 4, kRowsAttend = 4;
constexpr int kWidePanels = 4;   // one row alone: 8 independent sums hide the latency of a multiply-add

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
inline Lanes power_of_two(const Lanes& n) { return {power_of_two(n.a), power_of_two(n.b)}; }

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
inline __m256 widen_bf16(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
inline Lanes load(const Bf16* p) { return {widen_bf16(load_bits(p)), widen_bf16(load_bits(p + 8))}; }

struct Sums { __m256i a, b; };    // 16 x int32
struct Codes { __m256i a, b; };   // 16 outputs x 4 inputs

inline __m256i load_int(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256i broadcast4(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

inline Sums zero_sums() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Codes load_codes(const int8_t* p) { return {load_int(p), load_int(p + 32)}; }
inline Lanes to_lanes(const Sums& s) { return {_mm256_cvtepi32_ps(s.a), _mm256_cvtepi32_ps(s.b)}; }

// maddubs multiplies unsigned by signed and adds neighbours with saturation at 32767. Giving it |w| and x with
// the sign of w keeps every pair within 2 * 128 * 127 = 32512, so nothing saturates: the sum is exact.
inline __m256i dot4(__m256i sums, __m256i w, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Sums dot4(const Sums& sums, const Codes& w, const int8_t* x) {
  const __m256i four = broadcast4(x);
  return {dot4(sums.a, w.a, four), dot4(sums.b, w.b, four)};
}

// A group's sum fits 16 bits (32 * 8 * 127 = 32512): each output keeps two 16-bit halves of it, which wrap
// around on the way and are right at the end. One multiplication by the group's scale then widens to 32 bits.
struct GroupSums { __m256i a, b; };   // 16 outputs x 2 x int16

inline GroupSums start_group(int32_t offsets) { const __m256i v = _mm256_set1_epi32(offsets); return {v, v}; }
inline Codes low_nibbles(const Codes& c) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(c.a, mask), _mm256_and_si256(c.b, mask)};
}
inline Codes high_nibbles(const Codes& c) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(c.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(c.b, 4), mask)};
}
inline GroupSums group_dot4(const GroupSums& sums, const Codes& w, const int8_t* x) {
  const __m256i four = broadcast4(x);
  return {_mm256_add_epi16(sums.a, _mm256_maddubs_epi16(w.a, four)), _mm256_add_epi16(sums.b, _mm256_maddubs_epi16(w.b, four))};
}
inline __m256i twice_16(const uint8_t* scales) {   // 8 scales, each in both halves of its 32 bits
  const __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales)));
  return _mm256_or_si256(v, _mm256_slli_epi32(v, 16));
}
inline Sums add_scaled(const Sums& sums, const GroupSums& group, const uint8_t* scales) {
  return {_mm256_add_epi32(sums.a, _mm256_madd_epi16(group.a, twice_16(scales))),
          _mm256_add_epi32(sums.b, _mm256_madd_epi16(group.b, twice_16(scales + 8)))};
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace gpt2
