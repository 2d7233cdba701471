// Peak rates of this machine, so that benchmarks can report how near a kernel comes.

#pragma once

#include "kernels.h"

namespace gpt2 {

double read_rate(int threads, int64_t bytes);                         // bytes a second, of a buffer of that size
double product_rate(const Kernels& kernels, Form form, int threads);   // multiply-adds a second, from registers

}  // namespace gpt2
