// Sixteen numbers side by side in four NEON registers; with the dot product if the compiler targets it.
//
// The names are those of lanes_portable.h, which documents them.

#pragma once

#include <arm_neon.h>

#include <cstring>

#include "kernels.h"

namespace gpt2 {
namespace {

// Of 32 registers, 16 hold sums: 4 rows of 4 registers; in int4, 2 rows, each with 4 more for its group.
constexpr int kRowsFloat = 4, kRowsInt8 = 4, kRowsInt4 = 2, kRowsAttend = 4;
constexpr int kPanelsFloat = 1, kPanelsInt8 = 1, kPanelsInt4 = 1, kBlocksAttend = 1;
constexpr int kWidePanels = 2;   // one row alone: 8 independent sums
constexpr int kRowsMany = 1, kPanelsMany = 1, kFewestRowsMany = 0;   // int4 unpacks its codes for each tile

#define GPT2_EACH GPT2_UNROLL for (int i = 0; i < 4; ++i)

struct Lanes { float32x4_t v[4]; };

inline Lanes broadcast(float x) { const float32x4_t v = vdupq_n_f32(x); return {{v, v, v, v}}; }
inline Lanes load(const float* p) { Lanes r; GPT2_EACH r.v[i] = vld1q_f32(p + 4 * i); return r; }
inline void store(float* p, const Lanes& x) { GPT2_EACH vst1q_f32(p + 4 * i, x.v[i]); }

inline Lanes add(const Lanes& x, const Lanes& y) { Lanes r; GPT2_EACH r.v[i] = vaddq_f32(x.v[i], y.v[i]); return r; }
inline Lanes sub(const Lanes& x, const Lanes& y) { Lanes r; GPT2_EACH r.v[i] = vsubq_f32(x.v[i], y.v[i]); return r; }
inline Lanes mul(const Lanes& x, const Lanes& y) { Lanes r; GPT2_EACH r.v[i] = vmulq_f32(x.v[i], y.v[i]); return r; }
inline Lanes div(const Lanes& x, const Lanes& y) { Lanes r; GPT2_EACH r.v[i] = vdivq_f32(x.v[i], y.v[i]); return r; }
inline Lanes absolute(const Lanes& x) { Lanes r; GPT2_EACH r.v[i] = vabsq_f32(x.v[i]); return r; }
inline Lanes multiply_add(const Lanes& x, const Lanes& y, const Lanes& z) { Lanes r; GPT2_EACH r.v[i] = vfmaq_f32(z.v[i], x.v[i], y.v[i]); return r; }
inline Lanes round_even(const Lanes& x) { Lanes r; GPT2_EACH r.v[i] = vrndnq_f32(x.v[i]); return r; }

// x where a < b, y elsewhere. As on the other levels, min and max return their second operand for a NaN.
inline Lanes where_less(const Lanes& a, const Lanes& b, const Lanes& x, const Lanes& y) {
  Lanes r; GPT2_EACH r.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), x.v[i], y.v[i]); return r;
}
inline Lanes min(const Lanes& x, const Lanes& y) { return where_less(x, y, x, y); }
inline Lanes max(const Lanes& x, const Lanes& y) { return where_less(y, x, x, y); }

inline Lanes times_power_of_two(const Lanes& x, const Lanes& n) {
  Lanes power;
  GPT2_EACH power.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23));
  return mul(x, power);
}

inline float sum_across(const Lanes& x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float max_across(const Lanes& x) {
  const Lanes swapped = {{x.v[2], x.v[3], x.v[0], x.v[1]}};
  const Lanes most = max(x, swapped);
  return vmaxvq_f32(vmaxq_f32(most.v[0], most.v[1]));
}

inline Lanes load(const Half* p) {
  Lanes r;
  GPT2_EACH r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p) + 4 * i)));
  return r;
}
inline void store(Half* p, const Lanes& x) {
  const Lanes s = min(max(x, broadcast(-65504.0f)), broadcast(65504.0f));
  GPT2_EACH vst1_u16(reinterpret_cast<uint16_t*>(p) + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(s.v[i])));
}

struct Pairs { uint32x4_t v[4]; };
inline Pairs load_pairs(const Bf16* p) {
  Pairs r; GPT2_EACH r.v[i] = vreinterpretq_u32_u16(vld1q_u16(reinterpret_cast<const uint16_t*>(p) + 8 * i)); return r;
}
inline Lanes first_of(const Pairs& x) { Lanes r; GPT2_EACH r.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(x.v[i], 16)); return r; }
inline Lanes second_of(const Pairs& x) {
  Lanes r; GPT2_EACH r.v[i] = vreinterpretq_f32_u32(vandq_u32(x.v[i], vdupq_n_u32(0xffff0000u))); return r;
}

struct Sums { int32x4_t v[4]; };
struct Codes { int8x16_t v[4]; };   // 16 outputs x 4 inputs
struct Quad { int8x16_t v; };       // 4 inputs, for every output

inline Quad broadcast_quad(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, 4);
  return {vreinterpretq_s8_s32(vdupq_n_s32(four))};
}
inline Lanes to_lanes(const Sums& s) { Lanes r; GPT2_EACH r.v[i] = vcvtq_f32_s32(s.v[i]); return r; }
inline void store_codes(int8_t* p, const Lanes& whole) {
  int16x4_t words[4];
  GPT2_EACH words[i] = vqmovn_s32(vcvtq_s32_f32(whole.v[i]));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(vcombine_s16(words[0], words[1])), vqmovn_s16(vcombine_s16(words[2], words[3]))));
}

inline int32x4_t dot4(int32x4_t sums, int8x16_t w, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sums, w, x);
#else
  const int32x4_t first = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));   // a product fits 16 bits
  const int32x4_t second = vpaddlq_s16(vmull_high_s8(w, x));
  return vaddq_s32(sums, vpaddq_s32(first, second));
#endif
}

// Signed times signed: weights need no offset.
inline Codes load_codes(const int8_t* p) { Codes r; GPT2_EACH r.v[i] = vld1q_s8(p + 16 * i); return r; }
inline Codes load_weights(const int8_t* p) { return load_codes(p); }
inline Sums start_sums(int32_t) { const int32x4_t v = vdupq_n_s32(0); return {{v, v, v, v}}; }
inline Sums dot4(const Sums& sums, const Codes& w, const Quad& x) {
  Sums r; GPT2_EACH r.v[i] = dot4(sums.v[i], w.v[i], x.v); return r;
}

// int4: codes 0..15 stand for -8..7; a group's sums start at -8 times the sum of its activations.
struct GroupSums { int32x4_t v[4]; };
struct Scales { int32x4_t v[4]; };

inline int32_t group_offset(int32_t code_sum, const int8_t*) { return -8 * code_sum; }
inline GroupSums start_group(int32_t offset) { const int32x4_t v = vdupq_n_s32(offset); return {{v, v, v, v}}; }
inline Codes low_nibbles(const Codes& c) { Codes r; GPT2_EACH r.v[i] = vandq_s8(c.v[i], vdupq_n_s8(15)); return r; }
inline Codes high_nibbles(const Codes& c) {
  Codes r; GPT2_EACH r.v[i] = vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(c.v[i]), 4)); return r;
}
inline GroupSums group_dot4(const GroupSums& sums, const Codes& w, const Quad& x) {
  GroupSums r; GPT2_EACH r.v[i] = dot4(sums.v[i], w.v[i], x.v); return r;
}
inline Scales load_scales(const uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_high_u16(low)),
           vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))), vreinterpretq_s32_u32(vmovl_high_u16(high))}};
}
inline Sums add_scaled(const Sums& sums, const GroupSums& group, const Scales& scales) {
  Sums r; GPT2_EACH r.v[i] = vmlaq_s32(sums.v[i], group.v[i], scales.v[i]); return r;
}

#undef GPT2_EACH

}  // namespace
}  // namespace gpt2
