#include "slots.h"

#include <algorithm>

namespace gpt2 {
namespace {

constexpr size_t kMostSpare = 16;   // pages kept for the next sequence; beyond these, whole slabs are freed
constexpr size_t kSlabBytes = 4 * kLargePage, kMostSlabPages = 16;

size_t pages_for(int length) { return (static_cast<size_t>(length) + kPage - 1) / kPage; }

size_t round_to_large(size_t bytes) { return (bytes + kLargePage - 1) / kLargePage * kLargePage; }

// Whether this many bytes nearly fill large pages: at most 3 % more than the bytes is unused.
bool fills_large(size_t bytes) { return 100 * (round_to_large(bytes) - bytes) <= 3 * bytes; }

// The smallest number of pages that nearly fills large pages; if none does, about kSlabBytes of them.
size_t choose_slab_pages(size_t page_bytes) {
  for (size_t pages = 1; pages <= kMostSlabPages; ++pages) if (fills_large(pages * page_bytes)) return pages;
  return std::clamp(kSlabBytes / page_bytes, size_t{1}, kMostSlabPages);
}

}  // namespace

Slots::Slots(size_t page_bytes, int n_positions)
    : page_bytes_(page_bytes), slab_pages_(choose_slab_pages(page_bytes)), slab_bytes_(slab_pages_ * page_bytes), n_positions_(n_positions) {
  if (fills_large(slab_bytes_)) slab_bytes_ = round_to_large(slab_bytes_);
}

int Slots::add() {
  size_t number = 0;
  while (number < slots_.size() && slots_[number].used) ++number;
  if (number == slots_.size()) slots_.emplace_back();
  Slot& slot = slots_[number];
  slot.pages.reserve(pages_for(n_positions_));
  slot.addresses.reserve(pages_for(n_positions_));
  slot.used = true;
  return static_cast<int>(number);
}

int Slots::fork(int slot) {
  const int other = add();
  at(other).pages.assign(at(slot).pages.begin(), at(slot).pages.end());
  at(other).addresses.assign(at(slot).addresses.begin(), at(slot).addresses.end());
  at(other).length = at(slot).length;
  for (Page* page : at(slot).pages) ++page->holders;
  return other;
}

void Slots::free(int slot) {
  cut(at(slot), 0);
  at(slot).length = 0;
  at(slot).used = false;
}

void Slots::truncate(int slot, int length) {
  at(slot).length = length;
  cut(at(slot), pages_for(length));
}

bool Slots::exists(int slot) const { return slot >= 0 && static_cast<size_t>(slot) < slots_.size() && slots_[static_cast<size_t>(slot)].used; }

void Slots::reserve(int number, int length) {
  Slot& slot = at(number);
  const size_t first = static_cast<size_t>(slot.length) / kPage, wanted = pages_for(length);
  if (first < slot.pages.size() && slot.pages[first]->holders > 1) {   // shared with a fork: copy before writing
    Page* const copy = take_page();
    std::memcpy(copy->data, slot.pages[first]->data, page_bytes_);
    --slot.pages[first]->holders;
    slot.pages[first] = copy;
    slot.addresses[first] = copy->data;
  }
  while (slot.pages.size() < wanted) {
    slot.pages.push_back(take_page());
    slot.addresses.push_back(slot.pages.back()->data);
  }
}

int64_t Slots::bytes() const {
  const size_t held = slabs_.size() * slab_pages_ - spare_.size();
  return static_cast<int64_t>(held * ((slab_bytes_ + slab_pages_ - 1) / slab_pages_));
}

Slots::Page* Slots::take_page() {
  if (spare_.empty()) make_slab();
  Page* const page = spare_.back();
  spare_.pop_back();
  --page->slab->spare_pages;
  page->holders = 1;
  return page;
}

void Slots::give_back(Page* page) {
  if (--page->holders > 0) return;   // a fork still uses it
  ++page->slab->spare_pages;
  spare_.push_back(page);
  if (spare_.size() >= kMostSpare + slab_pages_) drop_spare_slab();
}

void Slots::make_slab() {
  auto slab = std::make_unique<Slab>();
  slab->memory = Buffer<unsigned char>(slab_bytes_);
  slab->pages.resize(slab_pages_);
  spare_.reserve((slabs_.size() + 1) * slab_pages_);
  slabs_.push_back(std::move(slab));
  Slab& made = *slabs_.back();
  for (size_t i = slab_pages_; i-- > 0;) {
    made.pages[i] = {&made, made.memory.data() + i * page_bytes_};
    spare_.push_back(&made.pages[i]);
  }
  made.spare_pages = slab_pages_;
}

// Frees one slab whose pages are all unused, if there is one.
void Slots::drop_spare_slab() {
  const auto found = std::find_if(slabs_.begin(), slabs_.end(), [&](const auto& slab) { return slab->spare_pages == slab_pages_; });
  if (found == slabs_.end()) return;
  spare_.erase(std::remove_if(spare_.begin(), spare_.end(), [&](const Page* page) { return page->slab == found->get(); }), spare_.end());
  slabs_.erase(found);
}

void Slots::cut(Slot& slot, size_t pages) {
  while (slot.pages.size() > pages) {
    give_back(slot.pages.back());
    slot.pages.pop_back();
    slot.addresses.pop_back();
  }
}

}  // namespace gpt2
