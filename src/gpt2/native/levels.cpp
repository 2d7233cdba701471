// Which levels this build has and this machine can run.

#include <cstring>

#include "amx.h"
#include "kernels.h"

#if defined(GPT2_LEVELS_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

#if defined(GPT2_LEVELS_ARM) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace gpt2 {

extern const Kernels portable_kernels;
#if defined(GPT2_LEVELS_X86)
extern const Kernels amx_kernels;
extern const Kernels avx512_bf16_kernels;
extern const Kernels avx512_vnni_kernels;
extern const Kernels avx2_vnni_kernels;
extern const Kernels avx2_kernels;
#endif

#if defined(GPT2_LEVELS_ARM)
extern const Kernels neon_dotprod_kernels;
extern const Kernels neon_kernels;
#endif

namespace {

#if defined(GPT2_LEVELS_ARM)
bool has_dot_product() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) >> 20) & 1u;   // HWCAP_ASIMDDP
#elif defined(__APPLE__)
  return true;                               // every Arm Mac
#else
  return false;
#endif
}
#endif

#if defined(GPT2_LEVELS_X86)
struct CpuidLeaf { uint32_t eax, ebx, ecx, edx; };

CpuidLeaf cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidLeaf r = {0, 0, 0, 0};
#if defined(_MSC_VER)
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  std::memcpy(&r, out, sizeof r);
#else
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

// The parts of the register file that the operating system saves (Intel SDM volume 1, 13.3).
uint64_t saved_state() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

bool has_bit(uint32_t word, int bit) { return (word >> bit) & 1u; }

bool has_avx2() {
  const CpuidLeaf basic = cpuid(1, 0), extended = cpuid(7, 0);
  const bool xgetbv = has_bit(basic.ecx, 27), avx = has_bit(basic.ecx, 28);
  const bool fma = has_bit(basic.ecx, 12), f16c = has_bit(basic.ecx, 29), avx2 = has_bit(extended.ebx, 5);
  return xgetbv && avx && fma && f16c && avx2 && (saved_state() & 6) == 6;   // xmm and ymm
}

bool has_avx512_vnni() {
  if (!has_avx2() || (saved_state() & 0xe6) != 0xe6) return false;   // also the masks and both halves of zmm
  const CpuidLeaf extended = cpuid(7, 0);
  const bool f = has_bit(extended.ebx, 16), dq = has_bit(extended.ebx, 17), bw = has_bit(extended.ebx, 30);
  return f && dq && bw && has_bit(extended.ebx, 31) && has_bit(extended.ecx, 11);   // VL, VNNI
}

bool has_avx2_vnni() {
#if defined(GPT2_AVX_VNNI_BY_AVX512)   // a test, where lanes_avx2.h was compiled with the same instructions of AVX-512
  return has_avx512_vnni();
#else
  return has_avx2() && cpuid(7, 0).eax >= 1 && has_bit(cpuid(7, 1).eax, 4);
#endif
}

bool has_avx512_bf16() { return has_avx512_vnni() && cpuid(7, 0).eax >= 1 && has_bit(cpuid(7, 1).eax, 5); }

// AMD's family 26. Zen 4 (25) and Intel's read 1.1 to 1.4 times as fast with prefetches, Zen 5 0.75 times as fast.
[[maybe_unused]] bool is_zen_5_or_later() {
  const CpuidLeaf vendor = cpuid(0, 0), basic = cpuid(1, 0);
  const uint32_t family = (basic.eax >> 8 & 15) + (basic.eax >> 20 & 255);   // the second part counts where the first is 15
  return vendor.ebx == 0x68747541 && family >= 26;   // "Auth" of "AuthenticAMD"
}

[[maybe_unused]] bool has_amx() {   // builds for systems other than Linux lack that level
#if defined(GPT2_TILES_EMULATED)   // a test, where the tiles are plain C++
  return has_avx512_bf16();
#else
  const uint32_t features = cpuid(7, 0).edx;
  const bool bf16 = has_bit(features, 22), tile = has_bit(features, 24), int8 = has_bit(features, 25);
  return has_avx512_bf16() && bf16 && tile && int8 && (saved_state() & 0x60000) == 0x60000;   // tile data and tile configuration
#endif
}
#endif

struct LevelList {
  const Kernels* items[8] = {};
  const char* warning = "";

  LevelList() {
    int count = 0;
#if defined(GPT2_LEVELS_X86)
#if defined(GPT2_LEVEL_AMX)
    if (has_amx()) {
      if (!may_use_amx()) warning = "the system does not give this process the processor's AMX tiles: AMX is not used";
      else if (multiplies_alike(amx_kernels, avx512_bf16_kernels)) items[count++] = &amx_kernels;
      else warning = "the products of this processor's AMX tiles differ from those of its AVX-512: AMX is not used";
    }
#endif
#if defined(GPT2_LEVEL_AVX512_BF16)
    if (has_avx512_bf16()) items[count++] = &avx512_bf16_kernels;
#endif
#if defined(GPT2_LEVEL_AVX512_VNNI)
    if (has_avx512_vnni()) items[count++] = &avx512_vnni_kernels;
#endif
#if defined(GPT2_LEVEL_AVX2_VNNI)
    if (has_avx2_vnni()) items[count++] = &avx2_vnni_kernels;
#endif
#if defined(GPT2_LEVEL_AVX2)
    if (has_avx2()) items[count++] = &avx2_kernels;
#endif
#endif
#if defined(GPT2_LEVELS_ARM)
    if (has_dot_product()) items[count++] = &neon_dotprod_kernels;
    items[count++] = &neon_kernels;
#endif
    items[count++] = &portable_kernels;
  }
};

}  // namespace

static const LevelList& level_list() {
  static const LevelList list;
  return list;
}

const Kernels* const* levels() { return level_list().items; }

const char* levels_warning() { return level_list().warning; }

bool prefetches_streams() {
#if defined(GPT2_PREFETCHES_STREAMS)   // a test
  return GPT2_PREFETCHES_STREAMS;
#elif defined(GPT2_LEVELS_X86)
  static const bool streams = is_zen_5_or_later();
  return streams;
#else
  return false;
#endif
}

const Kernels* find_level(const char* name) {
  for (const Kernels* const* level = levels(); *level; ++level) {
    if (std::strcmp((*level)->name, name) == 0) return *level;
  }
  return nullptr;
}

}  // namespace gpt2
