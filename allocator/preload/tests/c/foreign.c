/* Misuses free in one way, which the argument names. What is freed wrongly may lie in the
   thread's cache unseen: malloc_trim sends it on to where it is seen. */
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Of the preloaded library: C libraries are about to get it. */
__attribute__((weak)) void free_sized(void *object, size_t size);

static char object[64];

static void *free_twice(void *argument) {
    free(argument);
    malloc_trim(0);
    free(argument);
    malloc_trim(0);
    return NULL;
}

int main(int count, char **arguments) {
    char local[64];
    const char *kind = arguments[count - 1];
#define IS(name) (strcmp(kind, name) == 0)
    char *small = malloc(100);
    char *large = malloc(1 << 20);
    /* Keeps the slab where it is. */
    char *neighbour = malloc(100);
    if (IS("static"))
        free(object + 16);
    else if (IS("stack"))
        free(local + 16);
    else if (IS("wild"))
        free(large + (1ul << 32));
    else if (IS("large-interior"))
        free(large + 4096);
    else if (IS("small-interior"))
        free(small + 16);
    else if (IS("double"))
        free(small), free(small);
    else if (IS("double-later"))
        free_twice(small);
    else if (IS("double-elsewhere")) {
        pthread_t thread;
        pthread_create(&thread, NULL, free_twice, small);
        pthread_join(thread, NULL);
    } else if (IS("double-large"))
        free(large), free(large);
    else if (IS("sized"))
        free_sized(small, 500);
    else if (IS("sized-static"))
        free_sized(object + 16, 100);
    else if (IS("sized-large"))
        free_sized(large, 1 << 19);
    else if (IS("sized-large-static"))
        free_sized(object + 16, 1 << 20);
    else if (IS("realloc-static"))
        small = realloc(object + 16, 200);
    else if (IS("realloc-freed"))
        free(large), small = realloc(large, 200);
    else if (IS("realloc-interior"))
        large = realloc(large + 16, 100);
    else if (IS("usable-static"))
        return malloc_usable_size(object + 16) > 0;
    else if (IS("usable-interior"))
        return malloc_usable_size(large + 16) > 0;
    malloc_trim(0);
    free(neighbour);
    return 0;
}
