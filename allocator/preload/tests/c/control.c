/* The functions of slab_alloc.h. */
#include "slab_alloc.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    enum { COUNT = 20000 };
    static char *objects[COUNT];
    slab_alloc_set_decay_ms(100000);
    for (int i = 0; i < COUNT; i++)
        memset(objects[i] = malloc(1000), 1, 1000);
    for (int i = 0; i < COUNT; i++)
        free_sized(objects[i], 1000);
    slab_alloc_flush_thread_cache();
    size_t purged = slab_alloc_purge();
    free_aligned_sized(aligned_alloc(256, 1000), 256, 1000);
    if (purged < COUNT / 2 * 1000) {
        fprintf(stderr, "%zu bytes purged\n", purged);
        return 1;
    }
    puts(slab_alloc_version());
    return 0;
}
