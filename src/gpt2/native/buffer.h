// Memory for weights and activations: aligned, zeroed, and in large pages where the system has them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gpt2 {

// Reading weights is what decoding costs; with 2 MB pages it never waits for an address translation.
constexpr size_t kLargePage = size_t{2} << 20;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) : count_(count) {
    if (count == 0) return;
#if defined(__linux__)
    if (is_mapped()) {   // pages of zeros, and none of them touched before it is needed
      void* pages = mmap(nullptr, mapped_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (pages == MAP_FAILED) throw std::bad_alloc();
      mapping_ = pages;
      data_ = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(pages) + kLargePage - 1) / kLargePage * kLargePage);
      madvise(static_cast<void*>(data_), bytes(), MADV_HUGEPAGE);   // a wish: failing changes nothing
      return;
    }
#endif
    data_ = static_cast<T*>(::operator new(bytes(), std::align_val_t{kAlignment}));
    std::memset(static_cast<void*>(data_), 0, bytes());
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept { swap(other); return *this; }
  ~Buffer() {
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
  size_t mapped_bytes() const { return bytes() + kLargePage; }   // room to begin at a large page

  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(mapping_, other.mapping_);
    std::swap(count_, other.count_);
  }

  T* data_ = nullptr;
  void* mapping_ = nullptr;
  size_t count_ = 0;
};

}  // namespace gpt2
