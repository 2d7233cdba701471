// The engine's results: from the rows of a step to the results that each piece of work wants.
//
//   residual, attention   copied as the layers pass              logits, best, targets, a draw   from the head, 32 rows at once

#include "engine.h"

#include <algorithm>
#include <cmath>

namespace gpt2 {

void Engine::keep_attention(const gpt2_work& work, const Row& row, int layer, int head, const float* scores, float sum) {
  if (row.wanted < 0) return;
  const int64_t width = slots_.length(work.slot) + work.token_count;
  for (int i = 0; i < work.attention_count; ++i) {
    if (work.attention_heads[2 * i] != layer || work.attention_heads[2 * i + 1] != head) continue;
    float* to = work.attention + (static_cast<int64_t>(i) * work.rows + row.wanted) * width;
    for (int64_t s = 0; s < width; ++s) to[s] = s <= row.position ? scores[s] / sum : 0.0f;
  }
}

void Engine::keep_residual(const gpt2_work* work, int depth, int r) {
  const Row& row = rows_[static_cast<size_t>(r)];
  const gpt2_work& piece = work[row.work];
  if (row.wanted < 0) return;
  for (int i = 0; i < piece.residual_count; ++i) {
    if (piece.residual_depths[i] != depth) continue;
    float* to = piece.residual + (static_cast<int64_t>(i) * piece.rows + row.wanted) * shape_.n_embd;
    std::copy(x_.row(r), x_.row(r) + shape_.n_embd, to);
  }
}

void Engine::read_out(Team& team, int member, const gpt2_work* work) {
  const int total = static_cast<int>(head_rows_.size());
  for (int first = 0; first < total; first += kHeadRows) {
    const int rows = std::min(kHeadRows, total - first);
    team.for_each(member, rows, 4, [&](int row, int end) {
      for (; row < end; ++row) {
        const float* x = x_.row(head_rows_[static_cast<size_t>(first + row)]);
        kernels_.layer_norm(x, ln_f_g_.data(), ln_f_b_.data(), shape_.n_embd, shape_.layer_norm_epsilon, final_.row(row));
      }
    });
    apply(team, member, wte_, prepare(team, member, wte_, final_, rows), rows, logits_.output(Finish::store), nullptr);
    team.for_each(member, rows, 1, [&](int i, int) {
      const Row& row = rows_[static_cast<size_t>(head_rows_[static_cast<size_t>(first + i)])];
      read_row(member, work[row.work], row.wanted, logits_.row(i));
    });
  }
}

// The draw comes last, since penalties change the row.
void Engine::read_row(int member, const gpt2_work& work, int wanted, float* logits) {
  const int V = shape_.vocab_size;
  const bool measured = work.best > 0 || work.targets || work.draw_top_k > 0;   // a draw from all tokens needs no sums
  const RowStatistics s = measured ? kernels_.row_statistics(logits, V) : RowStatistics{};
  if (measured ? !std::isfinite(s.weighted) : !kernels_.is_finite(logits, V)) return finite_.store(false);   // one infinity or NaN suffices
  if (work.logits) std::copy(logits, logits + V, work.logits + static_cast<int64_t>(wanted) * V);
  const float log_total = s.largest + std::log(s.sum);
  if (work.best > 0) keep_best(member, logits, log_total, work.best, work.best_ids + int64_t{wanted} * work.best, work.best_logprobs + int64_t{wanted} * work.best);
  if (work.targets) {
    const int target = work.targets[wanted];
    const float level = logits[target];
    int before = 0;
    for (int i = 0; i < V; ++i) before += logits[i] > level || (logits[i] == level && i < target);
    work.target_ranks[wanted] = before;
    work.target_logprobs[wanted] = (level - s.largest) - std::log(s.sum);
    work.entropies[wanted] = std::log(s.sum) - s.weighted / s.sum;
  }
  if (work.drawn) work.drawn[wanted] = draw(member, work, wanted, logits, log_total);
}

// Keeps the largest `best` logits in a heap whose front is evicted next: the smallest; of equal ones, the higher id.
void Engine::keep_best(int member, const float* logits, float log_total, int count, int32_t* ids, float* logprobs) {
  using Item = std::pair<float, int32_t>;
  const auto comes_first = [](const Item& a, const Item& b) { return a.first > b.first || (a.first == b.first && a.second < b.second); };
  std::vector<Item>& heap = best_[static_cast<size_t>(member)].heap;
  heap.clear();
  for (int i = 0; i < count; ++i) heap.emplace_back(logits[i], i);
  std::make_heap(heap.begin(), heap.end(), comes_first);
  const auto is_any_above = [&](int first, float level) {
    int any = 0;
    for (int i = 0; i < kPanel; ++i) any |= logits[first + i] > level;
    return any != 0;
  };
  for (int i = count; i < shape_.vocab_size; ++i) {
    while (i + kPanel <= shape_.vocab_size && !is_any_above(i, heap.front().first)) i += kPanel;   // skips nearly all tokens
    if (i == shape_.vocab_size) break;
    if (!(logits[i] > heap.front().first)) continue;
    std::pop_heap(heap.begin(), heap.end(), comes_first);
    heap.back() = {logits[i], i};
    std::push_heap(heap.begin(), heap.end(), comes_first);
  }
  std::sort(heap.begin(), heap.end(), comes_first);
  for (int i = 0; i < count; ++i) {
    ids[i] = heap[static_cast<size_t>(i)].second;
    logprobs[i] = heap[static_cast<size_t>(i)].first - log_total;
  }
}

// With top-k, draws from the best tokens exactly as they are returned to callers, so that both ways draw the same.
int32_t Engine::draw(int member, const gpt2_work& work, int wanted, float* logits, float log_total) {
  if (work.text) penalise(member, work, wanted, logits);
  Best& best = best_[static_cast<size_t>(member)];
  Drawing from{logits, shape_.vocab_size, work.draw_temperature, work.draw_top_p, work.draw_min_p, work.draw_keys[wanted],
               {best.ids.data(), best.logprobs.data(), best.below.data(), best.weights.data()}};
  if (work.draw_top_k > 0 && work.draw_temperature > 0) {
    keep_best(member, logits, work.text ? 0.0f : log_total, work.draw_top_k, best.ids.data(), best.logprobs.data());
    from.logits = nullptr;
    from.count = work.draw_top_k;
  }
  return kernels_.draw(from);
}

// Penalises each token of the text once: for being there, and for how often it was generated.
void Engine::penalise(int member, const gpt2_work& work, int wanted, float* logits) {
  int32_t* counts = counts_[static_cast<size_t>(member)].data();
  const int end = work.text_count - (work.rows - 1 - wanted);
  for (int i = work.prompt_count; i < end; ++i) ++counts[work.text[i]];
  for (int i = 0; i < end; ++i) {
    const int32_t token = work.text[i], count = counts[token];
    if (count < 0) continue;   // already penalised
    counts[token] = -1;
    float& x = logits[token];
    if (work.repetition_penalty != 1) x = x < 0 ? x * work.repetition_penalty : x / work.repetition_penalty;
    if (count > 0) x -= static_cast<float>(work.presence_penalty + work.frequency_penalty * count);
  }
  for (int i = 0; i < end; ++i) counts[work.text[i]] = 0;
}

}  // namespace gpt2
