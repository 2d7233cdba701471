// The processor's tiles (AMX): eight registers of up to 16 lines x 64 bytes each; one instruction multiplies two of them.
// tests/native/tiles_emulated.h emulates them, and documents valid shapes and products.
//
// Written in assembly: compiler intrinsics declare neither that a load reads memory nor that a configuration is more than
// its first bytes, and gcc 12 then drops the stores before them.

#pragma once

#include <cstdint>

#include "tile_shapes.h"

namespace gpt2 {
namespace {

inline void tiles_begin(const TileShapes& shapes) { __asm__ volatile("ldtilecfg %0" : : "m"(shapes) : "memory"); }
inline void tiles_end() { __asm__ volatile("tilerelease" : : : "memory"); }

template <int T>
inline void tile_zero() { __asm__ volatile("tilezero %%tmm%c0" : : "n"(T)); }

template <int T>
inline void tile_load(const void* p, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "n"(T) : "memory");
}

template <int T>
inline void tile_store(void* p, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "n"(T) : "memory");
}

// C += A B, of signed bytes in fours.
template <int C, int A, int B>
inline void tile_dot_int8() { __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "n"(C), "n"(A), "n"(B)); }

// C += A B, of bfloat16 in pairs.
template <int C, int A, int B>
inline void tile_dot_bf16() { __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "n"(C), "n"(A), "n"(B)); }

}  // namespace
}  // namespace gpt2
