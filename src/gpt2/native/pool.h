// The threads: one pool for the whole process, so that two engines do not oversubscribe its cores.
//
// `run` hands the same function to every member of a team, and the members go through it together:
// `for_each` shares out the items of a phase, and nobody leaves a phase before all its items are done.
// Which member computes an item is left to chance; what is computed is not, so results never depend on it.

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

  // Calls f(begin, end) for pieces of 0 .. count-1, each piece on one member; returns when all are done. Every member has a
  // share of neighbouring items and goes through it from the front; then it helps others, from their end.
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

  // Returns when every member has come here.
  void meet() { meet(Nothing()); }
  // Meanwhile does the next bit of `other` over and over; false: nothing is left to do.
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

  // Takes up to `piece` items from the front of a share, or from its end; false if it is empty. One whose owner has not come to
  // this phase yet is: what is left from the phase before is nothing.
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

  bool arrive(uint32_t round);            // true for the last, who has let the others go on
  static void wait_briefly(int spin);

  int size_ = 1;
  std::unique_ptr<Share[]> share_{new Share[1]};   // of each member
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

class Pool {
 public:
  // The pool of this process. It lives as long as an engine holds it; then its threads end.
  static std::shared_ptr<Pool> shared();

  Pool();
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Starts threads until `members` can work, the caller being one of them. Throws std::runtime_error if the system refuses one.
  void grow(int members);

  // Calls f(team, member) on `members` threads, the caller's among them. f must not throw.
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
  // The last job, counted, and its members, in one number. Whoever sees it needs no lock for what was written before.
  std::atomic<uint64_t> job_{0};
  Function function_ = nullptr;            // read by the job's members alone, who have all left before there is another
  const void* context_ = nullptr;
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;                       // of those who sleep, and whoever wakes them
  std::unique_ptr<std::condition_variable> wake_{new std::condition_variable};
  std::vector<std::thread> threads_;
  int64_t process_;                        // whose threads they are: a forked child has none
};

}  // namespace gpt2
