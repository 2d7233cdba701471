// The avx512-vnni level (AVX-512 F, BW, DQ, VL and VNNI): called only if cpuid reports them.

#include "lanes_avx512.h"
#include "level.h"

namespace gpt2 {

extern const Kernels avx512_vnni_kernels;
const Kernels avx512_vnni_kernels = kernel_table("avx512-vnni");

}  // namespace gpt2
