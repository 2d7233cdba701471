// The avx512-bf16 level: avx512-vnni, and products of bfloat16 pairs.

#define GPT2_LANES_BF16
#include "lanes_avx512.h"
#include "level.h"

namespace gpt2 {

extern const Kernels avx512_bf16_kernels;
const Kernels avx512_bf16_kernels = kernel_table("avx512-bf16");

}  // namespace gpt2
