/* Preloaded into a process, counts what is asked of memory while one function runs, by whichever thread: glibc's
   malloc and its kin, which C++'s operator new calls too, and mmap. And refuses, if it is told to, one of the requests. */

#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static atomic_int counting, count, refused;

/* Whether a request is granted. */
static int asked(void) { return !atomic_load(&counting) || atomic_fetch_add(&count, 1) + 1 != atomic_load(&refused); }

void* malloc(size_t bytes) { return asked() ? __libc_malloc(bytes) : NULL; }
void* calloc(size_t number, size_t bytes) { return asked() ? __libc_calloc(number, bytes) : NULL; }
void* realloc(void* old, size_t bytes) { return asked() ? __libc_realloc(old, bytes) : NULL; }
void* memalign(size_t alignment, size_t bytes) { return asked() ? __libc_memalign(alignment, bytes) : NULL; }
void* aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }

int posix_memalign(void** to, size_t alignment, size_t bytes) {
  *to = memalign(alignment, bytes);
  return *to ? 0 : ENOMEM;
}

void* mmap(void* at, size_t bytes, int protection, int flags, int file, off_t offset) {
  if (asked()) return (void*)syscall(SYS_mmap, at, bytes, protection, flags, file, offset);
  errno = ENOMEM;
  return MAP_FAILED;
}

void* mmap64(void* at, size_t bytes, int protection, int flags, int file, off_t offset) { return mmap(at, bytes, protection, flags, file, offset); }

/* What a function of up to four whole numbers or pointers returns, and how often it asked for memory. The request of that
   number is refused; 0: none is. */
int64_t call_counted(int64_t (*function)(intptr_t, intptr_t, intptr_t, intptr_t), intptr_t a, intptr_t b, intptr_t c, intptr_t d,
                     int32_t refuse, int32_t* asked_for) {
  atomic_store(&refused, refuse);
  atomic_store(&count, 0);
  atomic_store(&counting, 1);
  const int64_t result = function(a, b, c, d);
  atomic_store(&counting, 0);
  *asked_for = atomic_load(&count);
  return result;
}
