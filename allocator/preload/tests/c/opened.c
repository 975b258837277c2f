/* Opens the library by dlopen, uses it from several threads, and closes it. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *(*get)(size_t);
static void (*put)(void *);

static void *work(void *unused) {
    static __thread char *objects[3000];
    for (int i = 0; i < 3000; i++)
        memset(objects[i] = get(1000), 1, 1000);
    for (int i = 0; i < 3000; i++)
        put(objects[i]);
    return unused;
}

int main(int count, char **arguments) {
    for (int round = 0; round < 3; round++) {
        void *handle = dlopen(arguments[count - 1], RTLD_NOW | RTLD_LOCAL);
        if (!handle) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        get = (void *(*)(size_t))dlsym(handle, "malloc");
        put = (void (*)(void *))dlsym(handle, "free");
        pthread_t threads[8];
        for (int i = 0; i < 8; i++)
            pthread_create(&threads[i], NULL, work, NULL);
        for (int i = 0; i < 8; i++)
            pthread_join(threads[i], NULL);
        dlclose(handle);
        usleep(50000);
    }
    puts("ok");
    return 0;
}
