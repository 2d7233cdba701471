/* Preloaded into a process, counts what is asked of memory while one function runs, by whichever thread: glibc's
   malloc and its kin, which C++'s operator new calls too, and mmap. */

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

static atomic_int counting, count;

static void asked(void) { if (atomic_load(&counting)) atomic_fetch_add(&count, 1); }

void* malloc(size_t bytes) { asked(); return __libc_malloc(bytes); }
void* calloc(size_t number, size_t bytes) { asked(); return __libc_calloc(number, bytes); }
void* realloc(void* old, size_t bytes) { asked(); return __libc_realloc(old, bytes); }
void* memalign(size_t alignment, size_t bytes) { asked(); return __libc_memalign(alignment, bytes); }
void* aligned_alloc(size_t alignment, size_t bytes) { asked(); return __libc_memalign(alignment, bytes); }

int posix_memalign(void** to, size_t alignment, size_t bytes) {
  asked();
  *to = __libc_memalign(alignment, bytes);
  return *to ? 0 : ENOMEM;
}

void* mmap(void* at, size_t bytes, int protection, int flags, int file, off_t offset) {
  asked();
  return (void*)syscall(SYS_mmap, at, bytes, protection, flags, file, offset);
}

void* mmap64(void* at, size_t bytes, int protection, int flags, int file, off_t offset) { return mmap(at, bytes, protection, flags, file, offset); }

/* gpt2_step, and how often it asked for memory. */
int32_t step_counted(int32_t (*step)(void*, const void*, int32_t), void* engine, const void* work, int32_t pieces, int32_t* asked_for) {
  atomic_store(&count, 0);
  atomic_store(&counting, 1);
  const int32_t code = step(engine, work, pieces);
  atomic_store(&counting, 0);
  *asked_for = atomic_load(&count);
  return code;
}
