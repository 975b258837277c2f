/* A program whose live bytes are known by function, and which uses the heap profile in
   every way that it has. Prints where the functions' code lies.

   profiled FILE: starts the profile itself, of every allocation, and writes FILE.
   profiled: whatever the environment says. */
#define _GNU_SOURCE
#include "slab_alloc.h"
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CODE(NAME)                                                                        \
    extern char __start_##NAME##_code[], __stop_##NAME##_code[];                          \
    __attribute__((noinline, section(#NAME "_code"))) static void NAME(void)
#define SHOW(NAME) printf(#NAME " %p %p\n", (void *)__start_##NAME##_code, (void *)__stop_##NAME##_code)

enum { SMALL = 60000, MEDIUM = 4000, LARGE = 50, GONE = 30000, ALIGNED = 300 };
static void *small_objects[SMALL], *medium_objects[MEDIUM], *large_objects[LARGE];
static void *gone_objects[GONE], *aligned_objects[ALIGNED];

static void *filled(void *object, size_t size, size_t align) {
    if (object == NULL || (size_t)object % align != 0 || malloc_usable_size(object) < size)
        abort();
    return memset(object, 7, size);
}

CODE(small) {
    for (int i = 0; i < SMALL; i++)
        small_objects[i] = filled(malloc(100), 100, 16);
}

CODE(medium) {
    for (int i = 0; i < MEDIUM; i++) {
        medium_objects[i] = filled(calloc(20, 10), 200, 16);
        medium_objects[i] = filled(realloc(medium_objects[i], 3000), 3000, 16);
    }
}

CODE(large) {
    for (int i = 0; i < LARGE; i++) {
        large_objects[i] = filled(malloc(40000), 40000, 16);
        large_objects[i] = filled(realloc(large_objects[i], 90000), 90000, 16);
    }
}

CODE(aligned) {
    for (int i = 0; i < ALIGNED; i++) {
        size_t align = (size_t)16 << i % 12;
        aligned_objects[i] = filled(aligned_alloc(align, 5000), 5000, align);
    }
}

CODE(gone) {
    for (int i = 0; i < GONE; i++)
        gone_objects[i] = filled(malloc(500), 500, 16);
}

/* Frees in another thread what `gone` has allocated: some with the size. */
static void *free_gone(void *unused) {
    for (int i = 0; i < GONE; i++)
        i % 2 ? free(gone_objects[i]) : free_sized(gone_objects[i], 500);
    return unused;
}

int main(int argc, char **argv) {
    if (argc > 1 && slab_alloc_start_heap_profile(1) != 0)
        return 1;
    small();
    medium();
    large();
    aligned();
    gone();
    pthread_t thread;
    pthread_create(&thread, NULL, free_gone, NULL);
    pthread_join(thread, NULL);
    pid_t child = fork();
    if (child == 0) {
        gone();
        free_gone(NULL);
        _exit(0);
    }
    int status = 1;
    if (waitpid(child, &status, 0) != child || status != 0)
        return 1;
    SHOW(small);
    SHOW(medium);
    SHOW(large);
    SHOW(aligned);
    SHOW(gone);
    if (argc > 1) {
        int file = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
        if (slab_alloc_write_heap_profile(file) != 0 || slab_alloc_write_heap_profile(-1) != -1)
            return 1;
        close(file);
        slab_alloc_stop_heap_profile();
        for (int i = 0; i < SMALL; i++)
            free(small_objects[i]);
        small();
    }
    return 0;
}
