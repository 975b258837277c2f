/* Misuses the heap in one way, which the argument names, under the hardened mode. Whatever
   is not seen at once is seen when the slot is handed out again, or its slab released. */
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of the preloaded library: C libraries are about to get it. */
__attribute__((weak)) void free_sized(void *object, size_t size);
__attribute__((weak)) void free_aligned_sized(void *object, size_t align, size_t size);

static char object[64];
static char *volatile shared;

static void *free_shared(void *unused) {
    free(shared);
    return unused;
}

static void elsewhere(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, free_shared, NULL);
    pthread_join(thread, NULL);
}

/* Hands out slots of the size until those that were freed have come round. */
static void come_round(size_t size) {
    for (int at = 0; at < 100000; at++)
        free(malloc(size));
}

int main(int count, char **arguments) {
    char local[64];
    const char *kind = arguments[1];
    size_t size = count > 2 ? strtoul(arguments[2], NULL, 10) : 100;
#define IS(name) (strcmp(kind, name) == 0)
    char *one = malloc(size);
    char *keep[8];
    for (int at = 0; at < 8; at++)
        keep[at] = malloc(size);
    memset(one, 1, size);
    if (IS("static"))
        free(object + 16);
    else if (IS("stack"))
        free(local + 16);
    else if (IS("wild"))
        free(one + (1ul << 33));
    else if (IS("interior"))
        free(one + 16);
    else if (IS("unaligned"))
        free(one + 1);
    else if (IS("never-allocated")) {
        /* The other slot on the first page that holds two of them. */
        free((void *)((uintptr_t)malloc(2000) ^ 2048));
    } else if (IS("double"))
        free(one), free(one);
    else if (IS("double-later")) {
        free(one);
        for (int at = 0; at < 8; at++)
            free(keep[at]), keep[at] = malloc(size);
        free(one);
    } else if (IS("double-elsewhere"))
        shared = one, elsewhere(), free(one);
    else if (IS("double-by-others"))
        shared = one, elsewhere(), elsewhere();
    else if (IS("double-realloc"))
        free(one), one = realloc(one, size + 1);
    else if (IS("double-in-child")) {
        free(one);
        if (fork() == 0)
            free(one);
    } else if (IS("overrun-zero"))
        one[size] = 0, free(one);
    else if (IS("overrun-many"))
        memset(one + size, 'x', 8), free(one);
    else if (IS("overrun-realloc"))
        one[size] = 0, one = realloc(one, 2 * size);
    else if (IS("overrun-usable"))
        one[size] = 0, size = malloc_usable_size(one);
    else if (IS("overrun-elsewhere"))
        one[size] = 0, shared = one, elsewhere();
    else if (IS("size"))
        free_sized(one, size + 1);
    else if (IS("size-of-another-class"))
        free_sized(one, 3 * size);
    else if (IS("size-aligned"))
        free_aligned_sized(one, 16, size - 1);
    else if (IS("write-after-free")) {
        free(one);
        one[size / 2] = 1;
        come_round(size);
    } else if (IS("write-after-free-at-the-end")) {
        free(one);
        one[size - 1] = 1;
        come_round(size);
    } else if (IS("write-after-free-released")) {
        free(one);
        one[0] = 1;
        for (int at = 0; at < 8; at++)
            free(keep[at]), keep[at] = NULL;
        /* The slabs are given up, all of whose slots are free. */
        for (int at = 0; at < 4; at++)
            malloc_trim(0);
    } else if (IS("fault-behind"))
        one[(size + 8 + 4095) / 4096 * 4096] = 1;
    else if (IS("fault-in-front"))
        one[-1] = 1;
    else if (IS("fault-after-free"))
        free(one), one[0] = 1;
    else if (IS("none")) {
        /* What programs may do. */
        if (malloc_usable_size(one) != size)
            return 1;
        for (size_t at = size; at < size + 2000; at++) {
            one = realloc(one, at);
            one[at - 1] = 1;
            for (size_t before = size; before < at; before++)
                if (one[before] != 1 || one[0] != 1)
                    return 2;
        }
        for (size_t at = size + 2000; at > 0; at -= at / 20 + 1)
            one = realloc(one, at);
        char *zeros = calloc(size, 2);
        for (size_t at = 0; at < 2 * size; at++)
            if (zeros[at] != 0)
                return 3;
        memset(zeros, 1, 2 * size);
        free_sized(zeros, 2 * size);
        zeros = calloc(size, 2);
        for (size_t at = 0; at < 2 * size; at++)
            if (zeros[at] != 0)
                return 4;
        free(zeros);
        for (size_t align = 1; align <= 1 << 22; align *= 2) {
            char *aligned = memalign(align, size);
            if ((uintptr_t)aligned % align != 0)
                return 5;
            memset(aligned, 1, size);
            free_aligned_sized(aligned, align, size);
        }
        free(one);
        come_round(size);
        puts("ok");
    }
    for (int at = 0; at < 8; at++)
        free(keep[at]);
    return 0;
}
