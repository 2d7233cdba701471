// How the pool waits: spin briefly, since a phase lasts microseconds; then yield, then sleep.

#include "pool.h"

#include <stdexcept>
#include <string>
#include <system_error>

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

// Within a step, members wait for one another for microseconds, unless another process has taken a core: then spinning
// would only delay that process, and with it the missing member.
constexpr int kSpinsInStep = 2000;
// Between two steps the caller draws a token, which takes tens of microseconds; a longer pause is worth a sleep.
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

// A job as a number: the upper bits count jobs, the lower are its members; 0 members: the threads end.
constexpr int kMemberBits = 16;

int members_of(uint64_t job) { return static_cast<int>(job & ((1u << kMemberBits) - 1)); }

}  // namespace

bool Team::arrive(uint32_t round) {
  const int size = size_;   // read before arriving: afterwards the next job may change it
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
  if (!pool || pool->process_ != this_process()) living = pool = std::make_shared<Pool>();   // a forked child has no threads
  return pool;
}

Pool::Pool() : process_(this_process()) {}

void Pool::grow(int members) {
  const std::lock_guard<std::mutex> lock(one_run_);
  if (members > static_cast<int>(threads_.size()) + 1) team_.share_.reset(new Team::Share[static_cast<size_t>(members)]);
  try {
    while (static_cast<int>(threads_.size()) + 1 < members) threads_.emplace_back(&Pool::work, this, static_cast<int>(threads_.size()) + 1);
  } catch (const std::system_error& error) {
    const std::string most = std::to_string(threads_.size() + 1);
    throw std::runtime_error("the system starts no more threads than " + most + " (" + error.what() + "): ask for so many, as by --threads " + most);
  }
}

Pool::~Pool() {
  if (this_process() != process_) {   // a forked child has no threads to join
    for (std::thread& thread : threads_) thread.detach();
    static_cast<void>(wake_.release());   // its destructor would wait for threads that slept at the fork
    return;
  }
  announce(0);
  for (std::thread& thread : threads_) thread.join();
}

void Pool::run_job(int members, Function function, const void* context) {
  const std::lock_guard<std::mutex> turn(one_run_);
  if (members > static_cast<int>(threads_.size()) + 1) members = static_cast<int>(threads_.size()) + 1;
  if (this_process() != process_) members = 1;   // a forked child uses its parent's engine
  team_.size_ = members;
  if (members > 1) {
    function_ = function;
    context_ = context;
    announce(members);
  }
  function(context, team_, 0);
  team_.meet();
}

// Either this call sees a sleeper, or the sleeper sees the new job before it sleeps: this needs one total order (seq_cst).
void Pool::announce(int members) {
  const uint64_t count = (job_.load() >> kMemberBits) + 1;
  job_.store(count << kMemberBits | static_cast<uint64_t>(members));
  if (sleepers_.load() == 0) return;
  { const std::lock_guard<std::mutex> lock(mutex_); }   // any thread that saw no new job is asleep once this lock is taken
  wake_->notify_all();
}

void Pool::work(int member) {
  for (uint64_t seen = 0;;) {
    const auto is_new = [&] { return job_.load() != seen; };
    for (int spin = 0; spin < kSpinsBetweenSteps && !is_new(); ++spin) pause_briefly();
    for (int turn = 0; turn < kYieldsBetweenSteps && !is_new(); ++turn) std::this_thread::yield();
    if (!is_new()) {
      std::unique_lock<std::mutex> lock(mutex_);
      ++sleepers_;
      wake_->wait(lock, is_new);
      --sleepers_;
    }
    seen = job_.load();
    if (members_of(seen) == 0) return;
    if (member >= members_of(seen)) continue;
    function_(context_, team_, member);
    team_.meet();
  }
}

}  // namespace gpt2
