// Preloaded into a process: lets calls that the addon makes of the system fail. SOFTMOE_FAIL_CALLS names a
// file of four 64-bit numbers that is shared with the program under test: the kind of call (0: none is
// watched), how many succeed before the first that fails, how many fail then, and how many were made. The
// addon holds its own copy of the C++ library, so its operator new is a malloc from inside it. On the threads
// of the addon each of them fails; on that of JavaScript those of a kilobyte or more: for less the wrappers
// of Node-API (a call's arguments, an error's text) end the process, as Node.js itself does.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kAlignedAlloc = 1, kMalloc = 2, kThread = 3 };
struct Control {
  long kind, before, failing, calls;
};
static struct Control* control;
static char *addon_begin, *addon_end;

extern void* __libc_malloc(size_t bytes);

__attribute__((constructor)) static void open_control(void) {
  const char* path = getenv("SOFTMOE_FAIL_CALLS");
  const int file = path ? open(path, O_RDWR) : -1;
  if (file < 0) return;
  void* data = mmap(NULL, sizeof(struct Control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (data != MAP_FAILED) control = data;
  close(file);
}

static int find_addon(struct dl_phdr_info* info, size_t size, void* unused) {
  (void)size, (void)unused;
  if (!info->dlpi_name || !strstr(info->dlpi_name, "softmoe.node")) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)* part = &info->dlpi_phdr[i];
    if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
    addon_begin = (char*)info->dlpi_addr + part->p_vaddr;
    addon_end = addon_begin + part->p_memsz;
  }
  return 1;
}

static int fails(long kind, char* caller) {
  if (!control || __atomic_load_n(&control->kind, __ATOMIC_SEQ_CST) != kind) return 0;
  if (!addon_end) dl_iterate_phdr(find_addon, NULL);
  if (caller < addon_begin || caller >= addon_end) return 0;
  const long number = __atomic_fetch_add(&control->calls, 1, __ATOMIC_SEQ_CST);
  return number >= control->before && number < control->before + control->failing;
}

void* malloc(size_t bytes) {
  if ((bytes >= 1024 || gettid() != getpid()) && fails(kMalloc, __builtin_return_address(0))) {
    errno = ENOMEM;
    return NULL;
  }
  return __libc_malloc(bytes);
}

void* aligned_alloc(size_t alignment, size_t bytes) {
  void* data = NULL;
  if (fails(kAlignedAlloc, __builtin_return_address(0))) return NULL;
  return posix_memalign(&data, alignment, bytes) == 0 ? data : NULL;
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*), void* argument) {
  static int (*next)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  if (!next) *(void**)&next = dlsym(RTLD_NEXT, "pthread_create");
  if (fails(kThread, __builtin_return_address(0))) return EAGAIN;
  return next(thread, attributes, run, argument);
}
