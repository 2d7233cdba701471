// Asked once, before the amx level is offered.

#pragma once

#include "kernels.h"

namespace gpt2 {

bool wants_amx();     // GPT2_ISA=amx: by name only, until it has been seen on a processor that has it
bool may_use_amx();   // asks the system; the processor must be known to have it
bool multiplies_alike(const Kernels& one, const Kernels& other);

}  // namespace gpt2
