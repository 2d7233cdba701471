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
 public:
  int size() const { return size_; }

  // Calls f(begin, end) for pieces of 0 .. count-1, each piece on one member; returns when all are done.
  template <class F>
  void for_each(int count, int piece, const F& f) {
    for (;;) {
      const int begin = next_.fetch_add(piece, std::memory_order_relaxed);
      if (begin >= count) break;
      f(begin, begin + piece < count ? begin + piece : count);
    }
    meet();
  }

  // Returns when every member has come here.
  void meet();

 private:
  friend class Pool;
  int size_ = 1;
  std::atomic<int> next_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

class Pool {
 public:
  // The pool of this process. It lives as long as an engine holds it; then its threads end.
  static std::shared_ptr<Pool> shared();

  Pool() = default;
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Starts threads until `members` can work, the caller being one of them.
  void grow(int members);

  // Calls f(team, member) on `members` threads, the caller's among them. f must not throw.
  template <class F>
  void run(int members, const F& f) {
    run_job(members, [](const void* context, Team& team, int member) { (*static_cast<const F*>(context))(team, member); }, &f);
  }

 private:
  using Function = void (*)(const void*, Team&, int);
  struct Job { Function function; const void* context; int members; };

  void run_job(int members, Function function, const void* context);
  void work(int member);

  Team team_;
  std::mutex one_run_;                     // engines take turns
  std::mutex mutex_;                       // guards job_, sleepers_, and changes of generation_
  std::condition_variable wake_;
  std::atomic<uint32_t> generation_{0};    // counts jobs
  Job job_{nullptr, nullptr, 0};
  int sleepers_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
  int64_t process_ = 0;                    // whose threads they are: a forked child has none
};

}  // namespace gpt2
