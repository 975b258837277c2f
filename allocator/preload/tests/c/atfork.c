/* How often fork handlers are registered before there is a second thread, until it runs,
   and after it has allocated. With an argument: when a library of that name has been
   opened and has allocated. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static int registered;

/* What pthread_atfork calls; the dynamic linker finds this one first. */
int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
                      void *library) {
    (void)prepare, (void)parent, (void)child, (void)library;
    registered++;
    return 0;
}

static int when_it_ran;

static void *run(void *unused) {
    (void)unused;
    when_it_ran = registered;
    free(malloc(100));
    return NULL;
}

int main(int argc, char **argv) {
    if (argc > 1) {
        void *library = dlopen(argv[1], RTLD_NOW);
        int before = registered;
        void *(*allocate)(size_t) = (void *(*)(size_t))dlsym(library, "malloc");
        if (!allocate(100))
            return 1;
        printf("%d\n", registered - before);
        return 0;
    }
    /* One of each size that the C library might ask for to make a thread, so that there
       is one at hand. */
    for (size_t size = 1; size < 2000; size++)
        free(calloc(1, size));
    int alone = registered;
    pthread_t thread;
    pthread_create(&thread, NULL, run, NULL);
    pthread_join(thread, NULL);
    printf("%d %d %d\n", alone, when_it_ran, registered);
}
