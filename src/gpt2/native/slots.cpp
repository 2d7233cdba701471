#include "slots.h"

#include <algorithm>
#include <unordered_set>

namespace gpt2 {
namespace {

constexpr size_t kMostSpare = 16;   // pages kept for the next sequence; more go back to the system

size_t pages_for(int length) { return (static_cast<size_t>(length) + kPage - 1) / kPage; }

}  // namespace

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
  if (first < slot.pages.size() && slot.pages[first].use_count() > 1) {   // shared with a fork: write to a copy
    Page copy = take_page();
    std::memcpy(copy->data(), slot.pages[first]->data(), page_bytes_);
    slot.pages[first] = copy;
    slot.addresses[first] = copy->data();
  }
  while (slot.pages.size() < wanted) {
    slot.pages.push_back(take_page());
    slot.addresses.push_back(slot.pages.back()->data());
  }
}

int64_t Slots::bytes() const {
  std::unordered_set<const void*> seen;
  for (const Slot& slot : slots_) seen.insert(slot.addresses.begin(), slot.addresses.end());
  return static_cast<int64_t>(seen.size() * page_bytes_);
}

Slots::Page Slots::take_page() {
  if (spare_.empty()) return std::make_shared<Buffer<unsigned char>>(page_bytes_);
  Page page = std::move(spare_.back());
  spare_.pop_back();
  return page;
}

void Slots::give_back(Page page) {
  if (page.use_count() == 1 && spare_.size() < kMostSpare) spare_.push_back(std::move(page));
}

void Slots::cut(Slot& slot, size_t pages) {
  while (slot.pages.size() > pages) {
    give_back(std::move(slot.pages.back()));
    slot.pages.pop_back();
    slot.addresses.pop_back();
  }
}

}  // namespace gpt2
