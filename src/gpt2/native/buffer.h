// Memory for weights and activations: aligned, zeroed, and in large pages where the system has them.

#pragma once

#include <cstddef>
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
  explicit Buffer(size_t count) : count_(count), alignment_(count * sizeof(T) >= kLargePage ? kLargePage : 64) {
    if (count == 0) return;
    data_ = static_cast<T*>(::operator new(bytes(), std::align_val_t{alignment_}));
#if defined(__linux__)
    if (alignment_ == kLargePage) madvise(data_, bytes(), MADV_HUGEPAGE);   // a wish: failing changes nothing
#endif
    std::memset(static_cast<void*>(data_), 0, bytes());
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept { swap(other); return *this; }
  ~Buffer() { if (data_) ::operator delete(data_, std::align_val_t{alignment_}); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    std::swap(alignment_, other.alignment_);
  }

  T* data_ = nullptr;
  size_t count_ = 0;
  size_t alignment_ = 64;
};

}  // namespace gpt2
