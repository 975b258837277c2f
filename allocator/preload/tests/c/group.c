/* To be run in a control group with a limit of 64 MiB, with a purge delay that never ends:
   free memory goes back at once where the group is near its limit, and not before. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MEGABYTE = 1 << 20, LIVE = 52, FREED = 9 };

static long resident_mb(void) {
    char text[100] = "";
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || !fgets(text, sizeof text, file))
        exit(1);
    fclose(file);
    return atol(strchr(text, ' ')) * sysconf(_SC_PAGESIZE) >> 20;
}

int main(void) {
    static char *objects[LIVE + FREED];
    for (int i = 0; i < LIVE + FREED; i++)
        memset(objects[i] = malloc(MEGABYTE), 1, MEGABYTE);
    for (int i = LIVE; i < LIVE + FREED; i++)
        free(objects[i]);
    for (int tries = 0; resident_mb() > LIVE + FREED / 2; tries++) {
        if (tries == 600) {
            printf("%ld MB are resident still\n", resident_mb());
            return 1;
        }
        /* An allocation now and then, as any program makes them. */
        free(malloc(100000));
        usleep(100000);
    }
    puts("ok");
    return 0;
}
