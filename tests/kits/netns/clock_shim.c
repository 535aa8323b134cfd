/* Preloaded into a process: the machine seems to have slept for as many seconds as ZKS_TEST_SLEPT
 * holds, a file. Only CLOCK_BOOTTIME goes on while a machine sleeps (clock_gettime(2)). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    const char *path = getenv("ZKS_TEST_SLEPT");
    if (result == 0 && clock == CLOCK_BOOTTIME && path) {
        FILE *file = fopen(path, "r");
        long seconds = 0;
        if (file && fscanf(file, "%ld", &seconds) == 1)
            time->tv_sec += seconds;
        if (file)
            fclose(file);
    }
    return result;
}
