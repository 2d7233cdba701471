// One forward step, phase by phase; the team's members divide each phase's rows, panels or heads.
//
//            x ──┬─ ln_1 ─ attn ─ store k, v ─ attend ─ attn_proj ─(+)─┬─ ln_2 ─ fc ─ gelu ─ mlp_proj ─(+)── x
//                └──────────────────────────────────────────────────┘ └─────────────────────────────────┘
//
// Rows of all pieces of work go through the matrices together; only attention knows which sequence a row belongs to.

#include "engine.h"

#include <algorithm>
#include <cmath>

namespace gpt2 {
namespace {

bool wants_logits(const gpt2_work& work) { return work.logits || work.best > 0 || work.targets || work.drawn; }

bool is_shortened(const gpt2_work& work) { return work.drawn && (work.draw_top_p < 1 || work.draw_min_p > 0); }

// How members divide a matrix for few rows: item i is the panels i, i + step, ... side by side; the remaining panels go one
// by one.
struct Panels {
  int apart = 0, step = 0, items = 0;

  Panels(const Kernels& kernels, const MatrixView& m, int rows) : apart(rows <= kOwnRows ? kernels.side_by_side(m.form, rows) : 0) {
    if (apart == 0) return;
    step = m.panels / apart;
    items = step + m.panels - step * apart;
  }
};

// With few rows, a waiting member prefetches the first lines of its share of the next matrix.
class Ahead {
 public:
  Ahead(const Team& team, int member, const Kernels& kernels, const Matrix* next, int rows) {
    if (!next || rows < 1 || rows > kOwnRows) return;
    const Panels panels(kernels, next->view(), rows);
    streams_ = panels.apart;
    apart_bytes_ = static_cast<size_t>(panels.step * next->view().panel_bytes);
    at_ = next->view().panel(team.first_of(member, panels.items));
  }
  bool operator()() {
    if (streams_ == 0 || done_ == kBytes) return false;
    for (int stream = 0; stream < streams_; ++stream) prefetch(at_ + static_cast<size_t>(stream) * apart_bytes_ + done_);
    done_ += 64;
    return true;
  }

 private:
  static constexpr size_t kBytes = 32 << 10;   // of each stream: four of them take an eighth of a common L2 cache
  const unsigned char* at_ = nullptr;
  size_t apart_bytes_ = 0, done_ = 0;
  int streams_ = 0;
};

}  // namespace

Engine::Engine(const gpt2_shape& shape, Form form, Form head_form, const Kernels& kernels, int threads)
    : shape_(shape), kernels_(kernels), pool_(Pool::shared()), threads_(threads),
      head_width_(shape.n_embd / shape.n_head), rounds_inner_(form == Form::bf16 && Quantised::is_needed(kernels, form)) {
  const int D = shape.n_embd, F = shape.n_inner;
  const auto floats = [](int64_t count) { return Buffer<float>(static_cast<size_t>(count)); };
  wpe_ = floats(static_cast<int64_t>(shape.n_positions) * D);
  ln_f_g_ = floats(D);
  ln_f_b_ = floats(D);
  for (int i = 0; i < shape.n_layer; ++i) {
    layers_.push_back({floats(D), floats(D), floats(D), floats(D), Matrix(form, D, 3 * D, &arena_), Matrix(form, D, D, &arena_),
                       Matrix(form, D, F, &arena_), Matrix(form, F, D, &arena_)});
  }
  wte_ = Matrix(head_form, D, shape.vocab_size, &arena_);

  heads_ = Heads(kernels, form, shape.n_head, head_width_);
  slots_ = Slots(heads_.page_bytes(shape.n_layer), shape.n_positions);

  rows_.reserve(kChunkRows);
  stretches_.reserve(kChunkRows);
  head_rows_.reserve(kChunkRows);
  Arena* const arena = &activities_;
  x_ = Activity(kChunkRows, D, arena);
  qkv_ = Activity(kChunkRows, 3 * D, arena);
  mixed_ = Activity(kChunkRows, D, arena);
  if (rounds_inner_) rounded_inner_ = Quantised(kernels, form, kChunkRows, F, arena);
  else inner_ = Activity(kChunkRows, F, arena);
  final_ = Activity(kHeadRows, D, arena);
  logits_ = Activity(kHeadRows, shape.vocab_size, arena);
  shared_ = {Activity(kChunkRows, D, arena), Quantised(kernels, form, kChunkRows, std::max(D, F), arena)};
  for (int i = 0; i < threads; ++i) {
    own_.push_back({Activity(kOwnRows, D), Quantised(kernels, form, kOwnRows, std::max(D, F))});
    attending_.push_back(heads_.scratch(shape.n_positions));
  }
  best_.resize(static_cast<size_t>(threads));
  counts_.resize(static_cast<size_t>(threads));
  pool_->grow(threads);
}

// ---- one step ----

const char* Engine::refusal(const gpt2_work* work, int count) const {
  const auto in_vocabulary = [&](const int32_t* ids, int n) {
    return std::all_of(ids, ids + n, [&](int32_t id) { return id >= 0 && id < shape_.vocab_size; });
  };
  const auto is_traced = [&](const gpt2_work& piece) {
    if (piece.residual_count > 0 && !(piece.residual_depths && piece.residual)) return false;
    if (piece.attention_count > 0 && !(piece.attention_heads && piece.attention)) return false;
    for (int i = 0; i < piece.residual_count; ++i) if (piece.residual_depths[i] < 0 || piece.residual_depths[i] > shape_.n_layer) return false;
    for (int i = 0; i < piece.attention_count; ++i) {
      const int32_t layer = piece.attention_heads[2 * i], head = piece.attention_heads[2 * i + 1];
      if (layer < 0 || layer >= shape_.n_layer || head < 0 || head >= shape_.n_head) return false;
    }
    return true;
  };
  for (int i = 0; i < count; ++i) {
    const gpt2_work& piece = work[i];
    if (piece.token_count < 1 || piece.rows < 0 || piece.rows > piece.token_count) return "rows wanted of too few tokens";
    if (piece.token_count > shape_.n_positions - slots_.length(piece.slot)) return "the tokens do not fit the context";
    if (piece.best < 0 || piece.best > shape_.vocab_size) return "more best tokens wanted than there are";
    if (piece.best > 0 && !(piece.best_ids && piece.best_logprobs)) return "no room for the best tokens";
    if (!piece.tokens || !in_vocabulary(piece.tokens, piece.token_count)) return "a token is not in the vocabulary";
    if (piece.targets && !in_vocabulary(piece.targets, piece.rows)) return "a target is not in the vocabulary";
    if (piece.targets && !(piece.target_logprobs && piece.target_ranks && piece.entropies)) return "no room for what is known of the targets";
    if (piece.drawn && !piece.draw_keys) return "tokens are drawn by keys";
    if (piece.drawn && !(piece.draw_temperature >= 0)) return "tokens are drawn at temperatures from 0 up";
    if (piece.drawn && !(piece.draw_top_p > 0 && piece.draw_min_p <= 1)) return "a draw from no tokens";
    if (piece.draw_top_k < 0 || piece.draw_top_k > shape_.vocab_size) return "a draw from more tokens than there are";
    if (piece.text && (piece.prompt_count < 0 || piece.text_count < piece.rows || !in_vocabulary(piece.text, piece.text_count))) return "a text too short, or of other tokens";
    if (piece.text && !(piece.repetition_penalty > 0 && std::isfinite(piece.repetition_penalty + piece.presence_penalty + piece.frequency_penalty))) return "penalties that are no numbers";
    if (!is_traced(piece)) return "a trace of what there is not";
    for (int other = 0; other < i; ++other) if (work[other].slot == piece.slot) return "two pieces of work for one slot";
  }
  return nullptr;
}

bool Engine::step(const gpt2_work* work, int count) {
  try {
    make_room(work, count);
  } catch (...) {
    forget_new(work, count);
    throw;
  }
  finite_.store(true);
  begin_chunks();
  pool_->run(threads_, [&](Team& team, int member) {
    for (;;) {
      if (member == 0) next_chunk(work, count);
      team.meet();
      if (rows_.empty()) return;   // all chunks are done
      forward(team, member, work);
    }
  });
  if (!finite_.load()) {
    forget_new(work, count);
    return false;
  }
  for (int i = 0; i < count; ++i) slots_.set_length(work[i].slot, slots_.length(work[i].slot) + work[i].token_count);
  return true;
}

// Allocates all memory that a step may need.
void Engine::make_room(const gpt2_work* work, int count) {
  int most = 0;
  for (int i = 0; i < count; ++i) {
    slots_.reserve(work[i].slot, slots_.length(work[i].slot) + work[i].token_count);
    most = std::max({most, work[i].best, work[i].draw_top_k});
    if (is_shortened(work[i]) && work[i].draw_top_k == 0) most = shape_.vocab_size;
    if (work[i].text) for (std::vector<int32_t>& counts : counts_) counts.resize(static_cast<size_t>(shape_.vocab_size));
  }
  for (Best& best : best_) best.hold(static_cast<size_t>(round_up(most, kShortlist)));
}

// Frees the pages of a failed step's tokens: a fork would share them, and both would write.
void Engine::forget_new(const gpt2_work* work, int count) {
  for (int i = 0; i < count; ++i) slots_.truncate(work[i].slot, slots_.length(work[i].slot));
}

// The next kChunkRows tokens of the batch, from any pieces of work; no rows when all are done.
void Engine::next_chunk(const gpt2_work* work, int count) {
  rows_.clear();
  stretches_.clear();
  whole_stretches_ = true;
  while (work_cursor_ < count && static_cast<int>(rows_.size()) < kChunkRows) {
    const gpt2_work& piece = work[work_cursor_];
    const int first = static_cast<int>(rows_.size()), held = slots_.length(piece.slot);
    for (; token_cursor_ < piece.token_count && static_cast<int>(rows_.size()) < kChunkRows; ++token_cursor_) {
      const int wanted = std::max(-1, token_cursor_ - (piece.token_count - piece.rows));
      rows_.push_back({work_cursor_, held + token_cursor_, piece.tokens[token_cursor_], wanted, wants_logits(piece)});
    }
    add_stretches(first, static_cast<int>(rows_.size()));
    whole_stretches_ &= static_cast<int>(rows_.size()) - first <= kMaxAttendRows;
    if (token_cursor_ == piece.token_count) {
      ++work_cursor_;
      token_cursor_ = 0;
    }
  }
}

void Engine::add_stretches(int first_row, int end) {
  for (int row = first_row; row < end; row += kMaxAttendRows) stretches_.push_back({row, std::min(kMaxAttendRows, end - row)});
}

void Engine::forward(Team& team, int member, const gpt2_work* work) {
  embed(team, member);
  for (int layer = 0; layer < shape_.n_layer; ++layer) block(team, member, work, layer);
  if (member == 0) {
    for (size_t row = 0; row < rows_.size(); ++row) keep_residual(work, shape_.n_layer, static_cast<int>(row));
  }
  read_out(team, member, work);
  team.meet();   // members read this chunk's lists until here
}

void Engine::embed(Team& team, int member) {
  team.for_each(member, static_cast<int>(rows_.size()), 4, [&](int row, int end) {
    for (; row < end; ++row) {
      float* x = x_.row(row);
      const float* position = wpe_.data() + static_cast<int64_t>(rows_[static_cast<size_t>(row)].position) * shape_.n_embd;
      wte_.read_output(rows_[static_cast<size_t>(row)].token, x);
      for (int d = 0; d < shape_.n_embd; ++d) x[d] += position[d];
    }
  });
}

void Engine::block(Team& team, int member, const gpt2_work* work, int layer) {
  const Layer& w = layers_[static_cast<size_t>(layer)];
  int rows = static_cast<int>(rows_.size());
  if (member == 0) for (int row = 0; row < rows; ++row) keep_residual(work, layer, row);
  apply(team, member, w.attn, prepare_normed(team, member, w.attn, w.ln_1_g, w.ln_1_b, rows), rows, qkv_.output(Finish::store), nullptr);
  // A stretch reads only its own piece's keys and values; if the piece has no other stretch, storing and attending can merge.
  const bool last = layer == shape_.n_layer - 1, together = whole_stretches_ && !last;
  if (!together) for_each_head(team, member, nullptr, [&](const Stretch& stretch, int head) { store_stretch(work, layer, stretch, head); });
  if (last) rows = drop_unwanted_rows(team, member);
  if (rows == 0) return;
  for_each_head(team, member, &w.attn_proj, [&](const Stretch& stretch, int head) {
    if (together) store_stretch(work, layer, stretch, head);
    attend_stretch(member, work, layer, stretch, head);
  });
  apply(team, member, w.attn_proj, prepare(team, member, w.attn_proj, mixed_, rows), rows, x_.output(Finish::add), &w.fc);
  const Output inner = rounds_inner_ ? rounded_inner_.output(Finish::rounded_gelu) : inner_.output(Finish::gelu);
  apply(team, member, w.fc, prepare_normed(team, member, w.fc, w.ln_2_g, w.ln_2_b, rows), rows, inner, &w.mlp_proj);
  const Activations inner_as_read = rounds_inner_ ? rounded_inner_.of(nullptr, 0) : prepare(team, member, w.mlp_proj, inner_, rows);
  const Matrix* next = last ? &wte_ : &layers_[static_cast<size_t>(layer) + 1].attn;
  apply(team, member, w.mlp_proj, inner_as_read, rows, x_.output(Finish::add), next);
}

// Calls f(to, begin, end) for pieces of the rows. With few rows, every member prepares its own copy, without waiting.
template <class F>
Prepared& Engine::prepare_rows(Team& team, int member, int rows, const F& f) {
  if (rows <= kOwnRows) {
    Prepared& own = own_[static_cast<size_t>(member)];
    f(own, 0, rows);
    return own;
  }
  team.for_each(member, rows, 4, [&](int row, int end) { f(shared_, row, end); });
  return shared_;
}

// The rows of `input` in the form that the matrix reads.
Activations Engine::prepare(Team& team, int member, const Matrix& matrix, Activity& input, int rows) {
  const MatrixView& m = matrix.view();
  if (!Quantised::is_needed(kernels_, m.form)) return shared_.quantised.of(input.values.data(), input.stride);
  const Prepared& prepared = prepare_rows(team, member, rows, [&](Prepared& to, int row, int end) {
    for (; row < end; ++row) to.quantised.put(kernels_, m.form, input.row(row), m.inputs, row);
  });
  return prepared.quantised.of(input.values.data(), input.stride);
}

// The residual stream after a layer norm, in the form that the matrix reads.
Activations Engine::prepare_normed(Team& team, int member, const Matrix& matrix, const Buffer<float>& gain, const Buffer<float>& bias, int rows) {
  const MatrixView& m = matrix.view();
  const bool quantised = Quantised::is_needed(kernels_, m.form);
  Prepared& prepared = prepare_rows(team, member, rows, [&](Prepared& to, int row, int end) {
    for (; row < end; ++row) {
      kernels_.layer_norm(x_.row(row), gain.data(), bias.data(), shape_.n_embd, shape_.layer_norm_epsilon, to.normed.row(row));
      if (quantised) to.quantised.put(kernels_, m.form, to.normed.row(row), m.inputs, row);
    }
  });
  return prepared.quantised.of(prepared.normed.values.data(), prepared.normed.stride);
}

void Engine::apply(Team& team, int member, const Matrix& matrix, const Activations& x, int rows, const Output& output, const Matrix* next) {
  const MatrixView& m = matrix.view();
  const Panels panels(kernels_, m, rows);
  if (panels.apart > 0) {
    const auto multiply = [&](int item, int end) {
      if (item < panels.step) kernels_.dense_apart(m, x, output, 0, rows, item, std::min(end, panels.step), panels.step);
      const int left_over = panels.step * (panels.apart - 1);
      if (end > panels.step) kernels_.dense(m, x, output, 0, rows, std::max(item, panels.step) + left_over, end + left_over);
    };
    team.for_each(member, panels.items, kernels_.apart_at_once, multiply, Ahead(team, member, kernels_, next, rows));
    return;
  }
  // Pieces of whole tiles, small enough that a delayed member does not delay the others for long.
  constexpr int at_once = 12;   // panels: a multiple of every level's count side by side
  team.for_each(member, (m.panels + at_once - 1) / at_once, 1, [&](int piece, int) {
    kernels_.dense(m, x, output, 0, rows, piece * at_once, std::min((piece + 1) * at_once, m.panels));
  });
}

// ---- attention ----

// Calls f(stretch, head) for all pairs. Neighbouring heads are adjacent in a page, so a member takes several.
template <class F>
void Engine::for_each_head(Team& team, int member, const Matrix* next, const F& f) {
  const int n_head = shape_.n_head, items = static_cast<int>(stretches_.size()) * n_head;
  const auto of_item = [&](int item, int) { f(stretches_[static_cast<size_t>(item / n_head)], item % n_head); };
  team.for_each(member, items, 1, of_item, Ahead(team, member, kernels_, next, static_cast<int>(rows_.size())));
}

void Engine::store_stretch(const gpt2_work* work, int layer, const Stretch& stretch, int head) {
  for (int r = stretch.row; r < stretch.row + stretch.rows;) {   // rows may lie in two pages
    const Row& row = rows_[static_cast<size_t>(r)];
    const int key = row.position % kPage, rows = std::min(stretch.row + stretch.rows - r, kPage - key);
    unsigned char* page = slots_.pages(work[row.work].slot)[row.position / kPage];
    const float* k = qkv_.row(r) + shape_.n_embd + head * head_width_;
    if (!heads_.store(page, layer, head, k, k + shape_.n_embd, qkv_.stride, rows, key)) finite_.store(false);
    r += rows;
  }
}

// In the last layer, unwanted rows are done once their keys and values are stored: moves the wanted rows to the front and
// returns their number.
int Engine::drop_unwanted_rows(Team& team, int member) {
  if (member == 0) {
    stretches_.clear();
    head_rows_.clear();
    int kept = 0, first = 0;
    for (int r = 0; r < static_cast<int>(rows_.size()); ++r) {
      const Row row = rows_[static_cast<size_t>(r)];
      if (row.wanted < 0) continue;
      if (kept > first && rows_[static_cast<size_t>(kept - 1)].work != row.work) {
        add_stretches(first, kept);
        first = kept;
      }
      if (kept < r) {
        std::copy(x_.row(r), x_.row(r) + shape_.n_embd, x_.row(kept));
        std::copy(qkv_.row(r), qkv_.row(r) + shape_.n_embd, qkv_.row(kept));   // the queries
      }
      if (row.has_logits) head_rows_.push_back(kept);
      rows_[static_cast<size_t>(kept++)] = row;
    }
    add_stretches(first, kept);
    rows_.erase(rows_.begin() + kept, rows_.end());
  }
  team.meet();
  return static_cast<int>(rows_.size());
}

void Engine::attend_stretch(int member, const gpt2_work* work, int layer, const Stretch& stretch, int head) {
  Heads::Scratch& scratch = attending_[static_cast<size_t>(member)];
  const int r = stretch.row;
  const Row& row = rows_[static_cast<size_t>(r)];
  const gpt2_work& piece = work[row.work];
  float sums[kMaxAttendRows];
  heads_.attend({stretch.rows, row.position, qkv_.row(r) + head * head_width_, qkv_.stride, mixed_.row(r) + head * head_width_, mixed_.stride},
                slots_.pages(piece.slot), layer, head, scratch, sums);
  for (int i = 0; i < stretch.rows && piece.attention_count > 0; ++i) {
    keep_attention(piece, rows_[static_cast<size_t>(r + i)], layer, head, scratch.scores.data() + i * scratch.scores_stride, sums[i]);
  }
}

}  // namespace gpt2
