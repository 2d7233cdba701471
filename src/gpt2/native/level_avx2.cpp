// The AVX2 level (AVX2, FMA, F16C): compiled with those instructions, called only if cpuid reports them.

#include "lanes_avx2.h"
#include "level.h"

namespace gpt2 {

extern const Kernels avx2_kernels;
const Kernels avx2_kernels = kernel_table("avx2");

}  // namespace gpt2
