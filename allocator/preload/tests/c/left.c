/* Frees everything and calls nothing any more. The argument: MiB of small objects. Prints
   the threads right after that, and waits until less than a quarter of it is resident, if
   there is a second one, which then is the heap's. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Reads without allocating. */
static long field(const char *path, const char *name) {
    char text[8192];
    int file = open(path, O_RDONLY);
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length < 0)
        return -1;
    text[length] = 0;
    const char *found = strstr(text, name);
    return found ? atol(found + strlen(name)) : -1;
}

static long threads(void) { return field("/proc/self/status", "Threads:"); }

/* From smaps_rollup, which counts pages: status adds up counters that lag behind on
   machines with many processors. */
static long anonymous_kib(void) { return field("/proc/self/smaps_rollup", "Anonymous:"); }

int main(int argc, char **argv) {
    (void)argc;
    static void *objects[1 << 20];
    long mib = atol(argv[1]);
    long count = mib * 1024 * 1024 / 1000, hardly_kib = mib * 1024 / 4;
    free(malloc(1000));
    long before_kib = anonymous_kib();
    for (long i = 0; i < count; i++)
        memset(objects[i] = malloc(1000), 1, 1000);
    for (long i = 0; i < count; i++)
        free(objects[i]);
    long count_after = threads();
    long kept_kib = anonymous_kib() - before_kib;
    for (int waited = 0; count_after > 1 && kept_kib > hardly_kib && waited < 6000; waited++) {
        usleep(10000);
        kept_kib = anonymous_kib() - before_kib;
    }
    printf("%ld %s\n", count_after, kept_kib <= hardly_kib ? "gone" : "kept");
}
