// The avx2-vnni level (AVX2, FMA, F16C and AVX-VNNI): what most processors since 2022 have.

#define GPT2_LANES_VNNI
#include "lanes_avx2.h"
#include "level.h"

namespace gpt2 {

extern const Kernels avx2_vnni_kernels;
const Kernels avx2_vnni_kernels = kernel_table("avx2-vnni");

}  // namespace gpt2
