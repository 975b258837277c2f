/* Frees what malloc has not handed out. */
#include <stdlib.h>
#include <string.h>

static char object[64];

int main(int count, char **arguments) {
    char local[64];
    const char *kind = arguments[count - 1];
    free(malloc(100));
    if (strcmp(kind, "static") == 0)
        free(object + 16);
    else if (strcmp(kind, "stack") == 0)
        free(local + 16);
    else if (strcmp(kind, "large-interior") == 0)
        free((char *)malloc(1 << 20) + 4096);
    return 0;
}
