/* Runs a fuzz target on the files and folders of files that are given, without a fuzzer: for valgrind. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int count;

static int one(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(1 << 20);
    size_t size;
    if (!file || !data)
        return -1;
    size = fread(data, 1, 1 << 20, file);
    fclose(file);
    data = realloc(data, size ? size : 1);
    if (data)
        LLVMFuzzerTestOneInput(data, size);
    free(data);
    count++;
    return 0;
}

int main(int argc, char **argv)
{
    char path[4096];
    int i;
    LLVMFuzzerInitialize(&argc, &argv);
    for (i = 1; i < argc; i++) {
        struct dirent *entry;
        DIR *folder = opendir(argv[i]);
        if (!folder) {
            if (one(argv[i]) != 0) {
                fprintf(stderr, "%s: cannot be read\n", argv[i]);
                return 2;
            }
            continue;
        }
        while ((entry = readdir(folder)))
            if (entry->d_name[0] != '.') {
                snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
                one(path);
            }
        closedir(folder);
    }
    printf("%d inputs\n", count);
    return 0;
}
