// The neon level: what every 64-bit Arm has.

#include "lanes_neon.h"
#include "level.h"

namespace gpt2 {

extern const Kernels neon_kernels;
const Kernels neon_kernels = kernel_table("neon");

}  // namespace gpt2
