/* Forks at any moment of a program whose threads allocate without a pause. Each child
   allocates, frees what its parent had, starts threads, forks again and ends; one that
   waits for a lock that nobody holds hangs, and is killed by its alarm. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FORKS = 150, OBJECTS = 300 };

static volatile int done;

static void churn(unsigned seed, int rounds) {
    char *objects[OBJECTS] = {0};
    for (int i = 0; i < rounds; i++) {
        seed = seed * 1664525 + 1013904223;
        int at = (seed >> 8) % OBJECTS;
        size_t size = (seed >> 20) % 50 == 0 ? 100000 : 1 + (seed >> 16) % 2000;
        if (objects[at] && objects[at][0] != 7)
            abort();
        free(objects[at]);
        objects[at] = malloc(size);
        memset(objects[at], 7, size);
    }
    for (int i = 0; i < OBJECTS; i++)
        free(objects[i]);
}

static void *work(void *seed) {
    while (!done)
        churn((unsigned)(size_t)seed, 500);
    return NULL;
}

static void *work_once(void *seed) {
    churn((unsigned)(size_t)seed, 500);
    return NULL;
}

static void fork_and_wait(char **inherited, int generation) {
    pid_t child = fork();
    if (child < 0)
        abort();
    if (child == 0) {
        alarm(60);
        for (int i = 0; i < OBJECTS; i++) {
            if (inherited[i][100] != (char)i)
                abort();
            free(inherited[i]);
            inherited[i] = malloc(2000);
            inherited[i][100] = (char)i;
        }
        pthread_t threads[2];
        for (size_t i = 0; i < 2; i++)
            if (pthread_create(&threads[i], NULL, work_once, (void *)i) != 0)
                abort();
        churn(generation, 1000);
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        if (generation < 2)
            fork_and_wait(inherited, generation + 1);
        _exit(0);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "a child of generation %d ended with %d\n", generation, status);
        exit(1);
    }
}

int main(void) {
    static char *inherited[OBJECTS];
    for (int i = 0; i < OBJECTS; i++) {
        inherited[i] = malloc(500 + i * 50);
        inherited[i][100] = (char)i;
    }
    pthread_t threads[3];
    for (size_t i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, work, (void *)(i + 10));
    for (int i = 0; i < FORKS; i++)
        fork_and_wait(inherited, 1);
    done = 1;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    puts("ok");
    return 0;
}
