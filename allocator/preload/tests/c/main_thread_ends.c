/* The main thread ends before the process does: that ends with its last thread, which
   must be one of the program's and not one of the library's. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *work(void *unused) {
    (void)unused;
    enum { COUNT = 30000 };
    static char *objects[COUNT];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++)
            memset(objects[i] = malloc(1000), 1, 1000);
        for (int i = 0; i < COUNT; i++)
            free(objects[i]);
        usleep(100000);
    }
    puts("ok");
    return NULL;
}

int main(void) {
    work(NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, work, NULL);
    pthread_exit(NULL);
}
