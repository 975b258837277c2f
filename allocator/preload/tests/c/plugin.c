/* A plug-in with thread-local variables, and a program that loads and unloads one again
   and again while its threads run. */
#ifdef PLUGIN
#include <stdlib.h>
#include <string.h>

static __thread char buffer[4000];
static __thread char *object;

void *plugin_work(size_t size) {
    buffer[0]++;
    free(object);
    object = malloc(size);
    memset(object, 3, size);
    return strdup("from the plug-in");
}

void plugin_rest(void) {
    free(object);
    object = NULL;
}
#else
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *path;

static void *work(void *unused) {
    for (int i = 0; i < 200; i++) {
        void *handle = dlopen(path, RTLD_NOW);
        if (!handle) {
            fprintf(stderr, "%s\n", dlerror());
            exit(1);
        }
        void *(*plugin_work)(size_t) = (void *(*)(size_t))dlsym(handle, "plugin_work");
        void (*plugin_rest)(void) = (void (*)(void))dlsym(handle, "plugin_rest");
        char *text = plugin_work(10 + i * 20);
        plugin_rest();
        dlclose(handle);
        if (strcmp(text, "from the plug-in") != 0)
            exit(2);
        free(text);
    }
    return unused;
}

int main(int count, char **arguments) {
    path = arguments[count - 1];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    puts("ok");
    return 0;
}
#endif
