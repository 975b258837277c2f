/* Many short threads, each of which leaves objects to others, frees from destructors
   of thread-specific data (of keys that come after the library's own, and that run
   again), and once more after those. Ten run at once, each time all ten, since memory
   follows the number of threads at one moment, not the number that ever were. Prints
   how much the process's anonymous memory grew from the second thousand of threads to
   the last, in KiB: the least that either held. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 10000, AT_ONCE = 10, LEFT = 50 };

static pthread_key_t keys[20];
static __thread char *thread_object;
static char *left[AT_ONCE][LEFT];

static pthread_barrier_t all_run;

/* From smaps_rollup, which counts pages: statm adds up counters that lag behind on
   machines with many processors. */
static long anonymous_kib(void) {
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    long kib = -1;
    if (!file)
        abort();
    while (kib < 0 && fgets(line, sizeof line, file))
        sscanf(line, "Anonymous: %ld", &kib);
    fclose(file);
    if (kib < 0)
        abort();
    return kib;
}

static void destroy(void *value) {
    char **pair = value;
    if (strcmp(pair[0], "held by a key") != 0)
        abort();
    free(pair[0]);
    /* A destructor may set values anew: it is called again. */
    free(thread_object);
    thread_object = malloc(300);
    free(thread_object);
    thread_object = NULL;
    if (pair[1]) {
        pair[0] = strdup("held by a key");
        free(pair[1]);
        pair[1] = NULL;
        for (int i = 0; i < 20; i++)
            if (!pthread_getspecific(keys[i])) {
                pthread_setspecific(keys[i], value);
                return;
            }
        abort();
    } else {
        free(pair);
    }
}

static void *work(void *argument) {
    long number = (long)argument;
    pthread_barrier_wait(&all_run);
    for (int i = 0; i < 20; i += 5) {
        char **pair = malloc(2 * sizeof *pair);
        pair[0] = strdup("held by a key");
        pair[1] = malloc(500 + 100 * i);
        pthread_setspecific(keys[i], pair);
    }
    thread_object = malloc(1000);
    memset(thread_object, 1, 1000);
    for (int i = 0; i < 200; i++) {
        char *object = malloc(16 + (number * 31 + i * 97) % 3000);
        object[0] = 1;
        free(object);
    }
    for (int i = 0; i < LEFT; i++) {
        free(left[number][i]);
        left[number][i] = malloc(16 + (number * 7 + i * 13) % 400);
        left[number][i][0] = 1;
    }
    pthread_barrier_wait(&all_run);
    return NULL;
}

int main(void) {
    for (int i = 0; i < 20; i++)
        pthread_key_create(&keys[i], destroy);
    pthread_barrier_init(&all_run, NULL, AT_ONCE);
    long early = 1L << 40, late = 1L << 40;
    for (int done = 0; done < THREADS; done += AT_ONCE) {
        pthread_t threads[AT_ONCE];
        for (long i = 0; i < AT_ONCE; i++)
            if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
                abort();
        for (int i = 0; i < AT_ONCE; i++)
            pthread_join(threads[i], NULL);
        long now = anonymous_kib();
        if (done >= 1000 && done < 2000 && now < early)
            early = now;
        if (done >= THREADS - 1000 && now < late)
            late = now;
    }
    printf("%ld\n", late - early);
    return 0;
}
