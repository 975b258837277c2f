/* To be run under a limit of the address space: memory ends with null and ENOMEM for
   every kind of request, what was allocated before stays as it was, and what is freed
   can be had again. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1 << 20 };

static void *touch(void *unused) {
    char *object = malloc(100000);
    if (!object)
        abort();
    memset(object, 1, 100000);
    free(object);
    return unused;
}

static long exhaust(size_t size, void *(*get)(size_t)) {
    static char *objects[MOST];
    long count = 0;
    errno = 0;
    while (count < MOST && (objects[count] = get(size))) {
        memset(objects[count], (char)count, size);
        count++;
    }
    if (count == MOST || errno != ENOMEM) {
        fprintf(stderr, "%ld objects of %zu bytes, errno %d\n", count, size, errno);
        exit(1);
    }
    /* At the end of memory a request that fails harms nothing. */
    if (count && realloc(objects[0], (size_t)1 << 40))
        exit(2);
    for (long i = 0; i < count; i++) {
        if (objects[i][0] != (char)i || objects[i][size - 1] != (char)i)
            exit(3);
        free(objects[i]);
    }
    return count * (long)size >> 20;
}

static void *zeroed(size_t size) { return calloc(1, size); }
static void *aligned(size_t size) { return aligned_alloc(64, size); }
static void *grown(size_t size) { return realloc(malloc(size / 2), size); }

int main(void) {
    static const size_t sizes[] = {5000, 12000, 100000, 5 << 20, 700, 3 << 20};
    static void *(*const gets[])(size_t) = {malloc, zeroed, aligned, grown};
    long least = 1L << 40;
    for (int s = 0; s < 6; s++)
        for (int g = 0; g < 4; g++) {
            long megabytes = exhaust(sizes[s], gets[g]);
            least = megabytes < least ? megabytes : least;
        }
    pthread_t thread;
    if (pthread_create(&thread, NULL, touch, NULL) != 0)
        return 4;
    pthread_join(thread, NULL);
    printf("%ld\n", least);
    return 0;
}
