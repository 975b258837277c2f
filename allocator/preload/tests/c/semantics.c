/* What C promises of malloc and its family, seen from a program that is started with
   the library, or linked with it. Prints "ok" and ends with 0 if all of it holds. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);     \
            failures++;                                                         \
        }                                                                       \
    } while (0)

static int aligned(const void *p, size_t align) { return (uintptr_t)p % align == 0; }

static volatile size_t huge = SIZE_MAX - 100;
static volatile size_t half = SIZE_MAX / 2 + 2;

static void sizes(void) {
    for (size_t size = 0; size < 70000; size += size < 2000 ? 1 : 997) {
        char *p = malloc(size);
        CHECK(p && aligned(p, 16) && malloc_usable_size(p) >= size);
        memset(p, 0x5a, malloc_usable_size(p));
        char *z = calloc(1, size);
        CHECK(z && aligned(z, 16));
        for (size_t i = 0; i < size; i++)
            CHECK(z[i] == 0);
        char *q = realloc(p, size * 2 + 1);
        CHECK(q && aligned(q, 16));
        for (size_t i = 0; i < size; i++)
            CHECK(q[i] == 0x5a);
        q = realloc(q, size / 2 + 1);
        CHECK(q && (size == 0 || q[size / 2 - (size > 1)] == 0x5a));
        free(q);
        free(z);
    }
}

static void alignments(void) {
    for (size_t align = 1; align <= (16u << 20); align *= 2) {
        for (size_t size = 0; size < 5000; size += 613) {
            char *p = aligned_alloc(align, size), *m = memalign(align, size);
            CHECK(p && m && aligned(p, align) && aligned(m, align));
            CHECK(aligned(p, 16) && malloc_usable_size(p) >= size);
            memset(p, 1, size);
            free(p);
            free(m);
            void *x = &failures;
            int error = posix_memalign(&x, align, size);
            if (align < sizeof(void *)) {
                CHECK(error == EINVAL && x == &failures);
            } else {
                CHECK(error == 0 && aligned(x, align));
                free(x);
            }
        }
    }
    void *v = valloc(10), *w = pvalloc(10);
    CHECK(aligned(v, 4096) && aligned(w, 4096) && malloc_usable_size(w) >= 4096);
    free(v);
    free(w);
    errno = 0;
    CHECK(aligned_alloc(24, 24) == NULL && errno == EINVAL);
}

static void failing(void) {
    void *p = malloc(100);
    errno = 0;
    CHECK(malloc(huge) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(calloc(half, 2) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(realloc(p, huge) == NULL && errno == ENOMEM);
    errno = 0;
    void *array = reallocarray(p, half, 2);
    CHECK(array == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(aligned_alloc(64, huge) == NULL && errno == ENOMEM);
    void *x = &failures;
    errno = EXDEV;
    CHECK(posix_memalign(&x, 64, huge) == ENOMEM && x == &failures && errno == EXDEV);
    free(p);
    CHECK(errno == EXDEV);
}

static void rest(void) {
    void *a = malloc(0), *b = malloc(0);
    CHECK(a && b && a != b);
    CHECK(realloc(a, 0) == NULL);
    free(b);
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    CHECK(mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1);
    void *large = malloc(10 << 20);
    struct mallinfo2 info = mallinfo2();
    CHECK(info.hblkhd >= (10 << 20) && info.uordblks >= info.hblkhd);
    memset(large, 1, 10 << 20);
    free(large);
    CHECK(malloc_trim(0) == 1);
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    CHECK(malloc_info(0, stream) == 0);
    fclose(stream);
    /* The C library's own malloc would not say this. */
    CHECK(strstr(text, "slabkv") != NULL);
    free(text);
    struct mallinfo old = mallinfo();
    CHECK(old.arena > 0);
    malloc_stats();
}

int main(void) {
    sizes();
    alignments();
    failing();
    rest();
    if (failures == 0)
        puts("ok");
    return failures != 0;
}
