// Memory for weights and activations: aligned, zeroed, and in large pages if the system has them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gpt2 {

// Reading weights dominates decoding; with 2 MB pages it never waits for address translation.
constexpr size_t kLargePage = size_t{2} << 20;

class Arena;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) : count_(count) {
    if (count == 0) return;
#if defined(__linux__)
    if (is_mapped()) {   // pages of zeros, untouched until needed
      void* pages = mmap(nullptr, mapped_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (pages == MAP_FAILED) throw std::bad_alloc();
      mapping_ = pages;
      data_ = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(pages) + kLargePage - 1) / kLargePage * kLargePage);
      madvise(static_cast<void*>(data_), bytes(), MADV_HUGEPAGE);   // only a hint: failure is harmless
      return;
    }
#endif
    data_ = static_cast<T*>(::operator new(bytes(), std::align_val_t{kAlignment}));
    std::memset(static_cast<void*>(data_), 0, bytes());
  }
  // Allocates from the arena, which must outlive it; null: as above.
  Buffer(size_t count, Arena* arena);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept { swap(other); return *this; }
  ~Buffer() {
    if (borrowed_) return;
#if defined(__linux__)
    if (mapping_) {
      munmap(mapping_, mapped_bytes());
      return;
    }
#endif
    if (data_) ::operator delete(data_, std::align_val_t{kAlignment});
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }

 private:
  static constexpr size_t kAlignment = 64;

  bool is_mapped() const { return bytes() >= kLargePage; }
  size_t mapped_bytes() const { return bytes() + kLargePage; }   // room to align to a large page

  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(mapping_, other.mapping_);
    std::swap(count_, other.count_);
    std::swap(borrowed_, other.borrowed_);
  }

  T* data_ = nullptr;
  void* mapping_ = nullptr;
  size_t count_ = 0;
  bool borrowed_ = false;
};

// Contiguous memory for buffers with one lifetime: most matrices are smaller than a large page, but a model's matrices
// together fill whole ones. They lie in reading order, so prefetching past a matrix's end fetches the next one.
class Arena {
 public:
  void* take(size_t bytes) {   // zeroed
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (chunks_.empty() || used_ + rounded > chunks_.back().size()) {
      chunks_.emplace_back(rounded > kChunk ? rounded : kChunk);
      used_ = 0;
    }
    void* const piece = chunks_.back().data() + used_;
    used_ += rounded;
    return piece;
  }

 private:
  static constexpr size_t kAlignment = 64, kChunk = size_t{32} << 20;
  std::vector<Buffer<unsigned char>> chunks_;
  size_t used_ = 0;   // of the last chunk
};

template <class T>
Buffer<T>::Buffer(size_t count, Arena* arena) {
  if (!arena) {
    *this = Buffer(count);
    return;
  }
  data_ = static_cast<T*>(arena->take(count * sizeof(T)));
  count_ = count;
  borrowed_ = true;
}

}  // namespace gpt2
