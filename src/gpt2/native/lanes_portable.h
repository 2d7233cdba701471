// Sixteen numbers side by side in plain C++, for every compiler and machine.
//
// Each level's lanes_*.h defines the same names, and the kernels are written once, over these names. Compilers turn
// the loops below into the baseline vectors of the machine.

#pragma once

#include <cstring>

#include "kernels.h"

namespace gpt2 {
namespace {

// Rows that a kernel computes at once: as many as keep all sums in registers.
constexpr int kRowsFloat = 2, kRowsInt8 = 2, kRowsInt4 = 1, kRowsAttend = 2;
constexpr int kPanelsFloat = 1, kPanelsInt8 = 1, kPanelsInt4 = 1, kBlocksAttend = 1;   // panels, or blocks of keys, side by side
constexpr int kWidePanels = 1;   // panels side by side when there is a single row
constexpr int kRowsMany = 1, kPanelsMany = 1, kFewestRowsMany = 0;   // int4 unpacks its codes for each tile

#define GPT2_EACH_LANE for (int i = 0; i < kPanel; ++i)

struct Lanes { float v[kPanel]; };

inline Lanes broadcast(float x) { Lanes r; GPT2_EACH_LANE r.v[i] = x; return r; }
inline Lanes load(const float* p) { Lanes r; std::memcpy(r.v, p, sizeof r.v); return r; }
inline void store(float* p, const Lanes& a) { std::memcpy(p, a.v, sizeof a.v); }

inline Lanes add(const Lanes& a, const Lanes& b) { Lanes r; GPT2_EACH_LANE r.v[i] = a.v[i] + b.v[i]; return r; }
inline Lanes sub(const Lanes& a, const Lanes& b) { Lanes r; GPT2_EACH_LANE r.v[i] = a.v[i] - b.v[i]; return r; }
inline Lanes mul(const Lanes& a, const Lanes& b) { Lanes r; GPT2_EACH_LANE r.v[i] = a.v[i] * b.v[i]; return r; }
inline Lanes div(const Lanes& a, const Lanes& b) { Lanes r; GPT2_EACH_LANE r.v[i] = a.v[i] / b.v[i]; return r; }
inline Lanes min(const Lanes& a, const Lanes& b) { Lanes r; GPT2_EACH_LANE r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return r; }
inline Lanes max(const Lanes& a, const Lanes& b) { Lanes r; GPT2_EACH_LANE r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return r; }
inline Lanes absolute(const Lanes& a) { Lanes r; GPT2_EACH_LANE r.v[i] = a.v[i] < 0 ? -a.v[i] : a.v[i]; return r; }
inline Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) { return add(mul(a, b), c); }

// x where a < b, y elsewhere.
inline Lanes where_less(const Lanes& a, const Lanes& b, const Lanes& x, const Lanes& y) {
  Lanes r; GPT2_EACH_LANE r.v[i] = a.v[i] < b.v[i] ? x.v[i] : y.v[i]; return r;
}

// To the nearest integer, halves to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
inline Lanes round_even(const Lanes& a) {
  Lanes r; GPT2_EACH_LANE { const volatile float shifted = a.v[i] + 12582912.0f; r.v[i] = shifted - 12582912.0f; } return r;
}

// x 2^n for integer n in -126..127.
inline Lanes times_power_of_two(const Lanes& x, const Lanes& n) {
  Lanes power;
  GPT2_EACH_LANE { const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23; std::memcpy(&power.v[i], &bits, 4); }
  return mul(x, power);
}

// A fixed tree, the same on every level: i and i+8, then i+4, i+2, i+1.
inline float sum_across(Lanes a) {
  for (int width = kPanel / 2; width > 0; width /= 2) for (int i = 0; i < width; ++i) a.v[i] += a.v[i + width];
  return a.v[0];
}
inline float max_across(const Lanes& a) { float r = a.v[0]; GPT2_EACH_LANE r = a.v[i] > r ? a.v[i] : r; return r; }

// fp16 and bfloat16. An fp16 exponent has 5 bits: shifting it into place and multiplying by 2^112 corrects the bias,
// for subnormals too. Infinities do not occur: `store` saturates.
inline Lanes load(const Half* p) {
  Lanes r;
  GPT2_EACH_LANE {
    const uint32_t magnitude = (p[i].bits & 0x7fffu) << 13, sign = (p[i].bits & 0x8000u) << 16;
    float x; std::memcpy(&x, &magnitude, 4);
    x *= 5.192296858534828e33f;   // 2^112
    uint32_t bits; std::memcpy(&bits, &x, 4);
    bits |= sign; std::memcpy(&r.v[i], &bits, 4);
  }
  return r;
}

inline void store(Half* p, const Lanes& a) {
  GPT2_EACH_LANE {
    uint32_t bits; std::memcpy(&bits, &a.v[i], 4);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x477fe000u) magnitude = 0x477fe000u;           // 65504, the largest half
    if (magnitude < 0x38800000u) {                                  // below 2^-14: subnormal
      float x; std::memcpy(&x, &magnitude, 4);
      const volatile float shifted = x + 0.5f;                      // its last bit is worth 2^-24
      const float rounded = shifted;
      std::memcpy(&magnitude, &rounded, 4);
      p[i].bits = static_cast<uint16_t>(sign | (magnitude - 0x3f000000u));
    } else {
      magnitude += 0xfffu + ((magnitude >> 13) & 1u);               // to nearest, halves to even
      p[i].bits = static_cast<uint16_t>(sign | ((magnitude - 0x38000000u) >> 13));
    }
  }
}

// bfloat16 in pairs of neighbouring inputs, for each of 16 outputs.
struct Pairs { Bf16 v[2 * kPanel]; };
inline Pairs load_pairs(const Bf16* p) { Pairs r; std::memcpy(r.v, p, sizeof r.v); return r; }
inline float widen(Bf16 x) { const uint32_t bits = static_cast<uint32_t>(x.bits) << 16; float r; std::memcpy(&r, &bits, 4); return r; }
inline Lanes first_of(const Pairs& x) { Lanes r; GPT2_EACH_LANE r.v[i] = widen(x.v[2 * i]); return r; }
inline Lanes second_of(const Pairs& x) { Lanes r; GPT2_EACH_LANE r.v[i] = widen(x.v[2 * i + 1]); return r; }

// Integers: one sum for each of 16 outputs; codes are 16 outputs x 4 inputs. A level whose products need an unsigned
// operand may store weights with an offset and start its sums at the value that cancels it; hence `start_sums` gets the
// sum of the row's activations.
struct Sums { int32_t v[kPanel]; };
struct Codes { int8_t v[4 * kPanel]; };
struct Quad { int8_t v[4]; };   // 4 inputs, for every output

inline Quad broadcast_quad(const int8_t* x) { Quad r; std::memcpy(r.v, x, 4); return r; }
inline Lanes to_lanes(const Sums& a) { Lanes r; GPT2_EACH_LANE r.v[i] = static_cast<float>(a.v[i]); return r; }
inline void store_codes(int8_t* p, const Lanes& whole) { GPT2_EACH_LANE p[i] = static_cast<int8_t>(static_cast<int32_t>(whole.v[i])); }

inline Codes load_codes(const int8_t* p) { Codes r; std::memcpy(r.v, p, sizeof r.v); return r; }
inline Codes load_weights(const int8_t* p) { return load_codes(p); }
inline Sums start_sums(int32_t) { return Sums{}; }
inline Sums dot4(Sums sums, const Codes& w, const Quad& x) {
  GPT2_EACH_LANE sums.v[i] += w.v[4 * i] * x.v[0] + w.v[4 * i + 1] * x.v[1] + w.v[4 * i + 2] * x.v[2] + w.v[4 * i + 3] * x.v[3];
  return sums;
}

// int4: codes 0..15 stand for -8..7, two to a byte. A group's sums start at -8 times the sum of its activations;
// `group_offset` returns that in the form that the level's `start_group` takes.
struct GroupSums { int32_t v[kPanel]; };
struct Scales { uint8_t v[kPanel]; };

inline int32_t group_offset(int32_t code_sum, const int8_t*) { return -8 * code_sum; }
inline GroupSums start_group(int32_t offset) { GroupSums r; GPT2_EACH_LANE r.v[i] = offset; return r; }
inline Codes low_nibbles(const Codes& a) { Codes r; for (int i = 0; i < 4 * kPanel; ++i) r.v[i] = static_cast<int8_t>(a.v[i] & 15); return r; }
inline Codes high_nibbles(const Codes& a) {
  Codes r; for (int i = 0; i < 4 * kPanel; ++i) r.v[i] = static_cast<int8_t>((static_cast<uint8_t>(a.v[i]) >> 4)); return r;
}
inline GroupSums group_dot4(GroupSums sums, const Codes& w, const Quad& x) {
  GPT2_EACH_LANE sums.v[i] += w.v[4 * i] * x.v[0] + w.v[4 * i + 1] * x.v[1] + w.v[4 * i + 2] * x.v[2] + w.v[4 * i + 3] * x.v[3];
  return sums;
}
inline Scales load_scales(const uint8_t* p) { Scales r; std::memcpy(r.v, p, sizeof r.v); return r; }
inline Sums add_scaled(Sums sums, const GroupSums& group, const Scales& scales) {
  GPT2_EACH_LANE sums.v[i] += group.v[i] * scales.v[i];
  return sums;
}

#undef GPT2_EACH_LANE

}  // namespace
}  // namespace gpt2
