/* slabkv's allocator as the malloc of a C or C++ program.

   Linked with libslab_alloc.a, or started with LD_PRELOAD=libslab_alloc.so, a program
   keeps the declarations of <stdlib.h>, <malloc.h> and <new>, and all of those functions
   are the library's: malloc, calloc, realloc, reallocarray, free, aligned_alloc,
   posix_memalign, memalign, valloc, pvalloc, malloc_usable_size, malloc_trim, mallopt,
   mallinfo, mallinfo2, malloc_info, malloc_stats, operator new and delete.

   Below is what the library has besides. All functions may be called by any thread, and
   none from a signal handler. */

#ifndef SLAB_ALLOC_H
#define SLAB_ALLOC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* C23's frees with a size, which C libraries do not declare yet. `size` and `align` are
   what was asked for. free_sized is cheaper than free, since it need not look up how
   large the object is. */
void free_sized(void *object, size_t size);
void free_aligned_sized(void *object, size_t align, size_t size);

/* Gives all free pages back to the system at once. Returns the bytes. Without this call
   the library does so by itself within about a second. */
size_t slab_alloc_purge(void);

/* Gives what the calling thread keeps for its next allocations, at most some 256 KiB,
   back to the heap: worth a call by a thread that is about to sleep for long. */
void slab_alloc_flush_thread_cache(void);

/* Changes the time in milliseconds within which free pages go back to the system: 0 for
   as soon as possible, 1000 by default. */
void slab_alloc_set_decay_ms(uint32_t decay_ms);

/* Writes all statistics of the heap to a file descriptor: as text, or as one JSON object
   on one line. docs/statistics.md explains each figure. Nothing is allocated meanwhile,
   and no thread is stopped. 0, or -1 with errno where not all could be written. */
int slab_alloc_stats_text(int descriptor);
int slab_alloc_stats_json(int descriptor);

/* Which memory gets huge pages: none, or chunks of 2 MiB all of whose pages have been in
   use for some seconds, as long as they are. SLAB_ALLOC_HUGE_PAGES_OFF by default. */
enum slab_alloc_huge_pages {
    SLAB_ALLOC_HUGE_PAGES_OFF = 0,
    SLAB_ALLOC_HUGE_PAGES_DENSE = 1
};

/* Changes that. Returns 0; EINVAL, with nothing changed, if `huge_pages` is neither. */
int slab_alloc_set_huge_pages(int huge_pages);

/* Starts the heap profile: samples allocations from now on, one in sample_bytes bytes on
   average. 1 stands for every allocation, and 512 KiB are hardly felt. 0, or -1 with errno.
   docs/heap-profile.md tells how to use it. These three are there where the library was
   built with --features pprof. */
int slab_alloc_start_heap_profile(size_t sample_bytes);

/* Samples no more. What was sampled stays in the profile until it is freed. */
void slab_alloc_stop_heap_profile(void);

/* Writes the heap profile to a file descriptor, as pprof reads it: the file's name should
   end in .pb.gz. 0, or -1 with errno where not all could be written. */
int slab_alloc_write_heap_profile(int descriptor);

/* The version of the library, as "0.1.0". Not to be freed. */
const char *slab_alloc_version(void);

#ifdef __cplusplus
}
#endif

#endif
