// Takes the best of several passes: other load on the machine can only make a pass slower.

#include "limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "buffer.h"
#include "pool.h"

namespace gpt2 {
namespace {

constexpr double kSeconds = 0.3;   // for all passes of a way together; at least one pass
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

constexpr size_t kWord = sizeof(uint64_t), kLineWords = kLine / kWord;

// Reads `lines` lines of each stream, side by side, prefetching `Ahead` bytes further; 0: not at all.
template <size_t Streams, size_t Ahead>
void read_streams(const uint64_t* from, size_t lines) {
  uint64_t sums[kLineWords] = {};
  for (size_t line = 0; line < lines; ++line) {
    for (size_t stream = 0; stream < Streams; ++stream) {
      const uint64_t* const words = from + (stream * lines + line) * kLineWords;
      if (Ahead > 0) prefetch(words + Ahead / kWord);
      for (size_t i = 0; i < kLineWords; ++i) sums[i] += words[i];
    }
  }
  for (const uint64_t sum : sums) sink += sum;
}

template <size_t Streams, size_t Ahead>
double rate_of_streams(Pool& pool, int threads, const Buffer<uint64_t>& buffer) {
  const double least = least_seconds(pool, threads, [&](int member, int members) {
    const size_t lines = buffer.size() / kLineWords / Streams / static_cast<size_t>(members);
    read_streams<Streams, Ahead>(buffer.data() + static_cast<size_t>(member) * Streams * lines * kLineWords, lines);
  });
  return static_cast<double>(buffer.bytes()) / least;
}

}  // namespace

// Which way is fastest depends on the processor: Intel's and Zen 4 want prefetches, Zen 5 none.
double read_rate(int threads, int64_t bytes) {
  const std::shared_ptr<Pool> pool = Pool::shared();
  pool->grow(threads);
  Buffer<uint64_t> buffer(static_cast<size_t>(bytes) / kWord);
  std::fill(buffer.data(), buffer.data() + buffer.size(), uint64_t{1});   // unwritten pages would all be the same zero page
  return std::max({rate_of_streams<1, 4096>(*pool, threads, buffer), rate_of_streams<4, 1024>(*pool, threads, buffer),
                   rate_of_streams<4, 0>(*pool, threads, buffer)});
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
