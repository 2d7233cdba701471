// A checksum that detects damage by disks and copies, not tampering.
//
//   line of 64 bytes   | w0 | w1 | .. | w7 |     eight lanes of 64 bits; for each
//                                                sum   += word     a changed bit changes it
//                                                sums  += sum      so does a line that stands elsewhere
//
// It only adds, so every compiler vectorizes it and memory is the bottleneck.

#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace gpt2 {

inline uint64_t checksum(const void* data, int64_t bytes, uint64_t seed) {
  constexpr int lanes = kLine / sizeof(uint64_t), kAhead = 2048;   // bytes; prefetching doubles the speed
  uint64_t sum[lanes] = {}, sums[lanes] = {};
  const auto add_line = [&](const unsigned char* line, size_t count) {
    uint64_t words[lanes] = {};
    std::memcpy(words, line, count);
    for (int i = 0; i < lanes; ++i) sums[i] += sum[i] += words[i];
  };
  const unsigned char* at = static_cast<const unsigned char*>(data);
  const unsigned char* const end = at + bytes;
  for (; end - at >= kLine; at += kLine) {
    prefetch(at + kAhead);
    add_line(at, kLine);
  }
  if (at < end) add_line(at, static_cast<size_t>(end - at));
  uint64_t all = seed ^ static_cast<uint64_t>(bytes);
  const auto mix = [&](uint64_t word) {   // bijective, so a difference in one word always changes the result
    all = (all ^ word) * 0x9e3779b97f4a7c15u;
    all ^= all >> 32;
  };
  for (int i = 0; i < lanes; ++i) mix(sum[i]);
  for (int i = 0; i < lanes; ++i) mix(sums[i]);
  return all;
}

}  // namespace gpt2
