// Checks whether this process may use AMX, and whether AMX computes correctly here.
//
// Linux grants tiles to a process that asks (arch_prctl, since 5.16), unless one of its threads has a signal stack too small
// for them. On older kernels and other systems they would be an illegal instruction. Few machines can test this code, so the
// first use checks a product of each form against AVX-512; a processor or virtual machine that differs does not get the
// level.

#include "amx.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "matrix.h"

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gpt2 {
namespace {

struct Product {
  std::vector<int8_t> codes;
  std::vector<Bf16> rounded;
  std::vector<int32_t> code_sums, group_offsets;
};

// Rows x inputs x outputs, each with a remainder: 37, 1,184 and 48. The numbers come from a small generator.
constexpr int kRows = 37, kInputs = 1184, kStride = 1216, kPanels = 3;

std::vector<float> multiply(const Kernels& kernels, Form form) {
  uint32_t state = 1;
  const auto draw = [&] { return (state = state * 1664525u + 1013904223u) >> 16; };
  Matrix matrix(form, kInputs, kPanels * kPanel);
  const MatrixView& m = matrix.view();
  for (int panel = 0; panel < kPanels; ++panel) {
    const auto to = [&](const void* part) { return static_cast<unsigned char*>(matrix.piece().data) + (static_cast<const unsigned char*>(part) - m.data); };
    if (form != Form::bf16) std::fill_n(reinterpret_cast<float*>(to(m.row_scales(panel))), kPanel, 1.0f);
    std::generate(to(m.weights(panel)), to(m.panel(panel + 1)), [&] { return static_cast<unsigned char>(draw()); });
    for (int g = 0; form == Form::int4 && g < kInputs / kGroup; ++g) {
      std::generate_n(to(m.weights(panel)) + MatrixView::scales_at(g), kPanel, [&] { return static_cast<unsigned char>(1 + draw() % 127); });
    }
    for (unsigned char* byte = to(m.weights(panel)) + 1; form == Form::bf16 && byte < to(m.panel(panel + 1)); byte += 2) {
      *byte = static_cast<unsigned char>(0x3f | (*byte & 0x80));   // numbers near 1, without infinities
    }
  }
  Product p;
  p.group_offsets.resize(kRows * (kInputs / kGroup));
  p.codes.resize(kRows * kStride);
  p.rounded.resize(kRows * kStride);
  for (int r = 0; r < kRows; ++r) {
    int32_t total = 0;
    for (int k = 0; k < kInputs; ++k) {
      const int code = static_cast<int>(draw() % 255) - 127;
      const size_t at = static_cast<size_t>(r * kStride + k);
      p.codes[at] = static_cast<int8_t>(code);
      p.rounded[at] = {static_cast<uint16_t>(0x3f00u | (draw() & 0x80ffu))};
      total += code;
      p.group_offsets[static_cast<size_t>(r * (kInputs / kGroup) + k / kGroup)] -= 8 * code;   // as on every AVX-512 level
    }
    p.code_sums.push_back(total);
  }
  const std::vector<float> ones(kRows, 1.0f);
  const Activations x = {nullptr, 0, p.rounded.data(), kStride, p.codes.data(), kStride, ones.data(), p.code_sums.data(), p.group_offsets.data(), kInputs / kGroup};
  std::vector<float> y(static_cast<size_t>(kRows * kPanels * kPanel));
  kernels.dense(m, x, {y.data(), kPanels * kPanel, Finish::store}, 0, kRows, 0, kPanels);
  return y;
}

}  // namespace

bool may_use_amx() {
#if defined(GPT2_TILES_EMULATED)
  return true;
#elif defined(__linux__) && defined(__x86_64__)
  constexpr int ask = 0x1023, tile_data = 18;   // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, ask, tile_data) == 0;
#else
  return false;
#endif
}

bool multiplies_alike(const Kernels& one, const Kernels& other) {
  for (const Form form : {Form::int8, Form::int4, Form::bf16}) {
    const std::vector<float> y = multiply(one, form), expected = multiply(other, form);
    for (size_t i = 0; i < y.size(); ++i) {
      const float slack = form == Form::bf16 ? 1e-3f : 0.0f;   // the same products near 1, summed in another order
      if (!(std::fabs(y[i] - expected[i]) <= slack)) return false;
    }
  }
  return true;
}

}  // namespace gpt2
