// The portable level: plain C++ with the baseline instructions of the machine.

#include "lanes_portable.h"
#include "level.h"

namespace gpt2 {

extern const Kernels portable_kernels;
const Kernels portable_kernels = kernel_table("portable");

}  // namespace gpt2
