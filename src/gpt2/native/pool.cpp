// The pool's waiting: spin briefly, since a phase lasts microseconds; then give way, then sleep.

#include "pool.h"

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace gpt2 {
namespace {

// Within a step, members wait for one another for microseconds, unless another process has taken a core: then
// spinning on would keep that process, and so the missing member, from finishing.
constexpr int kSpinsInStep = 2000;
// Between two steps the caller draws a token, in tens of microseconds; a longer pause is worth a sleep.
constexpr int kSpinsBetweenSteps = 4000;
constexpr int kYieldsBetweenSteps = 50;

void pause_briefly() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
  __asm__ volatile("yield");
#endif
}

int64_t this_process() {
#if defined(_WIN32)
  return _getpid();
#else
  return getpid();
#endif
}

}  // namespace

bool Team::arrive(uint32_t round) {
  const int size = size_;   // before arriving: afterwards the next job may set another
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 != size) return false;
  arrived_.store(0, std::memory_order_relaxed);
  round_.store(round + 1, std::memory_order_release);
  return true;
}

void Team::wait_briefly(int spin) {
  if (spin < kSpinsInStep) pause_briefly();
  else std::this_thread::yield();
}

std::shared_ptr<Pool> Pool::shared() {
  static std::mutex mutex;
  static std::weak_ptr<Pool> living;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Pool> pool = living.lock();
  if (!pool || pool->process_ != this_process()) living = pool = std::make_shared<Pool>();   // a forked child has none
  return pool;
}

Pool::Pool() : process_(this_process()) {}

void Pool::grow(int members) {
  const std::lock_guard<std::mutex> lock(one_run_);
  if (members > static_cast<int>(threads_.size()) + 1) team_.share_.reset(new Team::Share[static_cast<size_t>(members)]);
  while (static_cast<int>(threads_.size()) + 1 < members) {
    threads_.emplace_back(&Pool::work, this, static_cast<int>(threads_.size()) + 1);
  }
}

Pool::~Pool() {
  if (this_process() != process_) {   // a forked child: the threads are not here to be joined
    for (std::thread& thread : threads_) thread.detach();
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Pool::run_job(int members, Function function, const void* context) {
  const std::lock_guard<std::mutex> turn(one_run_);
  if (members > static_cast<int>(threads_.size()) + 1) members = static_cast<int>(threads_.size()) + 1;
  if (this_process() != process_) members = 1;   // an engine that a forked child took over
  team_.size_ = members;
  if (members > 1) {
    bool sleepers;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_ = {function, context, members};
      generation_.fetch_add(1, std::memory_order_release);
      sleepers = sleepers_ > 0;
    }
    if (sleepers) wake_.notify_all();
  }
  function(context, team_, 0);
  team_.meet();
}

void Pool::work(int member) {
  uint32_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpinsBetweenSteps && generation_.load(std::memory_order_acquire) == seen; ++spin) pause_briefly();
    for (int turn = 0; turn < kYieldsBetweenSteps && generation_.load(std::memory_order_acquire) == seen; ++turn) std::this_thread::yield();
    Job job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      ++sleepers_;
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
      --sleepers_;
      seen = generation_.load(std::memory_order_relaxed);
      if (stop_) return;
      job = job_;
    }
    if (member >= job.members) continue;
    job.function(job.context, team_, member);
    team_.meet();
  }
}

}  // namespace gpt2
