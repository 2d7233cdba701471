// The thread pool: one for the whole process, so that two engines do not oversubscribe its cores.
//
// `run` gives the same function to every member of a team, and the members go through it together: `for_each`
// distributes the items of a phase, and no member leaves a phase before all its items are done. Any member may compute
// an item, with the same result.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace gpt2 {

class Pool;

class Team {
  struct Nothing { bool operator()() const { return false; } };

 public:
  int size() const { return size_; }

  // Calls f(begin, end) for pieces of 0 .. count-1, each piece on one member; returns when all are done. Every member takes
  // its own share of neighbouring items from the front, then steals from the end of others' shares.
  template <class F>
  void for_each(int member, int count, int piece, const F& f) { for_each(member, count, piece, f, Nothing()); }
  template <class F, class Other>
  void for_each(int member, int count, int piece, const F& f, Other&& other_work) {
    share_[member].span.store(pack(first_of(member, count), first_of(member + 1, count)), std::memory_order_relaxed);
    int begin, end;
    while (take(share_[member], piece, true, &begin, &end)) f(begin, end);
    for (int other = member + 1; other < member + size_; ++other) {
      while (take(share_[other % size_], piece, false, &begin, &end)) f(begin, end);
    }
    meet(other_work);
  }
  // The first item of a member's share.
  int first_of(int member, int count) const { return static_cast<int>(static_cast<int64_t>(count) * member / size_); }

  // A barrier: returns when every member has arrived.
  void meet() { meet(Nothing()); }
  // While waiting, calls `other` for a bit of work until it returns false: nothing left.
  template <class Other>
  void meet(Other&& other) {
    const uint32_t round = round_.load(std::memory_order_acquire);
    if (arrive(round)) return;
    int spin = 0;
    while (round_.load(std::memory_order_acquire) == round) if (!other()) wait_briefly(spin++);
  }

 private:
  friend class Pool;
  struct alignas(64) Share { std::atomic<uint64_t> span{0}; };   // first item, and in the upper half one past the last

  static uint64_t pack(int begin, int end) { return static_cast<uint64_t>(static_cast<uint32_t>(end)) << 32 | static_cast<uint32_t>(begin); }

  // Takes up to `piece` items from the front or end of a share; false if it is empty. The share of a member that has not
  // reached this phase is empty, since the previous phase left nothing.
  static bool take(Share& share, int piece, bool front, int* begin, int* end) {
    uint64_t span = share.span.load(std::memory_order_relaxed);
    for (;;) {
      const int first = static_cast<int>(static_cast<uint32_t>(span)), last = static_cast<int>(span >> 32);
      if (first >= last) return false;
      const int count = last - first < piece ? last - first : piece;
      *begin = front ? first : last - count;
      *end = *begin + count;
      const uint64_t rest = front ? pack(*end, last) : pack(first, *begin);
      if (share.span.compare_exchange_weak(span, rest, std::memory_order_relaxed)) return true;
    }
  }

  bool arrive(uint32_t round);            // true for the last member, which has released the others
  static void wait_briefly(int spin);

  int size_ = 1;
  std::unique_ptr<Share[]> share_{new Share[1]};   // one per member
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

class Pool {
 public:
  // The process's pool. It lives as long as an engine holds it; then its threads end.
  static std::shared_ptr<Pool> shared();

  Pool();
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Starts threads until `members` can work, including the caller. Throws std::runtime_error if the system refuses one.
  void grow(int members);

  // Calls f(team, member) on `members` threads, including the caller's. f must not throw.
  template <class F>
  void run(int members, const F& f) {
    run_job(members, [](const void* context, Team& team, int member) { (*static_cast<const F*>(context))(team, member); }, &f);
  }

 private:
  using Function = void (*)(const void*, Team&, int);

  void run_job(int members, Function function, const void* context);
  void announce(int members);
  void work(int member);

  Team team_;
  std::mutex one_run_;                     // engines take turns
  // The last job's count and its number of members in one atomic, which also publishes everything written before it.
  std::atomic<uint64_t> job_{0};
  Function function_ = nullptr;            // read only by the job's members, who have all left before the next job
  const void* context_ = nullptr;
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;                       // for sleeping and waking
  std::unique_ptr<std::condition_variable> wake_{new std::condition_variable};
  std::vector<std::thread> threads_;
  int64_t process_;                        // owner of the threads: a forked child has none
};

}  // namespace gpt2
