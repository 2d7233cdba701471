// Key-value slots: sequences as lists of pages, shared copy-on-write between forks.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "buffer.h"
#include "kernels.h"

namespace gpt2 {

class Slots {
 public:
  Slots() = default;
  Slots(size_t page_bytes, int n_positions);

  int add();                               // a new, empty slot
  int fork(int slot);
  void free(int slot);
  void truncate(int slot, int length);
  bool exists(int slot) const;
  int length(int slot) const { return slots_[static_cast<size_t>(slot)].length; }
  void set_length(int slot, int length) { slots_[static_cast<size_t>(slot)].length = length; }

  // Makes positions from the slot's length up to `length` writable. Throws std::bad_alloc.
  void reserve(int slot, int length);
  unsigned char* const* pages(int slot) const { return slots_[static_cast<size_t>(slot)].addresses.data(); }

  int64_t bytes() const;                   // of the pages that slots hold, shared ones once, with their part of slab padding

 private:
  struct Slab;
  struct Page {
    Slab* slab = nullptr;
    unsigned char* data = nullptr;
    int holders = 0;                       // slots that share it
  };
  // Pages are parts of slabs, which fill large memory pages: access speed limits attention.
  struct Slab {
    Buffer<unsigned char> memory;
    std::vector<Page> pages;
    size_t spare_pages = 0;
  };
  struct Slot {
    bool used = false;
    int length = 0;
    std::vector<Page*> pages;
    std::vector<unsigned char*> addresses;   // of the pages, for the kernels
  };

  Slot& at(int slot) { return slots_[static_cast<size_t>(slot)]; }
  Page* take_page();
  void give_back(Page* page);
  void make_slab();
  void drop_spare_slab();
  void cut(Slot& slot, size_t pages);

  size_t page_bytes_ = 0, slab_pages_ = 1, slab_bytes_ = 0;
  int n_positions_ = 0;
  std::vector<Slot> slots_;
  std::vector<std::unique_ptr<Slab>> slabs_;
  std::vector<Page*> spare_;               // freed pages for reuse; has room for all, so that freeing never fails
};

}  // namespace gpt2
