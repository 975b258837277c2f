/* A kernel that lacks a request, or refuses it from now on, by a filter of system calls:
   the heap goes on as well as it can. The arguments are the name of the request and the
   error that it gives. Prints the megabytes that were resident at most and at the end. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

static int refuse(long number, int error) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
           syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

static long resident_mb(void) {
    char text[100] = "";
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || !fgets(text, sizeof text, file))
        exit(1);
    fclose(file);
    return atol(strchr(text, ' ')) * sysconf(_SC_PAGESIZE) >> 20;
}

static void expect(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "not so: %s\n", what);
        exit(1);
    }
}

enum { COUNT = 60000 };
static unsigned char *objects[COUNT];

static size_t size_of(int at) { return 64 + at % 61 * 32; }

static void check(int at) {
    for (size_t i = 0; i < size_of(at); i++)
        expect(objects[at][i] == (unsigned char)at, "contents stay");
}

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        long number;
    } requests[] = {
        {"process_madvise", SYS_process_madvise}, {"madvise", SYS_madvise},
        {"mremap", SYS_mremap},                   {"mprotect", SYS_mprotect},
        {"mmap", SYS_mmap},
    };
    long number = -1;
    for (int i = 0; i < 5; i++)
        if (count == 3 && strcmp(arguments[1], requests[i].name) == 0)
            number = requests[i].number;
    expect(number >= 0, "the arguments are right");
    for (int at = 0; at < 1000; at++)
        memset(objects[at] = malloc(size_of(at)), at, size_of(at));
    if (refuse(number, atoi(arguments[2]))) {
        puts("no filter");
        return 0;
    }
    /* As much as there is; of the rest each is refused with ENOMEM. */
    int made = 1000;
    for (; made < COUNT; made++) {
        errno = 0;
        if (!(objects[made] = malloc(size_of(made)))) {
            expect(errno == ENOMEM, "the error is ENOMEM");
            break;
        }
        memset(objects[made], made, size_of(made));
    }
    size_t length = 9 << 20;
    unsigned char *large = malloc(length);
    if (large) {
        memset(large, 5, length);
        for (int step = 0; step < 4; step++) {
            unsigned char *moved = realloc(large, length += 1 << 20);
            if (!moved)
                break;
            large = moved;
            for (int i = 0; i < 9 << 20; i += 4096)
                expect(large[i] == 5, "what is reallocated keeps its contents");
        }
    }
    free(large);
    long most = resident_mb();
    for (int at = 0; at < made; at++) {
        check(at);
        if (at % 50 != 0) {
            free(objects[at]);
            objects[at] = NULL;
        }
    }
    malloc_trim(0);
    malloc_trim(0);
    long least = resident_mb();
    /* What was there before is there again, and what stayed is as it was. */
    for (int at = 0; at < made; at++) {
        if (!objects[at]) {
            expect((objects[at] = malloc(size_of(at))) != NULL, "memory can be had again");
            memset(objects[at], at, size_of(at));
        }
    }
    for (int at = 0; at < made; at++) {
        check(at);
        free(objects[at]);
    }
    printf("%ld %ld\n", most, least);
    return 0;
}
