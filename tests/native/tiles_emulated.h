// AMX's tiles in plain C++, so that the kernels over them are tested on any machine: the same names as tiles_amx.h.
//
// What the processor refuses ends the program here: shapes that are too large, and products of shapes that do not fit.
// Products of bfloat16 as Intel gives them (SDM volume 2, TDPBF16PS): within one instruction the even and the odd inputs
// of an output are summed apart, each by fused multiply-adds in order; then both sums are added, and that to the output.
// All round to nearest, and subnormal numbers count as zeros, as inputs and as results.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tile_shapes.h"

namespace gpt2 {
namespace {

struct Tiles {
  bool begun = false;
  TileShapes shapes;
  unsigned char data[8][16][64];
};
inline thread_local Tiles tiles;

inline void refuse_unless(bool holds, const char* what) {
  if (holds) return;
  std::printf("FAILED: a tile: %s\n", what);
  std::abort();
}

inline void tiles_begin(const TileShapes& shapes) {
  refuse_unless(shapes.palette == 1 && shapes.start_line == 0, "unknown palette");
  for (int t = 0; t < 16; ++t) {
    refuse_unless(shapes.lines[t] <= 16 && shapes.bytes[t] <= 64, "too large");
    refuse_unless((shapes.lines[t] == 0) == (shapes.bytes[t] == 0), "lines without bytes");
    refuse_unless(t < 8 || shapes.lines[t] == 0, "there are eight");
  }
  std::memset(tiles.data, 0, sizeof tiles.data);
  tiles.shapes = shapes;
  tiles.begun = true;
}
inline void tiles_end() { tiles.begun = false; }

template <int T>
void check_tile() { refuse_unless(tiles.begun && tiles.shapes.lines[T] > 0, "used without a shape"); }

template <int T>
void tile_zero() {
  check_tile<T>();
  std::memset(tiles.data[T], 0, sizeof tiles.data[T]);
}

template <int T>
void tile_load(const void* p, int64_t stride) {
  tile_zero<T>();
  for (int i = 0; i < tiles.shapes.lines[T]; ++i) std::memcpy(tiles.data[T][i], static_cast<const char*>(p) + i * stride, tiles.shapes.bytes[T]);
}

template <int T>
void tile_store(void* p, int64_t stride) {
  check_tile<T>();
  for (int i = 0; i < tiles.shapes.lines[T]; ++i) std::memcpy(static_cast<char*>(p) + i * stride, tiles.data[T][i], tiles.shapes.bytes[T]);
}

template <int C, int A, int B>
void check_product() {
  check_tile<C>();
  check_tile<A>();
  check_tile<B>();
  const TileShapes& s = tiles.shapes;
  refuse_unless(s.lines[C] == s.lines[A] && s.bytes[C] == s.bytes[B] && s.bytes[A] == 4 * s.lines[B], "shapes of a product");
}

template <class T>
T part(const unsigned char (&line)[64], int i) {
  T value;
  std::memcpy(&value, line + i * static_cast<int>(sizeof(T)), sizeof(T));
  return value;
}

template <int C, int A, int B>
void tile_dot_int8() {
  check_product<C, A, B>();
  for (int m = 0; m < tiles.shapes.lines[C]; ++m) {
    for (int n = 0; n < tiles.shapes.bytes[C] / 4; ++n) {
      uint32_t sum = part<uint32_t>(tiles.data[C][m], n);
      for (int k = 0; k < tiles.shapes.bytes[A]; ++k) {
        sum += static_cast<uint32_t>(part<int8_t>(tiles.data[A][m], k) * part<int8_t>(tiles.data[B][k / 4], 4 * n + k % 4));
      }
#if defined(GPT2_TILES_BROKEN)
      sum += n == 3 && m == 1;   // a processor that is wrong, to see that it is noticed
#endif
      std::memcpy(tiles.data[C][m] + 4 * n, &sum, 4);
    }
  }
}

inline float without_subnormals(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }

inline float widen_bits(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return without_subnormals(x);
}

template <int C, int A, int B>
void tile_dot_bf16() {
  check_product<C, A, B>();
  for (int m = 0; m < tiles.shapes.lines[C]; ++m) {
    for (int n = 0; n < tiles.shapes.bytes[C] / 4; ++n) {
      float sums[2] = {0.0f, 0.0f};
      for (int k = 0; k < tiles.shapes.bytes[A] / 2; ++k) {
        const float a = widen_bits(part<uint16_t>(tiles.data[A][m], k)), b = widen_bits(part<uint16_t>(tiles.data[B][k / 2], 2 * n + k % 2));
        sums[k % 2] = without_subnormals(std::fma(a, b, sums[k % 2]));
      }
      const float before = without_subnormals(part<float>(tiles.data[C][m], n));
      const float after = without_subnormals(before + without_subnormals(sums[0] + sums[1]));
      std::memcpy(tiles.data[C][m] + 4 * n, &after, 4);
    }
  }
}

}  // namespace
}  // namespace gpt2
