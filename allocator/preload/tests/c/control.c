/* The functions of slab_alloc.h. */
#define _GNU_SOURCE
#include "slab_alloc.h"
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
    if (slab_alloc_set_huge_pages(SLAB_ALLOC_HUGE_PAGES_DENSE) != 0 ||
        slab_alloc_set_huge_pages(2) != EINVAL ||
        slab_alloc_set_huge_pages(SLAB_ALLOC_HUGE_PAGES_OFF) != 0) {
        fprintf(stderr, "huge pages cannot be set\n");
        return 1;
    }
    size_t live = mallinfo2().uordblks;
    char text[65536];
    int file = memfd_create("stats", 0);
    int written = slab_alloc_stats_text(file) | slab_alloc_stats_json(file);
    ssize_t length = pread(file, text, sizeof text - 1, 0);
    text[length < 0 ? 0 : length] = 0;
    if (written != 0 || strncmp(text, "heap\n  resident_bytes ", 22) != 0
        || strstr(text, "\n{\"heap\":{\"resident_bytes\":") == NULL
        || slab_alloc_stats_json(-1) != -1 || mallinfo2().uordblks != live) {
        fprintf(stderr, "%zu bytes live before\n%s", live, text);
        return 1;
    }
    puts(slab_alloc_version());
    return 0;
}
