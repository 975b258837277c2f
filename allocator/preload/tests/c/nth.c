/* One request to the system fails, the N-th of this process, or all from it on; then
 * the heap is used as if nothing had happened. With a step as its argument the program
 * runs itself again for every N that there is, in these steps, in both ways, and prints
 * how many runs. */

#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The requests of the library come here, since it finds these first; those that the C
 * library makes for itself, such as for a thread's stack, do not. */

static atomic_long requests;
static long fails_at;
static int fails_for_good;

static int refuses(void) {
    long at = atomic_fetch_add(&requests, 1) + 1;
    if (fails_at == 0 || at < fails_at || (at > fails_at && !fails_for_good)) return 0;
    errno = ENOMEM;
    return 1;
}

static long raw(long number, long a, long b, long c, long d, long e, long f) {
    long result;
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    result = x0;
#else
#error "how this processor calls the system is not known here"
#endif
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

void *mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset) {
    if (refuses()) return MAP_FAILED;
    return (void *)raw(SYS_mmap, (long)at, bytes, protection, flags, file, offset);
}

int munmap(void *at, size_t bytes) {
    return refuses() ? -1 : (int)raw(SYS_munmap, (long)at, bytes, 0, 0, 0, 0);
}

int mprotect(void *at, size_t bytes, int protection) {
    return refuses() ? -1 : (int)raw(SYS_mprotect, (long)at, bytes, protection, 0, 0, 0);
}

int madvise(void *at, size_t bytes, int advice) {
    return refuses() ? -1 : (int)raw(SYS_madvise, (long)at, bytes, advice, 0, 0, 0);
}

void *mremap(void *at, size_t bytes, size_t new_bytes, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    void *to = flags & MREMAP_FIXED ? va_arg(rest, void *) : NULL;
    va_end(rest);
    if (refuses()) return MAP_FAILED;
    return (void *)raw(SYS_mremap, (long)at, bytes, new_bytes, flags, (long)to, 0);
}

long syscall(long number, ...) {
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
    long d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
#ifdef SYS_process_madvise
    if (number == SYS_process_madvise && refuses()) return -1;
#endif
    return raw(number, a, b, c, d, e, f);
}

/* The work. Every byte says whose it is. */

enum { SLOTS = 240 };

static struct {
    unsigned char *start;
    size_t bytes;
} held[SLOTS];

static void stop(const char *what) {
    dprintf(2, "request %ld%s: %s\n", fails_at, fails_for_good ? " and after" : "", what);
    _exit(1);
}

static void check(int slot) {
    for (size_t at = 0; at < held[slot].bytes; at += 509)
        if (held[slot].start[at] != (unsigned char)slot) stop("an object has changed");
}

static void keep(int slot, void *start, size_t bytes) {
    if (!start) {
        if (errno != ENOMEM) stop("no memory, and errno does not say so");
        return;
    }
    memset(start, slot, bytes);
    held[slot].start = start;
    held[slot].bytes = bytes;
}

static void drop(int slot) {
    if (!held[slot].start) return;
    check(slot);
    free(held[slot].start);
    held[slot].start = NULL;
    held[slot].bytes = 0;
}

static size_t size_of(int slot) {
    static const size_t sizes[] = {24, 100, 700, 3000, 9000, 20000, 70000, 300000};
    return sizes[slot % 8] + slot;
}

static void fill(int from, int to) {
    for (int slot = from; slot < to; slot++) {
        if (held[slot].start) continue;
        size_t bytes = size_of(slot);
        errno = 0;
        if (slot % 11 == 3)
            keep(slot, aligned_alloc(4096, bytes), bytes);
        else if (slot % 7 == 3) {
            unsigned char *start = calloc(1, bytes);
            for (size_t at = 0; start && at < bytes; at++)
                if (start[at]) stop("calloc's memory is not zero");
            keep(slot, start, bytes);
        } else
            keep(slot, malloc(bytes), bytes);
    }
}

static void grow(int slot, size_t bytes) {
    if (!held[slot].start) return;
    check(slot);
    errno = 0;
    unsigned char *grown = realloc(held[slot].start, bytes);
    if (!grown) {
        if (errno != ENOMEM) stop("no memory, and errno does not say so");
        check(slot);
        return;
    }
    held[slot].start = grown;
    if (held[slot].bytes > bytes) held[slot].bytes = bytes;
    check(slot);
    keep(slot, grown, bytes);
}

static void *other_thread(void *unused) {
    for (int slot = 0; slot < SLOTS; slot += 2) drop(slot);
    fill(0, SLOTS / 4);
    return unused;
}

static void work(void) {
    fill(0, SLOTS);
    pthread_t thread;
    if (pthread_create(&thread, NULL, other_thread, NULL) == 0)
        pthread_join(thread, NULL);
    else
        other_thread(NULL);
    for (int slot = 7; slot < 100; slot += 30) {
        grow(slot, 5 << 20);
        grow(slot, 9 << 20);
        grow(slot, 1 << 20);
    }
    for (int slot = 0; slot < SLOTS; slot++)
        if (slot % 5) drop(slot);
    malloc_trim(0);
    for (int slot = 0; slot < SLOTS; slot++) check(slot);
}

int main(int count, char **words) {
    if (count == 3) {
        fails_at = atol(words[1]);
        fails_for_good = words[2][0] == 'a';
        /* What came before main is not repeated: the heap may have been made then. */
        atomic_store(&requests, 0);
        work();
        long made = atomic_load(&requests);
        fails_at = 0;
        /* With the system as it was, there is nothing that cannot be had. */
        fill(0, SLOTS);
        for (int slot = 0; slot < SLOTS; slot++) {
            if (!held[slot].start) stop("memory stays away");
            drop(slot);
        }
        /* Two: it was never reached. */
        _exit(atol(words[1]) > made ? 2 : 0);
    }
    long step = atol(words[1]);
    int runs = 0;
    const char *ways[] = {"once", "always"};
    for (int way = 0; way < 2; way++) {
        int status = 0;
        for (long at = 1; status == 0; at += step, runs++) {
            char number[24];
            snprintf(number, sizeof number, "%ld", at);
            char *child_words[] = {words[0], number, (char *)ways[way], NULL};
            pid_t child;
            if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, child_words, environ)) return 1;
            if (waitpid(child, &status, 0) != child) return 1;
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 2) {
            fprintf(stderr, "%s, run %d: status %x\n", ways[way], runs, status);
            return 1;
        }
    }
    printf("%d\n", runs);
    return 0;
}
