// Takes the best of several passes: other load on the machine can only make a pass slower.

#include "limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "buffer.h"
#include "pool.h"

namespace gpt2 {
namespace {

constexpr double kSeconds = 0.3;   // for all passes together; at least one pass
constexpr size_t kAhead = 512;     // 4 KB: prefetching this far ahead makes a core read up to 1.4 times as fast
std::atomic<uint64_t> sink{0};     // keeps the reads from being optimized away

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class F>
double least_seconds(Pool& pool, int threads, const F& f) {
  double least = 1e9;
  const double end = seconds() + kSeconds;
  do {
    const double begin = seconds();
    pool.run(threads, [&](Team& team, int member) { f(member, team.size()); });
    least = std::min(least, seconds() - begin);
  } while (seconds() < end);
  return least;
}

}  // namespace

double read_rate(int threads, int64_t bytes) {
  const std::shared_ptr<Pool> pool = Pool::shared();
  pool->grow(threads);
  const size_t count = static_cast<size_t>(bytes) / sizeof(uint64_t);
  Buffer<uint64_t> buffer(count);
  std::fill(buffer.data(), buffer.data() + count, uint64_t{1});   // unwritten pages would all be the same zero page
  const double least = least_seconds(*pool, threads, [&](int member, int members) {
    const size_t begin = count * static_cast<size_t>(member) / static_cast<size_t>(members);
    const size_t end = count * (static_cast<size_t>(member) + 1) / static_cast<size_t>(members);
    uint64_t sums[8] = {};
    for (size_t i = begin; i + 8 <= end; i += 8) {
      prefetch(buffer.data() + i + kAhead);
      for (size_t j = 0; j < 8; ++j) sums[j] += buffer[i + j];
    }
    for (const uint64_t sum : sums) sink += sum;
  });
  return static_cast<double>(count * sizeof(uint64_t)) / least;
}

double product_rate(const Kernels& kernels, Form form, int threads) {
  const std::shared_ptr<Pool> pool = Pool::shared();
  pool->grow(threads);
  std::atomic<int64_t> products{0};
  const double least = least_seconds(*pool, threads, [&](int member, int members) {
    const int64_t mine = kernels.products(form, 100000);
    if (member == 0) products = mine * members;
  });
  return static_cast<double>(products) / least;
}

}  // namespace gpt2
